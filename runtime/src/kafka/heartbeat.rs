//! The heartbeats of a member of a consumer group.
//!
//! A member learns of a rebalance with the answer to a heartbeat, and a partition that moves has no
//! owner until all members have learned of it. By default librdkafka sends a heartbeat every 3
//! seconds. It sends them from its main thread, which wakes up only once a second if it has no other
//! work (2.12, `rd_kafka_thread_main`), so a shorter interval alone has little effect.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// The shortest interval of heartbeats in milliseconds: the value of `heartbeat.interval.ms`. The
/// client sends one whenever its main thread wakes up and the last one is at least this old.
pub const HEARTBEAT_MS: &str = "50";
/// The interval at which the main thread is woken.
const INTERVAL: Duration = Duration::from_millis(250);
/// The interval after a rebalance. In the cooperative protocol a partition that moves is revoked in
/// one rebalance and assigned in the next, which begins as soon as it is revoked.
const QUICK_INTERVAL: Duration = Duration::from_millis(50);
/// The time after a rebalance in which another one is likely.
const QUICK_FOR: Duration = Duration::from_secs(5);

/// Keeps a member's heartbeats at their interval. The loop that polls the client calls it.
#[derive(Debug)]
pub struct Heartbeat {
    last: Instant,
    quick_until: Instant,
}

impl Heartbeat {
    /// Creates one whose first heartbeat is due after the interval.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            last: now,
            quick_until: now,
        }
    }

    /// Shortens the interval for a few seconds. Called at the end of a rebalance.
    pub fn quicken(&mut self) {
        self.quick_until = Instant::now() + QUICK_FOR;
    }

    /// Returns the time that may pass between two calls of [`Self::wake_if_due`].
    #[must_use]
    pub fn interval(&self) -> Duration {
        if Instant::now() < self.quick_until {
            QUICK_INTERVAL
        } else {
            INTERVAL
        }
    }

    /// Wakes the client's main thread if a heartbeat is due.
    pub fn wake_if_due<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        if self.last.elapsed() >= self.interval() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_quick_for_some_seconds_after_a_rebalance() {
        let mut heartbeat = Heartbeat::new();
        assert_eq!(heartbeat.interval(), INTERVAL);
        heartbeat.quicken();
        assert_eq!(heartbeat.interval(), QUICK_INTERVAL);
        heartbeat.quick_until = Instant::now();
        assert_eq!(heartbeat.interval(), INTERVAL);
    }
}
