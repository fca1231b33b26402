//! The end offsets up to which partitions are read.

use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::Consumer as _;

use super::reading::Client;
use crate::error::ConsumerError;
use crate::group::start::{LogRange, REQUEST, persist, written};

/// Maximum time, for all partitions together, that the audit waits for open transactions. If a
/// producer was killed, the broker aborts its transaction after the producer's
/// `transaction.timeout.ms`, which is a minute by default.
const PATIENCE: Duration = Duration::from_secs(90);

/// The partitions with their end offsets.
#[derive(Debug)]
pub(crate) struct Ends {
    /// All partitions. The end of each is at least the log end offset at the time of the call, unless
    /// the partition is also in `open`.
    pub(crate) partitions: Vec<LogRange>,
    /// The partitions with a lower end, because a transaction is still open.
    pub(crate) open: Vec<LogRange>,
}

/// Waits until the transactions of all records that are now in the partitions are committed or
/// aborted, but not longer than [`PATIENCE`] and not after a shutdown. Returns the partitions with
/// their ends.
///
/// Kafka acknowledges a commit before it has written the commit markers to all partitions. The last
/// records of a producer that has just exited may therefore not be readable yet with `read_committed`.
///
/// # Errors
/// Returns an error if Kafka does not report the end offsets.
pub(crate) fn wait_for_open_transactions(
    consumer: &Client,
    kafka: &KafkaOptions,
    partitions: Vec<LogRange>,
    shutdown: &Shutdown,
) -> Result<Ends, ConsumerError> {
    let goals = written(kafka, partitions.clone(), shutdown)?;
    let begun = Instant::now();
    let mut ends = Ends {
        partitions,
        open: Vec::new(),
    };
    for (range, goal) in ends.partitions.iter_mut().zip(goals) {
        let (topic, partition) = (&range.name.topic, range.name.partition);
        let doing = format!("reading the end offset of {topic}, partition {partition}");
        if range.end < goal.end {
            tracing::info!(
                topic,
                partition,
                last_stable_offset = range.end,
                "a transaction is open; waiting until it completes"
            );
        }
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        while range.end < goal.end {
            let request = || consumer.fetch_watermarks(topic, partition, REQUEST);
            (range.low, range.end) = persist(&doing, shutdown, request)?;
            let timed_out = begun.elapsed() >= PATIENCE;
            if range.end < goal.end && (timed_out || !backoff.sleep_blocking(shutdown)) {
                ends.open.push(range.clone());
                break;
            }
        }
    }
    Ok(ends)
}
