//! Speed and memory with a growing number of partitions, of collections and of entries. All three
//! axes start from a common point.
//!
//! At each point `oplog-producer` sends the entries to Kafka (`bson`), and `oplog-consumer emit`
//! reads them from there. The plain clients, `loop` and `consume`, are measured at the same
//! points, because more partitions slow down the broker and librdkafka there as well. All topics
//! are created before a measurement, because the cost of creating a topic does not depend on what
//! is written to it. The reported value is the median of as many rounds as the cases have. Points
//! with more entries than the common one have one round.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use super::case::{Case, Place};
use super::measure::Measured;
use super::options::Options;
use super::scene::Scene;
use super::svg::{Chart, Series};
use super::table::middle;
use super::topic;
use super::verdict::{MOST_MIB, at_least, at_most};
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

/// Number of partitions at the common point.
const PARTITIONS: u32 = 4;
/// The largest ratio of the highest memory to that of the common point at which memory counts as
/// flat.
const FLAT: f64 = 1.25;

/// The amount of work of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    partitions: u32,
    collections: u64,
    entries: u64,
}

/// One direction of growth.
struct Axis {
    name: &'static str,
    /// The minimum speed at the largest amount, relative to the speed at the common point.
    least: f64,
    points: Vec<Point>,
    amount: fn(&Point) -> f64,
}

/// The outcome at a point.
#[derive(Debug)]
struct Outcome {
    point: Point,
    producer: Measured,
    straight: Measured,
    consumer: Measured,
    consume: Measured,
}

/// All outcomes.
#[derive(Debug)]
struct Growth {
    base: Point,
    outcomes: Vec<Outcome>,
}

/// A function that returns one figure of an outcome.
type Of = fn(&Outcome) -> &Measured;

