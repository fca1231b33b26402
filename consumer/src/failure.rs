//! The error that the program exits with: the first one that any of its parts reports.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ConsumerError;

/// The error slot that all parts share. The parts do not return their errors instead, because the
/// program may exit before a part has ended. Clones refer to the same slot.
#[derive(Debug, Clone, Default)]
pub struct Failure(Arc<Mutex<Option<ConsumerError>>>);

impl Failure {
    /// Records the first error. Interruptions by shutdown are ignored; a closed stdout is replaced by
    /// any later error.
    pub fn keep(&self, error: ConsumerError) {
        let mut kept = self.lock();
        let is_replaceable = matches!(*kept, None | Some(ConsumerError::OutputClosed));
        if is_replaceable && !matches!(error, ConsumerError::Interrupted(_)) {
            *kept = Some(error);
        }
    }

    /// Takes the recorded failure out of the slot.
    #[must_use]
    pub fn take(&self) -> Option<ConsumerError> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<ConsumerError>> {
        // A panic under this lock cannot leave the slot half written, so a poisoned lock is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_runtime::exit::ExitCode;

    use super::*;

    #[test]
    fn interruptions_and_a_closed_stdout_do_not_hide_the_first_failure() {
        let failure = Failure::default();
        failure.keep(ConsumerError::Interrupted(ExitCode::Terminated));
        failure.keep(ConsumerError::OutputClosed);
        failure.keep(ConsumerError::Ended("first"));
        failure.keep(ConsumerError::Ended("second"));
        failure.keep(ConsumerError::OutputClosed);
        let kept = failure.take().map(|error| error.to_string());
        assert_eq!(kept.as_deref(), Some("first ended unexpectedly"));
        assert!(failure.take().is_none());
    }
}
