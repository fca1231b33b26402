//! The latency of entries in three parts, as one histogram.

use std::time::{Duration, Instant};

use oplog_relay_runtime::metrics::registered;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry, exponential_buckets};

/// The part before the consumer has the batch: from the `wall` of its last entry until the first
/// record of its chunk is taken from the Kafka client. Its accuracy depends on the clocks of both
/// machines, and the source writes `wall` in milliseconds.
const READ: &str = "read";
/// The part between the Kafka client and the worker: from that time until the worker begins to
/// apply the batch.
const QUEUE: &str = "queue";
/// The part in the worker: from that time until the destination has the batch and Kafka has its
/// dead letters.
const APPLY: &str = "apply";

/// The smallest bucket, in seconds. Each bucket is half as large again as the one before it.
const FIRST_BUCKET: f64 = 0.000_2;
const BUCKET_FACTOR: f64 = 1.5;
const BUCKETS: usize = 28;

/// The time at which the first record of a chunk was taken from the Kafka client.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The time.
    pub at: Instant,
    /// The same time by the wall clock, in milliseconds since 1970.
    pub at_ms: i64,
}

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
        let options = HistogramOpts::new(
            "oplog_consumer_latency_seconds",
            "Time that a batch of entries takes, by part: read (from the wall time of its last \
             entry), queue and apply.",
        )
        .buckets(exponential_buckets(FIRST_BUCKET, BUCKET_FACTOR, BUCKETS)?);
        let parts = registered(registry, HistogramVec::new(options, &["part"])?)?;
        let part = |name: &str| parts.with_label_values(&[name]);
        Ok(Self {
            read: part(READ),
            queue: part(QUEUE),
            apply: part(APPLY),
        })
    }

    /// Records the parts of a batch that was applied. `wall` is that of its last entry, in
    /// milliseconds; `begun` is the time at which the worker began to apply it.
    pub fn observe(&self, taken: Taken, wall: Option<i64>, begun: Instant) {
        if let Some(wall) = wall {
            let millis = u64::try_from(taken.at_ms.saturating_sub(wall)).unwrap_or_default();
            self.read
                .observe(Duration::from_millis(millis).as_secs_f64());
        }
        let queued = begun.saturating_duration_since(taken.at);
        self.queue.observe(queued.as_secs_f64());
        self.apply.observe(begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_gets_the_time_between_two_hand_overs() {
        let latency = Latency::register(&Registry::new()).unwrap();
        let now = Instant::now();
        let taken = Taken {
            at: now,
            at_ms: 1_040,
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
