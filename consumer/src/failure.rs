//! The failure that the program ends with: the first one that any part reports.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ConsumerError;

/// A slot that all parts share. It is separate from them because the program may exit before a part has
/// ended. Clones refer to the same slot.
#[derive(Debug, Clone, Default)]
pub struct Failure(Arc<Mutex<Option<ConsumerError>>>);

impl Failure {
    /// Records the first error. Interruptions by shutdown are ignored; a closed stdout is replaced by
    /// any later error.
    pub fn keep(&self, error: ConsumerError) {
        let mut kept = self.lock();
        let open = matches!(*kept, None | Some(ConsumerError::OutputClosed));
        if open && !matches!(error, ConsumerError::Interrupted(_)) {
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
    fn the_first_failure_counts_that_is_one() {
        let failure = Failure::default();
        failure.keep(ConsumerError::Interrupted(ExitCode::Terminated));
        failure.keep(ConsumerError::OutputClosed);
        failure.keep(ConsumerError::Refused("first".to_owned()));
        failure.keep(ConsumerError::Ended("second"));
        failure.keep(ConsumerError::OutputClosed);
        let kept = failure.take().map(|error| error.to_string());
        assert_eq!(kept.as_deref(), Some("first"));
        assert!(failure.take().is_none());
    }
}
