//! Errors of a change stream, and what each of them requires.

use mongodb::error::Error;
use oplog_relay_core::position::Position;
use oplog_relay_runtime::mongo::{self, error_code, error_text};

use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::position_lost::PositionLost;
use crate::source::error::SourceError;

/// The action that an error requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Open the stream again at the last event.
    Reopen,
    /// Stop: the stream can no longer continue from its position.
    Lost,
    /// Stop: the source or the configuration does not permit the stream.
    Refused,
    /// Stop: an event cannot be read.
    Unreadable,
}

/// A row of the table of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The server's code.
    pub code: i32,
    /// The action.
    pub reaction: Reaction,
    /// What the code means for the stream.
    pub meaning: &'static str,
}

const fn known(code: i32, reaction: Reaction, meaning: &'static str) -> Known {
    Known {
        code,
        reaction,
        meaning,
    }
}

/// The codes that have a meaning of their own for a change stream. Codes that any command may return
/// while servers are replaced or unreachable are in the table of transient codes.
pub const CODES: &[Known] = &[
    known(
        136,
        Reaction::Lost,
        "the oplog was truncated at the position of the stream",
    ),
    known(222, Reaction::Reopen, "the server has closed the stream"),
    known(
        234,
        Reaction::Reopen,
        "the server asks for the stream to be opened again",
    ),
    known(
        260,
        Reaction::Lost,
        "the resume token belongs to another deployment, or to another scope",
    ),
    known(
        280,
        Reaction::Lost,
        "the event of the resume token is not in the stream",
    ),
    known(
        286,
        Reaction::Lost,
        "the oplog no longer reaches back to the position of the stream",
    ),
    known(
        326,
        Reaction::Lost,
        "the oplog no longer reaches back to the position of the stream",
    ),
    known(
        346,
        Reaction::Reopen,
        "the stream has ended, because its database was dropped",
    ),
    known(348, Reaction::Reopen, "a shard was added to the cluster"),
    known(
        351,
        Reaction::Reopen,
        "the stream has ended, because its database was dropped",
    ),
    known(
        13,
        Reaction::Refused,
        "the user may not read the change stream: grant it the actions find and changeStream, on all \
         databases for a stream of the whole deployment, or on the one database that \
         --include-namespaces names",
    ),
    known(
        10334,
        Reaction::Unreadable,
        "an event is larger than 16 MB. MongoDB 6.0.9 and later split such events; before that, only \
         --source-mode oplog can read them",
    ),
    known(
        40324,
        Reaction::Refused,
        "the server does not know change streams, so only --source-mode oplog can read it",
    ),
    known(
        40415,
        Reaction::Refused,
        "the server does not know an option of the change stream that its version should know; it may be \
         a service that is compatible with MongoDB only in part",
    ),
    known(
        40573,
        Reaction::Refused,
        "change streams exist only in a replica set or a sharded cluster, and the source is a standalone \
         server",
    ),
];

/// Returns the row of a code.
#[must_use]
pub fn find(code: i32) -> Option<&'static Known> {
    CODES.iter().find(|known| known.code == code)
}

/// Returns the error that ends the stream at a position, or the driver's error if the stream can be
/// opened again.
///
/// # Errors
/// [`ProducerError::PositionLost`], [`SourceError::StreamRefused`] or [`EntryFault::EventUnsent`] as the
/// table says; [`ProducerError::Source`] for an error that neither table contains.
pub fn judge(error: Error, position: Position) -> Result<Error, ProducerError> {
    let code = error_code(&error);
    let found = code.and_then(|code| Some((code, find(code)?)));
    let Some((code, known)) = found else {
        return match mongo::is_transient(&error) || mongo::is_cursor_gone(&error) {
            true => Ok(error),
            false => Err(ProducerError::Source(error)),
        };
    };
    let (meaning, reason) = (known.meaning, error_text(&error));
    match known.reaction {
        Reaction::Reopen => Ok(error),
        Reaction::Lost => {
            let reason = format!("{meaning} (error {code}: {reason})");
            Err(Box::new(PositionLost::StreamEnded { position, reason }).into())
        }
        Reaction::Refused => Err(SourceError::StreamRefused {
            meaning,
            code,
            reason,
        }
        .into()),
        Reaction::Unreadable => Err(EntryFault::EventUnsent {
            position,
            meaning,
            code,
            reason,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use bson::{deserialize_from_document, doc};
    use mongodb::error::{CommandError, ErrorKind};
    use oplog_relay_core::position::Timestamp;
    use oplog_relay_runtime::exit::ExitCode;
    use oplog_relay_runtime::mongo::transient_reason;

    use super::*;
    use crate::error::Directive;

    fn judged(code: i32) -> Result<Error, ProducerError> {
        let reply = doc! { "code": code, "codeName": "Name", "errmsg": "text" };
        let command: CommandError = deserialize_from_document(reply).unwrap();
        let position = Position {
            ts: Timestamp::new(7, 1),
            term: -1,
            ord: 2,
        };
        judge(ErrorKind::Command(command).into(), position)
    }

    #[test]
    fn each_code_has_one_reaction_and_one_exit_code() {
        for (place, known) in CODES.iter().enumerate() {
            assert!(CODES[..place].iter().all(|other| other.code != known.code));
            assert_eq!(transient_reason(known.code), None, "{}", known.code);
            let expected = match known.reaction {
                Reaction::Reopen => None,
                Reaction::Lost => Some(ExitCode::SourcePositionLost),
                Reaction::Refused => Some(ExitCode::Usage),
                Reaction::Unreadable => Some(ExitCode::StoppedByPolicy),
            };
            let error = judged(known.code).err();
            let found = error.as_ref().map(ProducerError::directive);
            assert_eq!(found, expected.map(Directive::Stop), "{}", known.code);
            if let Some(error) = error {
                let text = error.to_string();
                assert!(text.contains(&known.code.to_string()), "{text}");
            }
        }
    }

    #[test]
    fn transient_errors_and_lost_cursors_reopen_the_stream() {
        for code in [43, 237, 6, 11600, 10107] {
            assert!(judged(code).is_ok(), "{code}");
        }
        assert!(matches!(judged(8000), Err(ProducerError::Source(_))));
    }
}
