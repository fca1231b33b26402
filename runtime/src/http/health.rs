//! Health: whether the main loop still turns, and whether the program does its work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the main loop may go without a beat.
pub const DEFAULT_BEAT_LIMIT: Duration = Duration::from_secs(60);

/// What `/livez` and `/readyz` tell. Clones are the same health.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    limit: Duration,
    /// Milliseconds from `start` to the last beat.
    last_beat: AtomicU64,
    /// Why the program is not ready; `None` when it is.
    unready: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(DEFAULT_BEAT_LIMIT)
    }
}

impl Health {
    /// Alive as of now, not ready yet; dead after `limit` without a beat.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let state = State {
            start: Instant::now(),
            limit,
            last_beat: AtomicU64::new(0),
            unready: Mutex::new(Some("starting".to_owned())),
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// The main loop turned. Cheap enough for every turn.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.state.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.state.last_beat.store(elapsed, Ordering::Relaxed);
    }

    /// Whether the program does its work; the reason is shown while it does not.
    pub fn set_ready(&self, ready: bool, reason: &str) {
        let mut unready = self
            .state
            .unready
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unready = (!ready).then(|| reason.to_owned());
    }

    /// Time since the last beat.
    #[must_use]
    pub fn since_beat(&self) -> Duration {
        let last = Duration::from_millis(self.state.last_beat.load(Ordering::Relaxed));
        self.state.start.elapsed().saturating_sub(last)
    }

    /// Whether the main loop turns.
    ///
    /// # Errors
    /// When it is stuck: for how long.
    pub fn live(&self) -> Result<(), String> {
        let since = self.since_beat();
        if since <= self.state.limit {
            return Ok(());
        }
        let (since, limit) = (since.as_secs(), self.state.limit.as_secs());
        Err(format!(
            "the main loop has not turned for {since} s, more than {limit} s"
        ))
    }

    /// Whether the program does its work.
    ///
    /// # Errors
    /// When it does not: the reason.
    pub fn ready(&self) -> Result<(), String> {
        let unready = self
            .state
            .unready
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unready.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_without_beats_is_dead_until_it_turns_again() {
        let health = Health::new(Duration::from_millis(500));
        health.live().unwrap();
        while health.since_beat() <= Duration::from_millis(500) {
            std::thread::yield_now();
        }
        assert!(health.live().unwrap_err().contains("has not turned"));
        health.beat();
        health.live().unwrap();
    }

    #[test]
    fn readiness_has_a_reason() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        health.set_ready(true, "");
        assert_eq!(health.ready(), Ok(()));
        health.clone().set_ready(false, "kafka is unreachable");
        assert_eq!(health.ready(), Err("kafka is unreachable".to_owned()));
    }
}
