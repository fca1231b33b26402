//! Up to where partitions are read.

use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::Consumer as _;

use super::reading::Client;
use crate::error::ConsumerError;
use crate::group::start::{Held, REQUEST, persist, written};

/// How long transactions are waited for. A broker aborts the one of a producer that was killed
/// after the producer's `transaction.timeout.ms`, a minute by default.
const PATIENCE: Duration = Duration::from_secs(90);

/// The partitions with their ends.
#[derive(Debug)]
pub(crate) struct Ends {
    /// All of them. The end is the one that was written when this was asked, or a later one.
    pub(crate) partitions: Vec<Held>,
    /// Those whose end is an earlier one: a transaction stays open there.
    pub(crate) open: Vec<Held>,
}

/// Waits until all that the partitions hold now is committed or aborted. A commit is answered
/// before the partitions know of it: right after a producer's end, what it wrote last may not be
/// there yet for a reader of committed records.
///
/// # Errors
/// When Kafka does not tell the ends.
pub(crate) fn settled(
    consumer: &Client,
    kafka: &KafkaOptions,
    partitions: Vec<Held>,
    shutdown: &Shutdown,
) -> Result<Ends, ConsumerError> {
    let goals = written(kafka, partitions.clone(), shutdown)?;
    let begun = Instant::now();
    let mut ends = Ends {
        partitions,
        open: Vec::new(),
    };
    for (held, goal) in ends.partitions.iter_mut().zip(goals) {
        let (topic, partition) = (&held.name.topic, held.name.partition);
        let doing = format!("reading the end of {topic}, partition {partition}");
        if held.end < goal.end {
            tracing::info!(
                topic,
                partition,
                from = held.end,
                "a transaction is open; waiting for its end"
            );
        }
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        while held.end < goal.end {
            let request = || consumer.fetch_watermarks(topic, partition, REQUEST);
            (held.low, held.end) = persist(&doing, shutdown, request)?;
            let is_late = begun.elapsed() >= PATIENCE;
            if held.end < goal.end && (is_late || !backoff.sleep_blocking(shutdown)) {
                ends.open.push(held.clone());
                break;
            }
        }
    }
    Ok(ends)
}
