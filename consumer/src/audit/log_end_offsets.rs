//! The end offsets up to which partitions are read.

use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::Consumer as _;

use super::reading::Client;
use crate::error::ConsumerError;
use crate::group::start::{Held, REQUEST, persist, written};

/// Time limit for open transactions. A broker aborts the transaction of a producer that was killed
/// after the producer's `transaction.timeout.ms`, a minute by default.
const PATIENCE: Duration = Duration::from_secs(90);

/// The partitions with their end offsets.
#[derive(Debug)]
pub(crate) struct Ends {
    /// All partitions. Each end is at least the log end offset at the time of the call, unless the
    /// partition is in `open`.
    pub(crate) partitions: Vec<Held>,
    /// The partitions with a lower end, in which a transaction stays open.
    pub(crate) open: Vec<Held>,
}

/// Waits until all records that the partitions hold now are committed or aborted. Kafka confirms a
/// commit before all partitions know of it. Right after the end of a producer, its last records may
/// therefore not be readable yet with `read_committed`.
///
/// # Errors
/// Returns an error if Kafka does not report the ends.
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
