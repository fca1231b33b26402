//! Readiness of a member.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;

/// Interval between log lines about a request to the target that has not succeeded yet.
const TARGET_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Readiness of a member. It is ready once it has joined the group, while its target answers and
/// nothing is stalled.
#[derive(Debug)]
pub struct Readiness {
    health: Health,
    joined: AtomicBool,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// The reason why a request to the target has not succeeded yet; `None` while requests succeed.
    target: Option<String>,
    logged: Option<Instant>,
    /// The reason why the member makes no progress although work is pending; `None` otherwise.
    stall: Option<String>,
}

impl Readiness {
    /// Creates the readiness of a member that is not ready yet.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self {
            health,
            joined: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// Records that the group has assigned partitions to this member, possibly none, or that no
    /// topic exists yet.
    pub fn joined(&self) {
        if !self.joined.swap(true, Ordering::Relaxed) {
            self.show(&self.lock());
        }
    }

    /// Returns true if `joined` has been called.
    pub(super) fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// Records the reason for a stall, or `None` if nothing is stalled.
    pub fn set_stall(&self, reason: Option<String>) {
        let mut trouble = self.lock();
        match (&trouble.stall, &reason) {
            (None, Some(reason)) => tracing::warn!(reason, "this member is stalled"),
            (Some(_), None) => tracing::info!("this member makes progress again"),
            (None, None) => return,
            (Some(_), Some(_)) => {}
        }
        trouble.stall = reason;
        self.show(&trouble);
    }

    /// Records that the target answered a request.
    pub fn target_reached(&self) {
        let mut trouble = self.lock();
        if trouble.target.take().is_some() {
            tracing::info!("the target answers again");
            trouble.logged = None;
            self.show(&trouble);
        }
    }

    /// Records that a request failed with a transient error, or that a command is still running.
    pub fn target_failed(&self, reason: &str) {
        let mut trouble = self.lock();
        trouble.target = Some(reason.to_owned());
        let now = Instant::now();
        if trouble
            .logged
            .is_none_or(|last| now.duration_since(last) >= TARGET_LOG_INTERVAL)
        {
            trouble.logged = Some(now);
            tracing::warn!(
                reason,
                "a request to the target failed temporarily or is still running; waiting until one \
                 succeeds"
            );
        }
        self.show(&trouble);
    }

    fn show(&self, trouble: &Trouble) {
        match trouble {
            Trouble {
                target: Some(reason),
                ..
            } => self
                .health
                .set_ready(false, &format!("waiting for the target: {reason}")),
            _ if !self.has_joined() => self.health.set_ready(false, "joining the group"),
            Trouble {
                stall: Some(reason),
                ..
            } => self.health.set_ready(false, reason),
            _ => self.health.set_ready(true, ""),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_ready_if_it_has_joined_and_its_target_answers() {
        let health = Health::default();
        let readiness = Readiness::new(health.clone());
        assert!(health.ready().is_err());
        readiness.joined();
        assert_eq!(health.ready(), Ok(()));
        readiness.target_failed("connection refused");
        assert!(health.ready().unwrap_err().contains("connection refused"));
        readiness.set_stall(Some("a barrier".to_owned()));
        assert!(health.ready().unwrap_err().contains("connection refused"));
        readiness.target_reached();
        assert_eq!(health.ready(), Err("a barrier".to_owned()));
        readiness.set_stall(None);
        assert_eq!(health.ready(), Ok(()));
    }
}
