//! Limit of the bytes in flight, adjusted to the throughput of the broker.
//!
//! A transaction must end before its timeout; otherwise the coordinator aborts it, and the next session
//! starts at the same checkpoint. Everything that was handed to the client has to be delivered before a
//! commit. So the bytes in flight are limited to what the broker accepts within a part of the timeout,
//! and chunks are no larger, because a commit follows whole chunks. A broker may be slow because of a
//! quota or the network.
//!
//! A broker with a quota accepts a burst at full speed and then nothing for seconds, so the rate of the
//! burst says nothing about the next seconds. For this reason the limit stays below the one with which a
//! transaction expired, and comes back to it only slowly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The transaction timeout divided by this is the time that delivering the bytes in flight may
/// take. The rest is for the time until a commit is due, one more chunk, and the commit itself.
const PART: u32 = 12;
/// Limit of a producer that has not delivered anything yet.
const FIRST_BYTES: u64 = 2 << 20;
/// Lower bound of the limit, so that records of common sizes are not sent one by one to a slow broker.
const LEAST_BYTES: u64 = 64 << 10;
/// Upper bound of the limit, or of the sum of the limits of several sources.
const MOST_BYTES: u64 = 48 << 20;
/// Smallest upper bound of one of several sources.
const LEAST_SHARE: u64 = 2 << 20;
/// Number of transaction timeouts after which the upper bound that an expired transaction has set is
/// doubled, so that attempts with a higher limit cost at most about a tenth of the time.
const TIMEOUTS_UNTIL_DOUBLED: u32 = 10;

/// A limit of the bytes in flight. Clones share it; it outlives sessions.
#[derive(Debug, Clone)]
pub struct Pace {
    bytes: Arc<AtomicU64>,
    sample: Arc<Mutex<Sample>>,
    ceiling: Arc<Mutex<Option<Ceiling>>>,
    /// Maximum time for delivering everything in flight.
    time: Duration,
    /// Upper bound of the limit.
    most: u64,
}

/// Number of bytes delivered since the last adjustment, and the time that the publisher waited for
/// them. Bytes that were only handed to the client tell nothing about the broker.
#[derive(Debug, Default, Clone, Copy)]
struct Sample {
    bytes: u64,
    waited: Duration,
}

/// Upper bound of the limit after a transaction has expired.
#[derive(Debug, Clone, Copy)]
struct Ceiling {
    bytes: u64,
    set: Instant,
    /// Time until it is doubled.
    holds: Duration,
}

impl Ceiling {
    /// Returns the bound at a later time.
    fn at(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.set).as_micros();
        let doubled = age / self.holds.as_micros().max(1);
        let doubled = u32::try_from(doubled)
            .unwrap_or(u32::MAX)
            .min(u64::BITS / 2);
        self.bytes << doubled
    }
}

