//! Error codes: what they mean for the one who asked.

use mongodb::error::{
    BulkWriteError, Error, ErrorKind, InsertManyError, RETRYABLE_WRITE_ERROR,
    TRANSIENT_TRANSACTION_ERROR, WriteFailure,
};

/// Codes after which the same command may succeed later.
const TRANSIENT: [i32; 28] = [
    // Network, shutdown, elections.
    6, 7, 89, 91, 189, 262, 384, 9001, 10107, 11600, 11602, 13435, 13436,
    // Our own time limit; majority reads not available yet.
    50, 134, // Conflicts between writers and transactions.
    24, 112, 225, 251, 263, 267,
    // The write concern was not met in time: idempotent writes are sent again.
    64, // An index build in the way; writes blocked for a while.
    12586, 12587, 371, // Stale routing, no member for the read preference.
    133, 249, 13388,
];

/// Codes after which a cursor is gone and a new one continues where it stood.
const CURSOR_GONE: [i32; 4] = [43, 175, 237, 314];

/// The oplog was truncated where a read stood: what is left can be read again.
const CAPPED_POSITION_LOST: i32 = 136;

/// The server's code for an error; of several, the first.
#[must_use]
pub fn error_code(error: &Error) -> Option<i32> {
    let own = match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        ErrorKind::InsertMany(insert) => insert_code(insert),
        ErrorKind::BulkWrite(bulk) => bulk_code(bulk),
        _ => None,
    };
    own.or_else(|| cause(error).and_then(error_code))
}

fn insert_code(error: &InsertManyError) -> Option<i32> {
    let first = error
        .write_errors
        .as_ref()
        .and_then(|errors| errors.first());
    first
        .map(|write| write.code)
        .or(error.write_concern_error.as_ref().map(|c| c.code))
}

fn bulk_code(error: &BulkWriteError) -> Option<i32> {
    let first = error.write_errors.iter().min_by_key(|(index, _)| **index);
    first.map(|(_, write)| write.code).or_else(|| {
        error
            .write_concern_errors
            .first()
            .map(|concern| concern.code)
    })
}

/// The driver's error behind an error.
fn cause(error: &Error) -> Option<&Error> {
    let source = std::error::Error::source(error)?;
    source
        .downcast_ref::<Error>()
        .or_else(|| source.downcast_ref::<Box<Error>>().map(Box::as_ref))
}

/// Whether the same command, sent again after a back-off, may succeed. Only for reads and for
/// idempotent writes; a transaction is repeated as a whole.
#[must_use]
pub fn is_transient(error: &Error) -> bool {
    let network = matches!(
        error.kind.as_ref(),
        ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::DnsResolve { .. }
    );
    network
        || error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || error.contains_label(RETRYABLE_WRITE_ERROR)
        || error_code(error).is_some_and(|code| TRANSIENT.contains(&code))
}

/// Whether a cursor is gone, so that a new one has to be opened at the last position fetched.
#[must_use]
pub fn is_cursor_gone(error: &Error) -> bool {
    error_code(error).is_some_and(|code| CURSOR_GONE.contains(&code))
}

/// Whether a read of a capped collection was overtaken by its truncation. Sent again it begins at
/// what is left.
#[must_use]
pub fn is_truncated(error: &Error) -> bool {
    error_code(error) == Some(CAPPED_POSITION_LOST)
}

/// Returns true if a read was interrupted, so that the same read from the beginning may succeed.
#[must_use]
pub fn is_interrupted(error: &Error) -> bool {
    is_transient(error) || is_cursor_gone(error) || is_truncated(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{deserialize_from_document, doc};
    use mongodb::error::CommandError;

    fn command(code: i32) -> Error {
        let reply = doc! { "code": code, "codeName": "Name", "errmsg": "text" };
        ErrorKind::Command(deserialize_from_document::<CommandError>(reply).unwrap()).into()
    }

    #[test]
    fn codes_decide() {
        for code in TRANSIENT {
            assert!(is_transient(&command(code)), "{code}");
            assert_eq!(error_code(&command(code)), Some(code));
        }
        for code in [11000, 13, 18, 79, 100, 121, 136, 286, 28] {
            assert!(!is_transient(&command(code)), "{code}");
        }
        assert!(is_truncated(&command(136)) && !is_truncated(&command(43)));
        for code in CURSOR_GONE {
            assert!(
                is_cursor_gone(&command(code)) && !is_transient(&command(code)),
                "{code}"
            );
        }
    }

    #[test]
    fn the_network_is_transient_and_has_no_code() {
        let error: Error = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        assert!(is_transient(&error));
        assert_eq!(error_code(&error), None);
        let error = Error::custom("ours".to_owned());
        assert!(!is_transient(&error) && !is_cursor_gone(&error));
    }
}
