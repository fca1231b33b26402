//! Back-off between attempts.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::shutdown::Shutdown;

/// Delays that double from a first delay up to a cap. Each is shortened at random by up to half, so
/// that the clients of a server that recovers do not all reconnect at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
    /// The random seed of the standard library, which is good enough to spread clients.
    seed: RandomState,
}

impl Backoff {
    /// Creates delays from `first` to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap: cap.max(first),
            attempts: 0,
            seed: RandomState::new(),
        }
    }

    /// Returns the number of attempts since the start or the last [`reset`](Self::reset).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns the next delay.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let full = self
            .first
            .checked_mul(factor)
            .unwrap_or(self.cap)
            .min(self.cap);
        // The byte chooses how much of the half is subtracted, in 256 steps.
        let part = self.seed.hash_one(self.attempts).to_le_bytes()[0];
        self.attempts = self.attempts.saturating_add(1);
        full - full / 2 * u32::from(part) / 256
    }

    /// Starts with the first delay again, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
        self.seed = RandomState::new();
    }

    /// Waits for the next delay. Returns false, without waiting longer, if a shutdown starts.
    pub async fn sleep(&mut self, shutdown: &Shutdown) -> bool {
        let delay = self.next_delay();
        tokio::select! {
            () = shutdown.wait() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    /// Waits like [`sleep`](Self::sleep), for threads that may block. Returns within 50 ms of a
    /// shutdown.
    pub fn sleep_blocking(&mut self, shutdown: &Shutdown) -> bool {
        let end = Instant::now() + self.next_delay();
        loop {
            if shutdown.triggered() {
                return false;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_vary_by_half() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, cap);
        let mut full = first;
        for attempt in 0..100 {
            assert_eq!(backoff.attempts(), attempt);
            let delay = backoff.next_delay();
            assert!(delay <= full && delay >= full / 2, "{delay:?} of {full:?}");
            full = (full * 2).min(cap);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }

    #[test]
    fn shutdown_ends_a_wait() {
        let shutdown = Shutdown::manual();
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        assert!(backoff.sleep_blocking(&shutdown));
        shutdown.trigger();
        let mut backoff = Backoff::new(Duration::from_secs(3600), Duration::from_secs(3600));
        assert!(!backoff.sleep_blocking(&shutdown));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        assert!(!runtime.block_on(backoff.sleep(&shutdown)));
    }
}
