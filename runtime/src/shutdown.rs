//! Shutdown: one flag that every loop checks. A signal, an error or the completion of the work sets it.
//!
//! The first signal requests an orderly shutdown, for which [`GRACE`] is allowed. A second signal,
//! or the end of the grace period, requests an immediate exit. This module never ends the process:
//! the program's outermost future selects on [`Shutdown::forced`] and returns.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exit::ExitCode;

/// The grace period for an orderly shutdown. Some container platforms send SIGKILL after 30 s, and the
/// exit itself also takes time.
pub const GRACE: Duration = Duration::from_secs(25);

/// The reason for the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT, for example from Ctrl-C.
    Interrupt,
    /// SIGTERM, for example from a supervisor.
    Terminate,
    /// The program itself: its work is complete, or one of its tasks failed.
    Program,
}

/// A shutdown flag shared by all parts of a program. Clones share the flag.
#[derive(Debug, Clone)]
pub struct Shutdown {
    state: Arc<State>,
    /// The signal task, which ends when the last clone is dropped.
    _signals: Option<Arc<JoinSet<()>>>,
}

#[derive(Debug)]
struct State {
    /// The number of the cause, or 0. It is atomic so that hot loops need not take a lock.
    cause: AtomicU8,
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Ending { deadline: Instant },
    Forced,
}

const INTERRUPT: u8 = 1;
const TERMINATE: u8 = 2;
const PROGRAM: u8 = 3;

impl Shutdown {
    /// Creates a flag that no signal sets, for tests and for parts that are shut down separately.
    #[must_use]
    pub fn manual() -> Self {
        Self {
            state: Arc::new(State::new()),
            _signals: None,
        }
    }

    /// Creates a flag that SIGINT and SIGTERM set. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// Returns an I/O error if the signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let state = Arc::new(State::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(Arc::clone(&state), interrupt, terminate));
        Ok(Self {
            state,
            _signals: Some(Arc::new(tasks)),
        })
    }

    /// Returns true if the program is shutting down. It is cheap enough for a hot loop.
    #[must_use]
    pub fn triggered(&self) -> bool {
        self.state.cause.load(Ordering::Relaxed) != 0
    }

    /// Returns the cause of the shutdown, or `None` while the program runs.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self.state.cause.load(Ordering::Acquire) {
            INTERRUPT => Some(Cause::Interrupt),
            TERMINATE => Some(Cause::Terminate),
            PROGRAM => Some(Cause::Program),
            _ => None,
        }
    }

    /// Returns the exit code of a program that ended only because of a signal: 130 or 143. Returns
    /// `None` without a signal, because the outcome of the work then determines the code.
    #[must_use]
    pub fn exit_code(&self) -> Option<ExitCode> {
        match self.cause()? {
            Cause::Interrupt => Some(ExitCode::Interrupted),
            Cause::Terminate => Some(ExitCode::Terminated),
            Cause::Program => None,
        }
    }

    /// Requests an orderly shutdown on behalf of the program. Repeated calls have no effect.
    pub fn trigger(&self) {
        self.state.trigger(Cause::Program);
    }

    /// Requests an orderly shutdown with a cause. Only the first cause is kept.
    pub fn trigger_as(&self, cause: Cause) {
        self.state.trigger(cause);
    }

    /// Requests an immediate exit.
    pub fn force(&self) {
        self.state.force();
    }

    /// Waits until the program is shutting down. Cancel-safe.
    pub async fn wait(&self) {
        let mut phase = self.state.phase.subscribe();
        // `self` owns the sender, so the channel cannot close. If it did, the caller should stop too.
        drop(phase.wait_for(|phase| *phase != Phase::Running).await);
    }

    /// Runs `work` to completion, or drops it and returns `None` when the program is shutting down. If
    /// both happen at once, the shutdown takes precedence.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            done = work => Some(done),
        }
    }

    /// Waits until the program must exit immediately: after a second signal, or when [`GRACE`] has
    /// passed. Cancel-safe.
    pub async fn forced(&self) {
        self.wait().await;
        let left = self.time_left().unwrap_or_default();
        let mut phase = self.state.phase.subscribe();
        drop(tokio::time::timeout(left, phase.wait_for(|phase| *phase == Phase::Forced)).await);
    }

    /// Returns true if the program must exit immediately.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.time_left().is_some_and(|left| left.is_zero())
    }

    /// Returns the time at which the grace period ends, or `None` while the program runs.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match *self.state.phase.borrow() {
            Phase::Running => None,
            Phase::Ending { deadline } => Some(deadline),
            Phase::Forced => Some(Instant::now()),
        }
    }

    /// Returns the rest of the grace period, or `None` while the program runs.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

