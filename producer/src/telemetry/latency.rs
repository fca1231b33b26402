//! The parts of an entry's way through the producer, as one histogram.

use std::time::Instant;

use oplog_relay_runtime::metrics::PartHistograms;
use prometheus::{Histogram, Registry};

use crate::encode::chunk::HandedOver;

/// The part before the producer has the entry: from its `wall` until the reply with it is taken from
/// the source's queue. It is only as exact as the clocks of both machines and the milliseconds of `wall`.
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

/// The times at which a chunk was handed over, and the time of its last entry.
#[derive(Debug, Clone, Copy)]
pub struct ChunkTimes {
    /// `wall` of the last entry, in milliseconds; 0 if unknown.
    pub wall: i64,
    /// The hand-overs from the source to the publisher's queue.
    pub handed: HandedOver,
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
        let parts = PartHistograms::register(
            registry,
            "oplog_producer_latency_seconds",
            "Time that a chunk of entries takes, by part: read (from the wall time of its last \
             entry), encode, queue, delivery, position and commit.",
        )?;
        Ok(Self {
            read: parts.part(READ),
            encode: parts.part(ENCODE),
            queue: parts.part(QUEUE),
            delivery: parts.part(DELIVERY),
            position: parts.part(POSITION),
            commit: parts.part(COMMIT),
        })
    }

    /// Records the parts of one chunk of a committed transaction.
    pub(super) fn observe(&self, chunk: &ChunkTimes, commit: &CommitTimes) {
        let HandedOver { received, encoded } = chunk.handed;
        if chunk.wall > 0 {
            let read = received.since_wall(chunk.wall);
            self.read.observe(read.as_secs_f64());
        }
        for (part, begun, ended) in [
            (&self.encode, received.at, encoded),
            (&self.queue, encoded, chunk.sent),
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
    use std::time::Duration;

    use oplog_relay_runtime::clock::TimePoint;

    use super::*;

    #[test]
    fn each_part_gets_the_time_between_two_hand_overs() {
        let latency = Latency::register(&Registry::new()).unwrap();
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let chunk = ChunkTimes {
            wall: 1_000,
            handed: HandedOver {
                received: TimePoint {
                    at: at(0),
                    wall_ms: 1_040,
                },
                encoded: at(1),
            },
            sent: at(3),
        };
        let commit = CommitTimes {
            delivered: at(8),
            positioned: at(18),
            answered: at(38),
        };
        latency.observe(&chunk, &commit);
        // Without `wall` the first part is unknown.
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
