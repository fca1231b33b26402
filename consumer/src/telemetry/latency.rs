//! The latency of entries in three parts, as one histogram.

use std::time::Instant;

use oplog_relay_runtime::clock::TimePoint;
use oplog_relay_runtime::metrics::PartHistograms;
use prometheus::{Histogram, Registry};

/// The part before the consumer has the batch: from the `wall` of its last entry until the first
/// record of its chunk is taken from the Kafka client. Its accuracy depends on the clocks of both
/// machines, and the source writes `wall` in milliseconds.
const READ: &str = "read";
/// The part between the Kafka client and the worker: from the end of `read` until the worker begins
/// to apply the batch.
const QUEUE: &str = "queue";
/// The part in the worker: from the end of `queue` until the destination has the batch and Kafka
/// has its dead letters.
const APPLY: &str = "apply";

/// The histograms of the parts.
#[derive(Debug)]
pub struct Latency {
    read: Histogram,
    queue: Histogram,
    apply: Histogram,
}

impl Latency {
    /// Registers the histograms.
    ///
    /// # Errors
    /// Returns an error if the name is registered twice.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let parts = PartHistograms::register(
            registry,
            "oplog_consumer_latency_seconds",
            "Time that a batch of entries takes, by part: read (from the wall time of its last \
             entry), queue and apply.",
        )?;
        Ok(Self {
            read: parts.part(READ),
            queue: parts.part(QUEUE),
            apply: parts.part(APPLY),
        })
    }

    /// Records the parts of a batch that was applied. `taken` is the time at which the first record of
    /// its chunk was taken from the Kafka client, and `begun` the time at which the worker began to
    /// apply it. `wall` is that of its last entry in milliseconds; without it, `read` is not known.
    pub fn observe(&self, taken: TimePoint, wall: Option<i64>, begun: Instant) {
        if let Some(wall) = wall {
            self.read.observe(taken.since_wall(wall).as_secs_f64());
        }
        let queued = begun.saturating_duration_since(taken.at);
        self.queue.observe(queued.as_secs_f64());
        self.apply.observe(begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_part_gets_the_time_between_two_hand_overs() {
        let latency = Latency::register(&Registry::new()).unwrap();
        let now = Instant::now();
        let taken = TimePoint {
            at: now,
            wall_ms: 1_040,
        };
        let begun = now + Duration::from_secs(3600);
        latency.observe(taken, Some(1_000), begun);
        latency.observe(taken, None, begun);
        assert_eq!(latency.read.get_sample_count(), 1);
        assert!((latency.read.get_sample_sum() - 0.04).abs() < 1e-9);
        assert_eq!(latency.queue.get_sample_count(), 2);
        assert!((latency.queue.get_sample_sum() - 7200.0).abs() < 1e-6);
        assert_eq!(latency.apply.get_sample_count(), 2);
    }
}
