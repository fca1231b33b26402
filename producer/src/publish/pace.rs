//! How many bytes may be under way, by what the broker takes.
//!
//! A transaction must end before its timeout, or the coordinator aborts it, and the next session
//! begins where this one began. What was handed to the client before a commit has to be delivered
//! first. So no more is under way than the broker takes within a part of the timeout, and chunks
//! are no larger, because a commit follows whole chunks. A broker may be slow by a quota or by a
//! long way to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The part of the timeout that delivering the bytes under way may take: besides it there are the
/// time until a commit is due, one more chunk, and the commit itself.
const PART: u32 = 12;
/// The bytes of a producer that has not delivered anything yet.
const FIRST_BYTES: u64 = 2 << 20;
/// However slow the broker is, records of common sizes must not be sent one by one.
const LEAST_BYTES: u64 = 64 << 10;
/// As many as are ever allowed.
const MOST_BYTES: u64 = 48 << 20;

/// Bounds the bytes under way. Clones share the bound; it outlives sessions.
#[derive(Debug, Clone)]
pub struct Pace {
    bytes: Arc<AtomicU64>,
    sample: Arc<Mutex<Sample>>,
    /// What delivering all that is under way may take.
    time: Duration,
}

/// What was handed over since the last judgement, and how long the publisher waited for it.
#[derive(Debug, Default, Clone, Copy)]
struct Sample {
    bytes: u64,
    waited: Duration,
}

impl Pace {
    /// The pace of transactions that end after `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            bytes: Arc::new(AtomicU64::new(FIRST_BYTES)),
            sample: Arc::default(),
            time: timeout / PART,
        }
    }

    /// The bytes that may be under way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The same for buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        usize::try_from(self.bytes()).unwrap_or(usize::MAX)
    }

    /// Notes that so many bytes more were handed to the client, and how long the publisher waited
    /// because too many were under way.
    pub(crate) fn handed(&self, bytes: u64, waited: Duration) {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.bytes += bytes;
        sample.waited += waited;
        self.judge(&mut sample);
    }

    /// Notes how long the publisher waited until everything was delivered, before a commit. A wait
    /// for little says nothing: it is the way to the broker and back.
    pub(crate) fn drained(&self, waited: Duration) {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        if waited < self.measured() && sample.bytes < self.bytes() / 2 {
            *sample = Sample::default();
            return;
        }
        sample.waited += waited;
        self.judge(&mut sample);
    }

    /// Notes that a transaction took longer than it may; returns the bytes from now on.
    pub(crate) fn expired(&self) -> u64 {
        let bytes = (self.bytes() / 2).max(LEAST_BYTES);
        self.set(bytes);
        bytes
    }

    /// A wait of this length is long enough to measure a rate.
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
            // At this rate more than twice as many are delivered in time.
            self.set(bytes * 2);
        } else {
            return;
        }
        *sample = Sample::default();
    }

    fn set(&self, bytes: u64) {
        let bytes = bytes.clamp(LEAST_BYTES, MOST_BYTES);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// A broker that takes so many bytes a second: hands over as many bytes as are allowed, again
    /// and again, and waits for each quarter of them.
    fn settle(pace: &Pace, rate: u64) -> u64 {
        for _ in 0..200 {
            let bytes = pace.bytes() / 4;
            pace.handed(bytes, Duration::from_micros(bytes * 1_000_000 / rate));
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
        // A tenth of the time for a tenth of the bytes.
        assert_eq!(settle(&Pace::new(TIMEOUT / 6), 600_000), 500_000);
    }

    #[test]
    fn what_the_broker_takes_may_change() {
        let pace = Pace::new(TIMEOUT);
        assert_eq!(settle(&pace, 100_000), 500_000);
        assert_eq!(settle(&pace, 2_000_000), 10_000_000);
        assert_eq!(settle(&pace, 100_000), 500_000);
    }

    #[test]
    fn waits_for_little_change_nothing_and_long_ones_do() {
        let pace = Pace::new(TIMEOUT);
        for _ in 0..1000 {
            pace.handed(1000, Duration::ZERO);
            pace.drained(Duration::from_millis(200));
        }
        assert_eq!(pace.bytes(), FIRST_BYTES);
        pace.handed(FIRST_BYTES / 4, Duration::ZERO);
        pace.drained(Duration::from_secs(20));
        assert_eq!(pace.bytes(), FIRST_BYTES / 4 / 4);
    }

    #[test]
    fn an_expired_transaction_halves_it_down_to_the_least() {
        let pace = Pace::new(TIMEOUT);
        assert_eq!(pace.expired(), FIRST_BYTES / 2);
        for _ in 0..20 {
            pace.expired();
        }
        assert_eq!(pace.clone().bytes(), LEAST_BYTES);
    }
}
