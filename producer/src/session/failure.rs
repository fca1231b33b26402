//! What follows a session that failed: another one, or the end of the program.

use std::time::Duration;

use crate::error::{Directive, ProducerError};
use crate::position_lost::PositionLost;

/// Time after which a program that has not opened a session of the source no longer retries. A program
/// that has opened one retries indefinitely.
const FIRST_SESSION: Duration = Duration::from_secs(60);

/// Number of consecutive sessions that find an entry missing on the member that they read,
/// after which the entry counts as lost. With the pauses between them this takes about ten minutes.
const BEHIND_SESSIONS: u32 = 60;

/// Number of consecutive sessions that ended because a member lagged behind.
#[derive(Debug, Default)]
pub(crate) struct Lagging(u32);

impl Lagging {
    /// Counts the error of a session and returns it, or an error that ends the program if an entry
    /// has been missing for too long. `progress` is true if the session committed something.
    pub(super) fn judge(&mut self, error: ProducerError, progress: bool) -> ProducerError {
        let ProducerError::Behind(part) = error else {
            self.0 = 0;
            return error;
        };
        self.0 = if progress { 1 } else { self.0 + 1 };
        if self.0 < BEHIND_SESSIONS {
            return error;
        }
        Box::new(PositionLost::Hole { part }).into()
    }
}

/// A session that ended with an error.
#[derive(Debug)]
pub(super) struct Failure<'e> {
    pub(super) error: &'e ProducerError,
    /// True if this process has opened a session of the source.
    pub(super) has_opened_session: bool,
    /// The time since the first of these sessions was tried.
    pub(super) since_start: Duration,
    /// True if a shutdown was requested.
    pub(super) is_ending: bool,
}

/// The action after a failed session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Open another session.
    Retry,
    /// Stop, as requested.
    Stop,
    /// End with the error.
    Fail,
}

impl Failure<'_> {
    pub(super) fn next(&self) -> Next {
        if self.error.directive() != Directive::Retry {
            return Next::Fail;
        }
        if self.is_ending {
            return Next::Stop;
        }
        // Credentials may be rotated while the program runs. If they are refused at the start, they are
        // wrong.
        let is_permanent = self.since_start > FIRST_SESSION || self.error.is_refused_login();
        match !self.has_opened_session && is_permanent {
            true => Next::Fail,
            false => Next::Retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::position::Timestamp;
    use oplog_relay_runtime::exit::ExitCode;
    use oplog_relay_runtime::kafka::KafkaFailure;

    use super::*;
    use crate::session::error::SessionError;

    #[test]
    fn a_program_that_never_opened_a_session_gives_up_unless_it_is_shutting_down() {
        let next = |error: &ProducerError, has_opened_session, seconds, is_ending| {
            let failure = Failure {
                error,
                has_opened_session,
                since_start: Duration::from_secs(seconds),
                is_ending,
            };
            failure.next()
        };
        let unreachable = ProducerError::kafka("a", "b");
        assert_eq!(next(&unreachable, false, 59, false), Next::Retry);
        assert_eq!(next(&unreachable, false, 61, false), Next::Fail);
        assert_eq!(next(&unreachable, false, 61, true), Next::Stop);
        assert_eq!(next(&unreachable, true, 61, false), Next::Retry);
        let login = ProducerError::from(KafkaFailure::Credentials {
            brokers: String::new(),
            reason: String::new(),
        });
        assert_eq!(next(&login, false, 1, false), Next::Fail);
        assert_eq!(next(&login, true, 1, false), Next::Retry);
        // An error that a retry cannot fix is reported in any case.
        let usage = SessionError::RegistryNeeded.into();
        assert_eq!(next(&usage, true, 1, true), Next::Fail);
    }

    #[test]
    fn a_member_that_never_gets_an_entry_ends_the_program() {
        let behind = || ProducerError::Behind(Timestamp::new(7, 1));
        let mut lagging = Lagging::default();
        let mut judge = |error, progress| lagging.judge(error, progress).directive();
        for _ in 1..BEHIND_SESSIONS {
            assert_eq!(judge(behind(), false), Directive::Retry);
        }
        // The count restarts after progress or after a different failure.
        assert_eq!(judge(behind(), true), Directive::Retry);
        assert_eq!(
            judge(ProducerError::kafka("a", "b"), false),
            Directive::Retry
        );
        for _ in 1..BEHIND_SESSIONS {
            assert_eq!(judge(behind(), false), Directive::Retry);
        }
        let stopped = judge(behind(), false);
        assert_eq!(stopped, Directive::Stop(ExitCode::SourcePositionLost));
    }
}
