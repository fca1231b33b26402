//! The heartbeats of a member of a consumer group.
//!
//! A member learns of a rebalance with the answer to a heartbeat, and a partition that moves has no
//! owner until all members have learned of it. By default librdkafka sends a heartbeat every 3
//! seconds. It sends them from its main thread, which wakes up only once a second if it has no other
//! work (2.12, `rd_kafka_thread_main`), so a shorter interval alone has little effect.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// The interval of heartbeats in milliseconds: the value of `heartbeat.interval.ms`.
pub const HEARTBEAT_MS: &str = "250";
const INTERVAL: Duration = Duration::from_millis(250);

/// Keeps a member's heartbeats at their interval. The loop that polls the client calls it.
#[derive(Debug)]
pub struct Heartbeat {
    last: Instant,
}

impl Heartbeat {
    /// Creates one whose first heartbeat is due after the interval.
    #[must_use]
    pub fn new() -> Self {
        Self {
            last: Instant::now(),
        }
    }

    /// Wakes the client's main thread if a heartbeat is due.
    pub fn wake_if_due<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            // The main thread answers this request, and sends the heartbeat before it sleeps again.
            drop(consumer.assignment());
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}
