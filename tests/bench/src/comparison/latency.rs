//! The latency of an entry from its commit at the source until a `read_committed` reader has it.
//!
//! The stub commits a thousand entries a second, each with its commit time in `wall`, and the tail
//! is always caught up. Reader and source have the same clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use rdkafka::Message;
use rdkafka::error::KafkaError;

use super::case::Case;
use super::options::Options;
use super::sample::peak_kib;
use super::scene::Scene;
use super::topic;
use super::verdict::{MOST_MIB, at_most};
use oplog_relay_kit::services::wait_until;
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

const PREFIX: &str = "latency";
const PER_SECOND: u64 = 1000;
/// Time until the topic exists, the first transactions are committed and all code has run once.
const SETTLING: Duration = Duration::from_secs(3);
/// The longest time that starting takes.
const STARTED_WITHIN: Duration = Duration::from_secs(30);
const SILENT: Duration = Duration::from_secs(30);
const MOST_P50_MILLIS: f64 = 60.0;
const MOST_P99_MILLIS: f64 = 200.0;

/// Measures the latency with the first number of partitions, and returns the report.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let partitions = *options.partitions.first().context("partitions")?;
    let span = SETTLING + options.latency;
    let seconds = (STARTED_WITHIN + span).as_secs();
    let recipe = Recipe::new(seconds * PER_SECOND, Shape::Inserts);
    let source = StubProcess::start(&recipe, Flow::Live)?;
    let place = scene.place(&source, PREFIX, partitions, recipe.entries);
    topic::create(&place)?;
    let mut producer = Case::Bson.start_producer(&place, &[])?;
    wait_until("a session of the producer", STARTED_WITHIN, || {
        let log = producer.stderr_text();
        log.is_ok_and(|log| log.contains(Case::Bson.mark()))
    })?;
    let topics = [(topic::name(&place), i32::try_from(partitions)?)];
    let taken = read(place.brokers, &topics, options.latency)?;
    let peak = peak_kib(producer.id()).context("the producer is gone")? as f64 / 1024.0;
    producer.terminate()?;
    producer.wait(STARTED_WITHIN)?;
    scene.remove(PREFIX)?;
    Ok(report(taken, peak))
}

/// Returns the latencies, in milliseconds, of the entries that were committed after the settling
/// time.
fn read(brokers: &str, topics: &[(String, i32)], span: Duration) -> Result<Vec<f64>> {
    let consumer = topic::reader(brokers, topics)?;
    let begin = millis()? + SETTLING.as_secs_f64() * 1000.0;
    let end = begin + span.as_secs_f64() * 1000.0;
    let mut taken = Vec::new();
    let mut last = Instant::now();
    loop {
        ensure!(last.elapsed() < SILENT, "no record arrives");
        let message = match consumer.poll(Duration::from_millis(100)) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => continue,
            Some(message) => message?,
        };
        let now = millis()?;
        last = Instant::now();
        let entry = Entry::parse(Document::new(message.payload().context("no value")?)?)?;
        let Some(wall) = entry.wall else {
            bail!("an entry without wall");
        };
        let wall = wall as f64;
        if wall >= end {
            return Ok(taken);
        }
        if wall >= begin {
            taken.push(now - wall);
        }
    }
}

fn millis() -> Result<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_secs_f64() * 1000.0)
}

fn report(mut taken: Vec<f64>, peak: f64) -> String {
    taken.sort_by(f64::total_cmp);
    let lines = [
        format!(
            "latency of {} entries, {PER_SECOND} a second, caught up: source commit to read_committed reader",
            taken.len()
        ),
        at_most("p50", quantile(&taken, 50), MOST_P50_MILLIS, "ms"),
        at_most("p99", quantile(&taken, 99), MOST_P99_MILLIS, "ms"),
        at_most("producer, peak", peak, MOST_MIB, "MiB"),
    ];
    lines.join("\n")
}

/// Returns the smallest value that the given percentage of the sorted values does not exceed.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&values, 50).to_bits(), 100.0_f64.to_bits());
        assert_eq!(quantile(&values, 99).to_bits(), 198.0_f64.to_bits());
        assert!(quantile(&[], 50).is_nan());
    }
}
