//! The failure that the program ends with: the first one of any part.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ConsumerError;

/// A slot that all parts fill. Apart from them, because a part may not end before the program leaves.
/// Clones are the same slot.
#[derive(Debug, Clone, Default)]
pub struct Failure(Arc<Mutex<Option<ConsumerError>>>);

impl Failure {
    /// Keeps an error unless there is one. What was left because the program is to end is none, and a
    /// closed output gives way to any other.
    pub fn keep(&self, error: ConsumerError) {
        let mut kept = self.lock();
        let open = matches!(*kept, None | Some(ConsumerError::OutputClosed));
        if open && !matches!(error, ConsumerError::Interrupted(_)) {
            *kept = Some(error);
        }
    }

    /// Takes it.
    #[must_use]
    pub fn take(&self) -> Option<ConsumerError> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<ConsumerError>> {
        // Nothing can be left half done under this lock.
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
