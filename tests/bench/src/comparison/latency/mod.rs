//! The latency of an entry from its commit at the source until a `read_committed` reader has it, and
//! until it is in the target.
//!
//! The stub commits entries at an even rate, each with its commit time in `wall`, and the tail is
//! always caught up. All processes have the same clock. The baseline is a producer that does nothing
//! but put each reply of the source into one Kafka transaction.
//!
//! | file | holds |
//! | --- | --- |
//! | `plain` | the baseline |
//! | `parts` | the histograms with which the programs report where the time goes |
//! | `times` | the latencies of one reader: quantiles, and the worst second |

mod parts;
pub(super) mod plain;
mod times;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use rdkafka::Message;
use rdkafka::error::KafkaError;

use super::CASE;
use super::case::{Case, Place};
use super::options::Options;
use super::sample::peak_kib;
use super::scene::Scene;
use super::verdict::{MOST_MIB, at_most};
use super::{target, topic};
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};
use parts::Parts;
use times::now_millis;
pub(super) use times::{Span, Times};

const PREFIX: &str = "latency";
/// Time until the topic exists, the first transactions are committed and all code has run once.
const SETTLING: Duration = Duration::from_secs(3);
/// The longest time that starting takes.
const STARTED_WITHIN: Duration = Duration::from_secs(20);
const SILENT: Duration = Duration::from_secs(30);
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
        let source = self.source()?;
        let timing = StubProcess::timing()?;
        let place = Place {
            target: timing.uri(),
            ..self.place(&source, PREFIX)
        };
        topic::create(&place)?;
        let leased = [Port::lease()?, Port::lease()?];
        let ports = [leased[0].number(), leased[1].number()];
        let http = ports.map(|port| format!("--http=127.0.0.1:{port}"));
        let mut producer = Case::Bson.start_producer(&place, &[&http[0]])?;
        let mut consumer = Case::ReplayInserts.start_consumer(&place, &[&http[1]])?;
        for (program, case) in [(&producer, Case::Bson), (&consumer, Case::ReplayInserts)] {
            wait_until("the programs", STARTED_WITHIN, || {
                let log = program.stderr_text();
                log.is_ok_and(|log| log.contains(case.mark()))
            })?;
        }
        let before = Parts::read(ports);
        let span = self.span();
        let read = self.read(&place, &span)?;
        let parts = Parts::read(ports).since(&before);
        let applied = target::timing(timing.uri(), &span)?;
        let peak = peak_kib(producer.id()).context("the producer is gone")? as f64 / 1024.0;
        for program in [&mut producer, &mut consumer] {
            program.terminate()?;
            program.wait(STARTED_WITHIN)?;
        }
        self.scene.remove(PREFIX)?;
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
        let topics = [(topic::name(place), i32::try_from(self.partitions)?)];
        let consumer = topic::reader(place.brokers, &topics)?;
        let mut times = Times::default();
        let mut last = Instant::now();
        loop {
            ensure!(last.elapsed() < SILENT, "no record arrives");
            let message = match consumer.poll(Duration::from_millis(100)) {
                None | Some(Err(KafkaError::PartitionEOF(_))) => continue,
                Some(message) => message?,
            };
            let now = now_millis();
            last = Instant::now();
            let entry = Entry::parse(Document::new(message.payload().context("no value")?)?)?;
            let Some(wall) = entry.wall else {
                bail!("an entry without wall");
            };
            if span.is_over(wall) {
                return Ok(times);
            }
            if span.includes(wall) {
                times.add(wall, now - wall as f64);
            }
        }
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
