//! MongoDB's error codes, classified for callers.

use mongodb::error::{
    BulkWriteError, Error, ErrorKind, InsertManyError, RETRYABLE_WRITE_ERROR,
    TRANSIENT_TRANSACTION_ERROR, WriteFailure,
};

use oplog_relay_core::document::Document;

/// An error code after which the same command may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransientCode {
    /// The server's code.
    pub code: i32,
    /// The reason why the server cannot run the command now.
    pub reason: &'static str,
}

const fn transient(code: i32, reason: &'static str) -> TransientCode {
    TransientCode { code, reason }
}

/// All transient codes. Both programs use this table, so that they classify an error code in the same
/// way.
pub const TRANSIENT_CODES: &[TransientCode] = &[
    transient(6, "host unreachable"),
    transient(7, "host not found"),
    transient(24, "lock timeout"),
    transient(46, "lock busy"),
    transient(50, "maxTimeMS of the command exceeded"),
    transient(63, "stale routing information"),
    transient(64, "the write concern was not met in time"),
    transient(89, "network timeout"),
    transient(91, "server shutting down"),
    transient(112, "conflict with another writer"),
    transient(117, "conflict with another operation"),
    transient(133, "no member matches the read preference"),
    transient(134, "majority reads are not available yet"),
    transient(146, "server out of memory for the command"),
    transient(150, "stale routing information"),
    transient(189, "primary stepped down"),
    transient(202, "network timeout within the deployment"),
    transient(215, "the database is being dropped"),
    transient(216, "election in progress"),
    transient(225, "transaction too old"),
    transient(246, "snapshot not available"),
    transient(249, "stale routing information"),
    transient(251, "no such transaction"),
    transient(262, "time limit of the server exceeded"),
    transient(264, "server has too many files open"),
    transient(267, "prepared transaction in progress"),
    transient(272, "conflict with a chunk migration"),
    transient(279, "connection closed"),
    transient(285, "index build in progress"),
    transient(290, "transaction exceeded its lifetime"),
    transient(317, "connection pool expired"),
    transient(319, "database is being moved to another shard"),
    transient(338, "collection is being resharded"),
    transient(342, "collection is being resharded"),
    transient(355, "interrupted by a storage change"),
    transient(365, "temporarily unavailable"),
    transient(371, "writes are blocked on the server"),
    transient(384, "connection error within the deployment"),
    transient(402, "server out of resources"),
    transient(406, "chunk migration in progress"),
    transient(
        407,
        "timed out waiting for a connection within the deployment",
    ),
    transient(412, "updates pending"),
    transient(433, "server overloaded"),
    transient(449, "server overloaded"),
    transient(450, "server overloaded"),
    transient(453, "collection is being resharded"),
    transient(462, "server overloaded"),
    transient(9001, "socket error"),
    transient(10058, "not the primary"),
    transient(10107, "not the primary"),
    transient(11600, "interrupted by shutdown"),
    transient(11601, "interrupted by an operator"),
    transient(11602, "interrupted by a state change"),
    transient(12586, "an index build or another operation in progress"),
    transient(12587, "an index build or another operation in progress"),
    transient(13388, "stale routing information"),
    transient(13435, "not the primary"),
    transient(13436, "not the primary, or recovering"),
    transient(14031, "the server's disk is full"),
    transient(16500, "the service limits the rate of requests"),
];

/// `UserNotFound`: the server does not know the user.
pub const USER_NOT_FOUND: i32 = 11;
/// `Unauthorized`: the user does not have a privilege, or the client has not logged in.
pub const UNAUTHORIZED: i32 = 13;
/// `AuthenticationFailed`: the server refuses the credentials.
pub const AUTHENTICATION_FAILED: i32 = 18;

/// Codes after which a cursor no longer exists, so that a new cursor must continue at the last
/// position.
const CURSOR_GONE: [i32; 4] = [43, 175, 237, 314];

/// `CappedPositionLost`: the oplog was truncated at the position of a read. The remaining part can be
/// read.
const CAPPED_POSITION_LOST: i32 = 136;

/// Returns the server's error code, or the first one if there are several.
///
/// The driver cannot decode a reply that quotes text that is not valid UTF-8. In this case the code is
/// read from the bytes of the reply.
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
        .or_else(|| failed_reply(error).and_then(|reply| number(reply, "code")))
}

/// Returns the server's error message, without the reply that contained it. The reply may contain
/// documents, and the driver formats it as a byte string.
#[must_use]
pub fn error_text(error: &Error) -> String {
    match failed_reply(error) {
        Some(reply) if !matches!(error.kind.as_ref(), ErrorKind::Command(_)) => {
            let message = reply.get("errmsg").ok().flatten();
            let message = message.and_then(|message| message.string_bytes().ok());
            String::from_utf8_lossy(message.unwrap_or_default()).into_owned()
        }
        _ => error.kind.to_string(),
    }
}

/// Returns the reply to a successful command that the driver could not decode. A refused write may
/// quote a key that is not UTF-8.
#[must_use]
pub fn undecoded_reply(error: &Error) -> Option<&[u8]> {
    let reply = reply(error)?;
    (number(reply, "ok") == Some(1)).then(|| reply.as_bytes())
}

fn reply(error: &Error) -> Option<Document<'_>> {
    Document::new(error.server_response()?.as_bytes()).ok()
}

/// Returns the reply of a command that failed.
fn failed_reply(error: &Error) -> Option<Document<'_>> {
    reply(error).filter(|reply| number(*reply, "ok") == Some(0))
}

fn number(reply: Document<'_>, name: &str) -> Option<i32> {
    let number = reply.get(name).ok().flatten()?.integer().ok()?;
    i32::try_from(number).ok()
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

/// Returns the driver's error in the source chain of an error.
fn cause(error: &Error) -> Option<&Error> {
    let source = std::error::Error::source(error)?;
    source
        .downcast_ref::<Error>()
        .or_else(|| source.downcast_ref::<Box<Error>>().map(Box::as_ref))
}

/// Returns true if the same command may succeed when it is sent again after a back-off. This holds
/// only for reads and idempotent writes; a transaction must be repeated as a whole.
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
        || error_code(error).is_some_and(|code| transient_reason(code).is_some())
}

/// Returns the reason why a server cannot run a command now, or `None` if the code is not transient.
#[must_use]
pub fn transient_reason(code: i32) -> Option<&'static str> {
    let mut codes = TRANSIENT_CODES.iter();
    codes
        .find(|known| known.code == code)
        .map(|known| known.reason)
}

/// Returns true if a cursor no longer exists, so that a new one must be opened at the last fetched
/// position.
#[must_use]
pub fn is_cursor_gone(error: &Error) -> bool {
    error_code(error).is_some_and(|code| CURSOR_GONE.contains(&code))
}

/// Returns true if a capped collection was truncated at the position of a read. If the read is sent
/// again, it starts at the oldest remaining document.
#[must_use]
pub fn is_truncated(error: &Error) -> bool {
    error_code(error) == Some(CAPPED_POSITION_LOST)
}

/// Returns true if a read was interrupted, so that the same read from the start may succeed.
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
    fn transient_codes_are_classified_as_such() {
        for TransientCode { code, reason } in TRANSIENT_CODES.iter().copied() {
            assert!(!reason.is_empty());
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
    fn network_errors_are_transient_and_have_no_code() {
        let error: Error = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        assert!(is_transient(&error));
        assert_eq!(error_code(&error), None);
        let error = Error::custom("ours".to_owned());
        assert!(!is_transient(&error) && !is_cursor_gone(&error));
    }
}
