//! The latency of an entry from its commit at the source until a `read_committed` reader has it,
//! and until it is in the target.
//!
//! The stub commits entries at an even rate, each with its commit time in `wall`, and the tail is
//! always caught up. All processes have the same clock. The baseline is a producer that only puts
//! each reply of the source into a Kafka transaction.
//!
//! | file | holds |
//! | --- | --- |
//! | `plain` | the baseline |
//! | `pair` | both programs, between a source at an even rate and a target that measures times |
//! | `reader` | the `read_committed` reader |
//! | `steady` | the worst seconds of a longer time in which topics, commands and rebalances occur |
//! | `parts` | the histograms with which the programs report where the time goes |
//! | `times` | the latencies of one reader: quantiles, and the worst second |

mod pair;
mod parts;
pub(super) mod plain;
mod reader;
pub(super) mod steady;
mod times;

use std::time::Duration;

use anyhow::{Context, Result};

use super::CASE;
use super::case::Place;
use super::options::Options;
use super::scene::Scene;
use super::topic;
use super::verdict::{MOST_MIB, at_most};
use oplog_relay_kit::services::Program;
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};
use pair::Pair;
use parts::Parts;
use reader::Reader;
use times::{Span, Times};

const PREFIX: &str = "latency";
/// Time until the topic exists, the first transactions are committed and all code has run once.
const SETTLING: Duration = Duration::from_secs(3);
/// The longest time that starting takes.
const STARTED_WITHIN: Duration = Duration::from_secs(20);
/// A latency also meets its goal if it is at most this multiple of the plain producer's.
const MOST_RATIO: f64 = 1.3;

/// The goals for the latency to the reader or to the target, in milliseconds. They are the same at
/// every rate.
struct Goals {
    p50: f64,
    p99: f64,
}

const TO_READER: Goals = Goals {
    p50: 15.0,
    p99: 60.0,
};
const TO_TARGET: Goals = Goals {
    p50: 20.0,
    p99: 80.0,
};

/// Measures the latency with the first number of partitions at each rate, and returns the report.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let partitions = *options.partitions.first().context("partitions")?;
    let rates: Result<Vec<String>> = options
        .latency_rates
        .iter()
        .map(|&rate| {
            let run = Run {
                scene,
                partitions,
                rate,
                span: options.latency,
            };
            run.measure()
        })
        .collect();
    Ok(rates?.join("\n\n"))
}

/// The measurement at one rate.
struct Run<'r> {
    scene: &'r Scene,
    partitions: u32,
    rate: u64,
    span: Duration,
}

impl Run<'_> {
    fn measure(&self) -> Result<String> {
        let plain = self.measure_plain()?;
        let mut lines = vec![
            format!(
                "latency at {} entries a second for {:.0} s, caught up, {} partitions",
                self.rate,
                self.span.as_secs_f64(),
                self.partitions
            ),
            plain.line("plain transactions, to a read_committed reader"),
        ];
        lines.extend(self.measure_pair(&plain)?);
        Ok(lines.join("\n"))
    }

    fn source(&self) -> Result<StubProcess> {
        let seconds = (STARTED_WITHIN + SETTLING + self.span).as_secs();
        let recipe = Recipe {
            per_second: self.rate,
            ..Recipe::new(seconds * self.rate, Shape::Inserts)
        };
        StubProcess::start(&recipe, Flow::Live)
    }

    fn place<'p>(&'p self, source: &'p StubProcess, prefix: &str) -> Place<'p> {
        self.scene.place(source, prefix, self.partitions, 0)
    }

    /// Measures the baseline.
    fn measure_plain(&self) -> Result<Times> {
        let source = self.source()?;
        let place = self.place(&source, "plain");
        topic::create(&place)?;
        let name = topic::name(&place);
        topic::create_more(&place, &plain::place_topic(&name))?;
        let partitions = self.partitions.to_string();
        let arguments = [
            CASE,
            plain::NAME,
            place.source,
            place.brokers,
            &name,
            &partitions,
        ];
        let program = Program::start("bench", arguments, &[])?;
        let times = self.read(&place, &self.span());
        let times = times.with_context(|| program.stderr_text().unwrap_or_default())?;
        drop(program);
        self.scene.remove("plain")?;
        Ok(times)
    }

    fn span(&self) -> Span {
        Span::starting_in(SETTLING, self.span)
    }

    /// Measures both programs together, and returns the report.
    fn measure_pair(&self, plain: &Times) -> Result<Vec<String>> {
        let pair = Pair::start(self.scene, self.source()?, PREFIX, self.partitions)?;
        let before = Parts::read(pair.ports());
        let span = self.span();
        let read = self.read(&pair.place(), &span)?;
        let parts = Parts::read(pair.ports()).since(&before);
        let peak = pair.producer_peak_mib()?;
        let inserts = pair.stop()?;
        let mut applied = Times::default();
        for insert in inserts {
            if span.includes(insert.ordered) {
                applied.add(insert.ordered, f64::from(insert.micros) / 1000.0);
            }
        }
        let mut lines = vec![
            read.line("oplog-producer, to a read_committed reader"),
            applied.line("oplog-producer and oplog-consumer, to the target"),
        ];
        lines.extend(parts.lines());
        lines.extend(goals("reader", &read, plain, &TO_READER));
        lines.extend(goals("target", &applied, plain, &TO_TARGET));
        lines.push(at_most("producer, peak", peak, MOST_MIB, "MiB"));
        Ok(lines)
    }

    /// Returns the latencies of the entries that were committed within the span.
    fn read(&self, place: &Place<'_>, span: &Span) -> Result<Times> {
        Reader::open(place)?.read(span, || Ok(()))
    }
}

/// Formats the latencies to the reader or to the target beside their goals.
fn goals(way: &str, times: &Times, plain: &Times, goals: &Goals) -> [String; 2] {
    [(50, goals.p50), (99, goals.p99)].map(|(percent, goal)| {
        let limit = goal.max(plain.quantile(percent) * MOST_RATIO);
        let what = format!("{way}, p{percent}");
        at_most(&what, times.quantile(percent), limit, "ms")
    })
}