/// A measured program, with its name and figures, and the figures of the plain client.
struct Program {
    name: &'static str,
    ours: Of,
    plain: (&'static str, Of),
}

const PROGRAMS: [Program; 2] = [
    Program {
        name: "producer",
        ours: |outcome| &outcome.producer,
        plain: ("loop", |outcome| &outcome.straight),
    },
    Program {
        name: "consumer",
        ours: |outcome| &outcome.consumer,
        plain: ("consume", |outcome| &outcome.consume),
    },
];

/// Measures all points, and returns the text and the curves.
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
    // A broker that has just started is slower by a third, and all other points are compared with
    // the first one. So that one is run once without being counted.
    run(scene, base, 0..=0)?;
    for point in std::iter::once(&base).chain(axes.iter().flat_map(|axis| &axis.points)) {
        if growth.at(point).is_none() {
            let rounds = match point.entries > base.entries {
                true => 1,
                false => options.rounds,
            };
            growth.outcomes.push(run(scene, *point, 1..=rounds)?);
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

fn run(scene: &Scene, point: Point, rounds: RangeInclusive<u32>) -> Result<Outcome> {
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
    let mut all: [Vec<Measured>; 4] = Default::default();
    for round in rounds {
        let prefix = format!("growth-{partitions}-{collections}-{entries}-{round}");
        let place = |prefix: &str| Place {
            collections,
            ..scene.place(&source, prefix, partitions, entries)
        };
        let plain = place(&format!("{prefix}-loop"));
        let straight = scene.run(Case::Loop, &plain, source.id())?;
        scene.remove(&plain.prefix)?;
        let place = place(&prefix);
        topic::create(&place)?;
        let producer = scene.run(Case::Bson, &place, source.id())?;
        let consume = scene.run(Case::Consume, &place, source.id())?;
        let consumer = scene.run(Case::EmitBson, &place, source.id())?;
        scene.remove(&prefix)?;
        let round = [straight, producer, consume, consumer];
        let took = round.map(|measured| format!("{:.2?}", measured.total));
        eprintln!("{prefix}: {}", took.join(", "));
        for (rounds, measured) in all.iter_mut().zip(round) {
            rounds.push(measured);
        }
    }
    let [straight, producer, consume, consumer] = all.map(|rounds| middle(&rounds));
    Ok(Outcome {
        point,
        producer,
        straight,
        consumer,
        consume,
    })
}

impl Growth {
    fn at(&self, point: &Point) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.point == *point)
    }

    fn text(&self, axes: &[Axis]) -> Result<String> {
        let mut text = format!(
            "{:>10} {:>11} {:>8}",
            "partitions", "collections", "entries"
        );
        for Program { name, plain, .. } in &PROGRAMS {
            write!(
                text,
                " {:>9} {name:>9} {:>5} {:>4}",
                plain.0, "ratio", "MiB"
            )?;
        }
        text.push('\n');
        for outcome in &self.outcomes {
            let Point {
                partitions,
                collections,
                entries,
            } = outcome.point;
            write!(text, "{partitions:>10} {collections:>11} {entries:>8}")?;
            for Program { ours, plain, .. } in &PROGRAMS {
                let (ours, plain) = (ours(outcome), plain.1(outcome).rate());
                let ratio = ours.rate() / plain;
                write!(
                    text,
                    " {plain:>9.0} {:>9.0} {ratio:>5.2} {:>4.0}",
                    ours.rate(),
                    ours.peak_mib()
                )?;
            }
            text.push('\n');
        }
        for program in &PROGRAMS {
            for axis in axes {
                text.push_str(&self.verdict(program, axis)?);
            }
            text.push_str(&self.memory(program)?);
        }
        Ok(text.trim_end().to_owned())
    }

    /// Formats the share of the speed that remains at the end of an axis, for the program beside
    /// its goal, and for the plain client.
    fn verdict(&self, program: &Program, axis: &Axis) -> Result<String> {
        let base = self.at(&self.base).context("the common point")?;
        let last = axis.points.last().context("no point")?;
        let outcome = self.at(last).context("its outcome")?;
        let kept = |of: Of| of(outcome).rate() / of(base).rate();
        let (most, usual) = ((axis.amount)(last), (axis.amount)(&self.base));
        let Program { name, ours, plain } = program;
        let what = format!("{name}: {most} against {usual} {}", axis.name);
        Ok(format!(
            "{}; {} {:.2}\n",
            at_least(&what, kept(*ours), axis.least),
            plain.0,
            kept(plain.1)
        ))
    }

    /// Formats the highest peak memory of all points, and its ratio to that of the common point,
    /// beside their goals.
    fn memory(&self, program: &Program) -> Result<String> {
        let base = self.at(&self.base).context("the common point")?;
        let Program { name, ours, .. } = program;
        let peaks = self.outcomes.iter().map(|outcome| ours(outcome).peak_mib());
        let highest = peaks.fold(0.0, f64::max);
        let grown = highest / ours(base).peak_mib().max(1.0);
        Ok(format!(
            "{}\n{}\n",
            at_most(&format!("{name}: highest peak"), highest, MOST_MIB, "MiB"),
            at_most(
                &format!("{name}: highest peak against the common point"),
                grown,
                FLAT,
                ""
            ),
        ))
    }

    /// Returns the curves of an axis: of speed, with those of the plain clients, or of memory.
    fn chart(&self, axis: &Axis, of_speed: bool) -> Chart {
        let curve = |name: &'static str, of: Of| {
            let outcomes = axis.points.iter().filter_map(|point| self.at(point));
            let figure = |outcome: &Outcome| match of_speed {
                true => of(outcome).rate(),
                false => of(outcome).peak_mib(),
            };
            let points = outcomes.map(|outcome| ((axis.amount)(&outcome.point), figure(outcome)));
            Series {
                name,
                points: points.collect(),
            }
        };
        let ours = PROGRAMS
            .iter()
            .map(|program| curve(program.name, program.ours));
        let plain = PROGRAMS
            .iter()
            .map(|program| curve(program.plain.0, program.plain.1));
        Chart {
            across: axis.name,
            up: if of_speed {
                "entries/s"
            } else {
                "peak memory, MiB"
            },
            series: match of_speed {
                true => ours.chain(plain).collect(),
                false => ours.collect(),
            },
        }
    }
}
