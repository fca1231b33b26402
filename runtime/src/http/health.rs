//! Health: the progress of the main loop, and the readiness of the program.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The default time after which a stall is reported.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// Interval of the beats during a step that does not beat itself.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The state behind `/livez` and `/readyz`. Clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    limit: Duration,
    /// The time of the last beat, in milliseconds after `start`.
    last_beat: AtomicU64,
    /// True if no more beats are to be expected.
    is_resting: AtomicBool,
    /// The reason why the program is not ready; `None` if it is.
    unready: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl Health {
    /// Creates the health of a program that is live but not ready yet. It is no longer live after
    /// `limit` without a beat.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let state = State {
            start: Instant::now(),
            limit,
            last_beat: AtomicU64::new(0),
            is_resting: AtomicBool::new(false),
            unready: Mutex::new(Some("starting".to_owned())),
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// Returns the time after which a stall is reported.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.state.limit
    }

    /// Records that the main loop has made progress. It is cheap enough for every iteration.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.state.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.state.last_beat.store(elapsed, Ordering::Relaxed);
    }

    /// Waits for a step that does not beat itself, such as opening a session, and beats meanwhile.
    /// Each request within the step must have a time limit of its own.
    pub async fn beat_during<T>(&self, step: impl Future<Output = T>) -> T {
        self.beat_every(BEAT_EVERY, step).await
    }

    async fn beat_every<T>(&self, every: Duration, step: impl Future<Output = T>) -> T {
        tokio::pin!(step);
        loop {
            tokio::select! {
                outcome = &mut step => return outcome,
                () = tokio::time::sleep(every) => self.beat(),
            }
        }
    }

    /// Notes that the work has ended, so that the missing beats are not a stall.
    pub fn rest(&self) {
        self.state.is_resting.store(true, Ordering::Relaxed);
    }

    /// Sets the readiness of the program. The reason is shown while it is not ready.
    pub fn set_ready(&self, ready: bool, reason: &str) {
        let mut unready = self
            .state
            .unready
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unready = (!ready).then(|| reason.to_owned());
    }

    /// Returns the time since the last beat.
    #[must_use]
    pub fn since_beat(&self) -> Duration {
        let last = Duration::from_millis(self.state.last_beat.load(Ordering::Relaxed));
        self.state.start.elapsed().saturating_sub(last)
    }

    /// Returns `Ok` if the main loop makes progress.
    ///
    /// # Errors
    /// A message with the time since the last beat, if the main loop is stuck.
    pub fn live(&self) -> Result<(), String> {
        let since = self.since_beat();
        if since <= self.state.limit || self.state.is_resting.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (since, limit) = (since.as_secs(), self.state.limit.as_secs());
        Err(format!(
            "the main loop has made no progress for {since} s (limit {limit} s)"
        ))
    }

    /// Returns `Ok` if the program is ready.
    ///
    /// # Errors
    /// The reason, if the program is not ready.
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
    fn a_loop_without_beats_is_not_live_until_the_next_beat() {
        let health = Health::new(Duration::from_millis(500));
        health.live().unwrap();
        while health.since_beat() <= Duration::from_millis(500) {
            std::thread::yield_now();
        }
        assert!(health.live().unwrap_err().contains("no progress"));
        health.beat();
        health.live().unwrap();
    }

    #[test]
    fn work_that_has_ended_is_not_stuck() {
        let health = Health::new(Duration::ZERO);
        while health.since_beat().is_zero() {
            std::thread::yield_now();
        }
        health.live().unwrap_err();
        health.rest();
        health.live().unwrap();
    }

    #[tokio::test]
    async fn a_long_step_does_not_look_stuck() {
        let limit = Duration::from_millis(400);
        let health = Health::new(limit);
        let step = async {
            let began = Instant::now();
            while began.elapsed() < limit * 2 {
                tokio::task::yield_now().await;
            }
            health.live()
        };
        assert_eq!(health.beat_every(limit / 20, step).await, Ok(()));
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
