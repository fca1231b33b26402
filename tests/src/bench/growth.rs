//! What becomes of speed and memory as the work grows: over partitions, over collections, and over
//! entries, from one point on that all three share.
//!
//! At each point `oplog-producer` carries the entries into Kafka (`bson`), and `oplog-consumer emit`
//! reads them from there. Told is the middle of as many rounds as the cases have; points with more
//! entries than the common one, which differ less between rounds, have one.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::case::Case;
use super::measure::Measured;
use super::options::Options;
use super::scene::Scene;
use super::svg::{Chart, Series};
use super::table::middle;
use super::verdict::{MOST_MIB, at_least, at_most};
use crate::stub::{Flow, Recipe, Shape, StubProcess};

/// The partitions of the common point.
const PARTITIONS: u32 = 4;
/// Memory counts as flat if it is nowhere above so much of what it is at the common point.
const FLAT: f64 = 1.25;

/// How much work there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    partitions: u32,
    collections: u64,
    entries: u64,
}

/// One direction of growth.
struct Axis {
    name: &'static str,
    /// What the largest amount keeps of the common point's speed, at least.
    least: f64,
    points: Vec<Point>,
    amount: fn(&Point) -> f64,
}

/// The outcome at a point.
#[derive(Debug)]
struct Outcome {
    point: Point,
    producer: Measured,
    consumer: Measured,
}

/// All outcomes.
#[derive(Debug)]
struct Growth {
    base: Point,
    outcomes: Vec<Outcome>,
}

/// Who is measured, with the name and the figures.
type Program = (&'static str, fn(&Outcome) -> &Measured);
const PROGRAMS: [Program; 2] = [
    ("producer", |outcome| &outcome.producer),
    ("consumer", |outcome| &outcome.consumer),
];

/// Measures all points; the text, and the curves.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<(String, Vec<Chart>)> {
    let base = Point {
        partitions: PARTITIONS,
        collections: 1,
        entries: options.entries,
    };
    let axes = axes(base, options);
    let mut growth = Growth {
        base,
        outcomes: Vec::new(),
    };
    // A broker that just started is slower by a third, and the first point is what all others are
    // compared with.
    run(scene, base, 1)?;
    for point in std::iter::once(&base).chain(axes.iter().flat_map(|axis| &axis.points)) {
        if growth.at(point).is_none() {
            let rounds = if point.entries > base.entries {
                1
            } else {
                options.rounds
            };
            growth.outcomes.push(run(scene, *point, rounds)?);
        }
    }
    let charts = axes.iter().map(|axis| growth.chart(axis, true));
    let charts = charts.chain(axes.iter().map(|axis| growth.chart(axis, false)));
    Ok((growth.text(&axes)?, charts.collect()))
}

fn axes(base: Point, options: &Options) -> [Axis; 3] {
    let partitions = options.growth_partitions.iter();
    let collections = options.growth_collections.iter();
    let most = options.growth_entries;
    let mut entries = vec![base.entries / 10, base.entries, most / 3, most];
    entries.retain(|entries| *entries > 0 && (*entries != most / 3 || *entries > base.entries));
    entries.sort_unstable();
    entries.dedup();
    let entries = entries.into_iter();
    [
        Axis {
            name: "partitions",
            least: 0.9,
            points: partitions
                .map(|&partitions| Point { partitions, ..base })
                .collect(),
            amount: |point| f64::from(point.partitions),
        },
        Axis {
            name: "collections of 4 partitions",
            least: 0.8,
            points: collections
                .map(|&collections| Point {
                    collections,
                    ..base
                })
                .collect(),
            amount: |point| point.collections as f64,
        },
        Axis {
            name: "entries",
            least: 0.95,
            points: entries.map(|entries| Point { entries, ..base }).collect(),
            amount: |point| point.entries as f64,
        },
    ]
}

fn run(scene: &Scene, point: Point, rounds: u32) -> Result<Outcome> {
    let Point {
        partitions,
        collections,
        entries,
    } = point;
    let recipe = Recipe {
        collections,
        ..Recipe::new(entries, Shape::Inserts)
    };
    let source = StubProcess::start(&recipe, Flow::Past)?;
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let prefix = format!("growth-{partitions}-{collections}-{entries}-{round}");
        let place = scene.place(&source, &prefix, partitions, entries);
        let producer = scene.run(Case::Bson, &place, source.id())?;
        let consumer = scene.run(Case::EmitBson, &place, source.id())?;
        eprintln!("{prefix}: {:.2?}, {:.2?}", producer.total, consumer.total);
        scene.remove(&prefix)?;
        producers.push(producer);
        consumers.push(consumer);
    }
    Ok(Outcome {
        point,
        producer: middle(&producers),
        consumer: middle(&consumers),
    })
}

impl Growth {
    fn at(&self, point: &Point) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.point == *point)
    }

    fn text(&self, axes: &[Axis]) -> Result<String> {
        let mut text = format!(
            "{:>10} {:>11} {:>10} {:>17} {:>12} {:>15} {:>12}\n",
            "partitions",
            "collections",
            "entries",
            "producer: per s",
            "peak MiB",
            "consumer: per s",
            "peak MiB",
        );
        for Outcome {
            point,
            producer,
            consumer,
        } in &self.outcomes
        {
            writeln!(
                text,
                "{:>10} {:>11} {:>10} {:>17.0} {:>12.0} {:>15.0} {:>12.0}",
                point.partitions,
                point.collections,
                point.entries,
                producer.rate(),
                producer.peak_mib(),
                consumer.rate(),
                consumer.peak_mib(),
            )?;
        }
        let base = self.at(&self.base).context("the common point")?;
        for (name, measured) in PROGRAMS {
            for axis in axes {
                let last = axis.points.last().context("a point")?;
                let outcome = self.at(last).context("its outcome")?;
                let ratio = measured(outcome).rate() / measured(base).rate();
                let (most, usual) = ((axis.amount)(last), (axis.amount)(&self.base));
                let what = format!("{name}: {most} against {usual} {}", axis.name);
                writeln!(text, "{}", at_least(&what, ratio, axis.least))?;
            }
            let peaks = self
                .outcomes
                .iter()
                .map(|outcome| measured(outcome).peak_mib());
            let highest = peaks.fold(0.0, f64::max);
            let grown = highest / measured(base).peak_mib().max(1.0);
            let what = format!("{name}: highest peak");
            writeln!(text, "{}", at_most(&what, highest, MOST_MIB, "MiB"))?;
            let what = format!("{name}: highest peak against the common point");
            writeln!(text, "{}", at_most(&what, grown, FLAT, ""))?;
        }
        Ok(text.trim_end().to_owned())
    }

    /// The curves of an axis: of speed, or of memory.
    fn chart(&self, axis: &Axis, of_speed: bool) -> Chart {
        let curve = |measured: fn(&Outcome) -> &Measured| {
            let outcomes = axis.points.iter().filter_map(|point| self.at(point));
            let figure = |outcome: &Outcome| match of_speed {
                true => measured(outcome).rate(),
                false => measured(outcome).peak_mib(),
            };
            outcomes
                .map(|outcome| ((axis.amount)(&outcome.point), figure(outcome)))
                .collect()
        };
        Chart {
            across: axis.name,
            up: if of_speed {
                "entries/s"
            } else {
                "peak memory, MiB"
            },
            series: PROGRAMS
                .map(|(name, measured)| Series {
                    name,
                    points: curve(measured),
                })
                .to_vec(),
        }
    }
}