impl State {
    fn new() -> Self {
        Self {
            cause: AtomicU8::new(0),
            phase: watch::Sender::new(Phase::Running),
        }
    }

    /// Sets the cause. Returns true if it is the first one.
    fn trigger(&self, cause: Cause) -> bool {
        let number = match cause {
            Cause::Interrupt => INTERRUPT,
            Cause::Terminate => TERMINATE,
            Cause::Program => PROGRAM,
        };
        let first = self
            .cause
            .compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if first {
            let deadline = Instant::now() + GRACE;
            self.phase.send_if_modified(|phase| {
                let running = *phase == Phase::Running;
                if running {
                    *phase = Phase::Ending { deadline };
                }
                running
            });
        }
        first
    }

    fn force(&self) {
        self.trigger(Cause::Program);
        self.phase.send_replace(Phase::Forced);
    }
}

/// Sets the flag when a signal arrives. If the program itself has already started a shutdown, a signal
/// still counts as the first one, because the operator has not requested a shutdown yet.
async fn listen(state: Arc<State>, mut interrupt: Signal, mut terminate: Signal) {
    let mut signals = 0_u32;
    loop {
        let (cause, name) = tokio::select! {
            _ = interrupt.recv() => (Cause::Interrupt, "SIGINT"),
            _ = terminate.recv() => (Cause::Terminate, "SIGTERM"),
        };
        signals += 1;
        if signals == 1 {
            let first = state.trigger(cause);
            tracing::info!(
                signal = name,
                first,
                grace_s = GRACE.as_secs(),
                "signal received, shutting down"
            );
        } else {
            tracing::warn!(signal = name, "second signal received, exiting immediately");
            state.force();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_cause_is_kept() {
        let shutdown = Shutdown::manual();
        assert!(!shutdown.triggered());
        assert_eq!(shutdown.exit_code(), None);
        let other = shutdown.clone();
        other.trigger_as(Cause::Terminate);
        shutdown.trigger();
        shutdown.wait().await;
        assert!(shutdown.triggered());
        assert_eq!(shutdown.exit_code(), Some(ExitCode::Terminated));
        assert!(shutdown.time_left().unwrap() > GRACE / 2);
        assert!(!shutdown.is_forced());
    }

    #[tokio::test]
    async fn a_shutdown_drops_work_and_prevents_further_work() {
        let shutdown = Shutdown::manual();
        assert_eq!(shutdown.unless(async { 3 }).await, Some(3));
        let trigger = async {
            shutdown.trigger();
            std::future::pending::<()>().await;
        };
        assert_eq!(shutdown.unless(trigger).await, None);
        assert_eq!(shutdown.unless(async { 3 }).await, None);
    }

    #[tokio::test]
    async fn a_second_request_forces_an_immediate_exit() {
        let shutdown = Shutdown::manual();
        let waiting = shutdown.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { waiting.forced().await });
        shutdown.trigger();
        assert!(tasks.try_join_next().is_none());
        shutdown.force();
        tasks.join_next().await.unwrap().unwrap();
        assert!(shutdown.is_forced());
        assert_eq!(shutdown.cause(), Some(Cause::Program));
        assert_eq!(shutdown.exit_code(), None);
    }

    #[tokio::test]
    async fn the_signal_task_ends_with_its_flag() {
        let shutdown = Shutdown::on_signals().unwrap();
        let state = Arc::downgrade(&shutdown.state);
        drop(shutdown);
        while state.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
