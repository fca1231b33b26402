//! The parts of an entry's way through the producer, as one histogram.

use std::time::{Duration, Instant};

use oplog_relay_runtime::metrics::registered;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry, exponential_buckets};

/// The part before the producer has the entry: from its `wall` until the reply with it is taken from
/// the source's queue. It is only as exact as the clocks of both machines and the source's milliseconds.
const READ: &str = "read";
/// The next part, until the encoded records are in the publisher's queue.
const ENCODE: &str = "encode";
/// The next part, until the records are handed to the Kafka client. It includes the previous commit.
const QUEUE: &str = "queue";
/// The next part, until all records of the transaction are delivered.
const DELIVERY: &str = "delivery";
/// The next part, until the position is delivered.
const POSITION: &str = "position";
/// The last part, until the coordinator has acknowledged the commit.
const COMMIT: &str = "commit";

/// Upper bound of the first bucket, in seconds. That of each other bucket is 1.5 times as large as the
/// one before it.
const FIRST_BUCKET: f64 = 0.000_2;
const BUCKET_FACTOR: f64 = 1.5;
const BUCKETS: usize = 28;

/// The times at which a chunk was handed over, and the time of its last entry.
#[derive(Debug, Clone, Copy)]
pub struct ChunkTimes {
    /// `wall` of the last entry, in milliseconds; 0 if unknown.
    pub wall: i64,
    /// Time at which the encoder received the batch.
    pub received: Instant,
    /// The same time by the wall clock, in milliseconds.
    pub received_ms: i64,
    /// Time at which the chunk entered the publisher's queue.
    pub encoded: Instant,
    /// Time at which the records were handed to the Kafka client.
    pub sent: Instant,
}

/// The times of the steps of a commit.
#[derive(Debug, Clone, Copy)]
pub struct CommitTimes {
    /// Time at which all records of the transaction were delivered.
    pub delivered: Instant,
    /// Time at which the position was delivered.
    pub positioned: Instant,
    /// Time at which the coordinator had acknowledged the commit.
    pub answered: Instant,
}

/// The histograms of the parts.
#[derive(Debug)]
pub(super) struct Latency {
    read: Histogram,
    encode: Histogram,
    queue: Histogram,
    delivery: Histogram,
    position: Histogram,
    commit: Histogram,
}

impl Latency {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "oplog_producer_latency_seconds",
            "Time that a chunk of entries spends in each part of its way: read (from the wall time \
             of its last entry), encode, queue, delivery, position and commit.",
        )
        .buckets(exponential_buckets(FIRST_BUCKET, BUCKET_FACTOR, BUCKETS)?);
        let parts = registered(registry, HistogramVec::new(options, &["part"])?)?;
        let part = |name: &str| parts.with_label_values(&[name]);
        Ok(Self {
            read: part(READ),
            encode: part(ENCODE),
            queue: part(QUEUE),
            delivery: part(DELIVERY),
            position: part(POSITION),
            commit: part(COMMIT),
        })
    }

    /// Records the parts of one chunk of a committed transaction.
    pub(super) fn observe(&self, chunk: &ChunkTimes, commit: &CommitTimes) {
        if chunk.wall > 0 {
            let millis =
                u64::try_from(chunk.received_ms.saturating_sub(chunk.wall)).unwrap_or_default();
            self.read
                .observe(Duration::from_millis(millis).as_secs_f64());
        }
        for (part, begun, ended) in [
            (&self.encode, chunk.received, chunk.encoded),
            (&self.queue, chunk.encoded, chunk.sent),
            (&self.delivery, chunk.sent, commit.delivered),
            (&self.position, commit.delivered, commit.positioned),
            (&self.commit, commit.positioned, commit.answered),
        ] {
            part.observe(ended.saturating_duration_since(begun).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_gets_the_time_between_two_hand_overs() {
        let latency = Latency::register(&Registry::new()).unwrap();
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let chunk = ChunkTimes {
            wall: 1_000,
            received: at(0),
            received_ms: 1_040,
            encoded: at(1),
            sent: at(3),
        };
        let commit = CommitTimes {
            delivered: at(8),
            positioned: at(18),
            answered: at(38),
        };
        latency.observe(&chunk, &commit);
        // A source without `wall` tells nothing about the first part.
        let chunk = ChunkTimes { wall: 0, ..chunk };
        latency.observe(&chunk, &commit);
        for (part, count, millis) in [
            (&latency.read, 1, 40.0),
            (&latency.encode, 2, 2.0),
            (&latency.queue, 2, 4.0),
            (&latency.delivery, 2, 10.0),
            (&latency.position, 2, 20.0),
            (&latency.commit, 2, 40.0),
        ] {
            assert_eq!(part.get_sample_count(), count);
            assert!(
                (part.get_sample_sum() * 1000.0 - millis).abs() < 1e-6,
                "{millis}"
            );
        }
    }
}