impl Pace {
    /// Creates the pace of transactions with the given timeout.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            bytes: Arc::new(AtomicU64::new(FIRST_BYTES)),
            sample: Arc::default(),
            ceiling: Arc::default(),
            time: timeout / PART,
            most: MOST_BYTES,
        }
    }

    /// Divides the upper bound among that many sources, so that a program with several sources needs
    /// as much memory as one with a single source.
    #[must_use]
    pub fn shared_by(mut self, sources: usize) -> Self {
        let sources = u64::try_from(sources.max(1)).unwrap_or(u64::MAX);
        self.most = (MOST_BYTES / sources).max(LEAST_SHARE);
        self
    }

    /// Returns the number of bytes that may be in flight.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the same number as a size of buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        usize::try_from(self.bytes()).unwrap_or(usize::MAX)
    }

    /// Notes that `bytes` more were delivered, and how long the publisher waited because too many were in
    /// flight.
    pub(crate) fn delivered(&self, bytes: u64, waited: Duration) {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.bytes += bytes;
        sample.waited += waited;
        self.judge(&mut sample);
    }

    /// Notes that the last `bytes` were delivered before a commit, and how long the publisher waited for
    /// them. A short wait for few bytes is ignored: it is only the round trip to the broker.
    pub(crate) fn drained(&self, bytes: u64, waited: Duration) {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.bytes += bytes;
        if waited < self.measured() && sample.bytes < self.bytes() / 2 {
            *sample = Sample::default();
            return;
        }
        sample.waited += waited;
        self.judge(&mut sample);
    }

    /// Lowers the limit after a transaction that was aborted at half of its timeout or later, and
    /// keeps it there for a while. `allowed` is the number of bytes that were allowed in flight, which
    /// may be less than the limit. Returns the new limit.
    pub(crate) fn expired(&self, allowed: u64) -> u64 {
        let bytes = (self.bytes().min(allowed) / 2).max(LEAST_BYTES);
        let ceiling = Ceiling {
            bytes,
            set: Instant::now(),
            holds: self.time * PART * TIMEOUTS_UNTIL_DOUBLED,
        };
        *self.ceiling.lock().unwrap_or_else(PoisonError::into_inner) = Some(ceiling);
        self.set(bytes);
        bytes
    }

    /// Returns the shortest waiting time that is sufficient to measure a rate.
    fn measured(&self) -> Duration {
        self.time / 5
    }

    fn judge(&self, sample: &mut Sample) {
        let bytes = self.bytes();
        if sample.waited >= self.measured() {
            let waited = u64::try_from(sample.waited.as_micros()).unwrap_or(u64::MAX);
            let time = u64::try_from(self.time.as_micros()).unwrap_or(u64::MAX);
            let rated = u128::from(sample.bytes) * u128::from(time) / u128::from(waited.max(1));
            self.set(u64::try_from(rated).unwrap_or(u64::MAX).min(bytes * 2));
        } else if sample.bytes >= bytes / 2 {
            // At this rate the broker delivers more than twice as many bytes in time.
            self.set(bytes * 2);
        } else {
            return;
        }
        *sample = Sample::default();
    }

    fn set(&self, bytes: u64) {
        let ceiling = *self.ceiling.lock().unwrap_or_else(PoisonError::into_inner);
        let ceiling = ceiling.map_or(self.most, |ceiling| ceiling.at(Instant::now()));
        let bytes = bytes.min(ceiling).clamp(LEAST_BYTES, self.most);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Simulates a broker that accepts `rate` bytes per second, and delivers as many bytes as are allowed,
    /// repeatedly, with a wait for each quarter of them.
    fn settle(pace: &Pace, rate: u64) -> u64 {
        for _ in 0..200 {
            let bytes = pace.bytes() / 4;
            pace.delivered(bytes, Duration::from_micros(bytes * 1_000_000 / rate));
        }
        pace.bytes()
    }

    #[test]
    fn slow_brokers_get_what_they_deliver_in_a_twelfth_of_the_timeout() {
        for (rate, expected) in [
            (100_000, 500_000),
            (1_000_000, 5_000_000),
            (1_000, LEAST_BYTES),
            (100_000_000, MOST_BYTES),
        ] {
            assert_eq!(settle(&Pace::new(TIMEOUT), rate), expected, "{rate}");
        }
        // With a sixth of the time, a sixth of the bytes is allowed.
        assert_eq!(settle(&Pace::new(TIMEOUT / 6), 600_000), 500_000);
    }

    #[test]
    fn several_sources_share_the_upper_bound() {
        let fast = 100_000_000;
        for (sources, expected) in [(1, MOST_BYTES), (4, MOST_BYTES / 4), (100, LEAST_SHARE)] {
            assert_eq!(
                settle(&Pace::new(TIMEOUT).shared_by(sources), fast),
                expected
            );
        }
    }

    #[test]
    fn the_limit_follows_the_rate_of_the_broker() {
        let pace = Pace::new(TIMEOUT);
        assert_eq!(settle(&pace, 100_000), 500_000);
        assert_eq!(settle(&pace, 2_000_000), 10_000_000);
        assert_eq!(settle(&pace, 100_000), 500_000);
    }

    #[test]
    fn only_long_waits_change_the_limit() {
        let pace = Pace::new(TIMEOUT);
        for _ in 0..1000 {
            pace.delivered(1000, Duration::ZERO);
            pace.drained(0, Duration::from_millis(200));
        }
        assert_eq!(pace.bytes(), FIRST_BYTES);
        pace.delivered(FIRST_BYTES / 8, Duration::ZERO);
        pace.drained(FIRST_BYTES / 8, Duration::from_secs(20));
        assert_eq!(pace.bytes(), FIRST_BYTES / 4 / 4);
    }

    #[test]
    fn bytes_that_are_not_delivered_do_not_raise_the_limit() {
        let pace = Pace::new(TIMEOUT);
        for _ in 0..1000 {
            pace.delivered(0, Duration::ZERO);
        }
        assert_eq!(pace.bytes(), FIRST_BYTES);
        // The broker has not accepted anything for a while.
        pace.delivered(0, Duration::from_secs(20));
        assert_eq!(pace.bytes(), LEAST_BYTES);
    }

    #[test]
    fn an_expired_transaction_halves_the_limit_down_to_the_minimum() {
        let pace = Pace::new(TIMEOUT);
        assert_eq!(pace.expired(MOST_BYTES), FIRST_BYTES / 2);
        // A limit that few partitions do not use has no part in the reason.
        assert_eq!(pace.expired(FIRST_BYTES / 4), FIRST_BYTES / 8);
        for _ in 0..20 {
            pace.expired(MOST_BYTES);
        }
        assert_eq!(pace.clone().bytes(), LEAST_BYTES);
    }

    #[test]
    fn a_burst_does_not_raise_the_limit_above_the_one_that_an_expired_transaction_left() {
        let pace = Pace::new(TIMEOUT);
        assert_eq!(settle(&pace, 100_000_000), MOST_BYTES);
        assert_eq!(pace.expired(MOST_BYTES), MOST_BYTES / 2);
        assert_eq!(settle(&pace, 100_000_000), MOST_BYTES / 2);
        // A lower rate still lowers it, and the bound does not keep it there.
        assert_eq!(settle(&pace, 100_000), 500_000);
        assert_eq!(settle(&pace, 100_000_000), MOST_BYTES / 2);
    }

    #[test]
    fn the_bound_of_an_expired_transaction_is_doubled_every_ten_timeouts() {
        let set = Instant::now();
        let holds = TIMEOUT * TIMEOUTS_UNTIL_DOUBLED;
        let ceiling = Ceiling {
            bytes: 100,
            set,
            holds,
        };
        let just_before = holds - Duration::from_millis(1);
        for (age, expected) in [
            (Duration::ZERO, 100),
            (just_before, 100),
            (holds, 200),
            (holds * 3, 800),
        ] {
            assert_eq!(ceiling.at(set + age), expected, "{age:?}");
        }
        // Neither a long time nor a large bound overflows.
        assert!(ceiling.at(set + holds * 1000) >= MOST_BYTES);
    }
}
