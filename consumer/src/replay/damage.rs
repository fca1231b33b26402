//! What a document of the target or of an entry that cannot be read means for a replay.

use oplog_relay_core::document::Malformed;

use crate::error::ConsumerError;

/// What to tell of bytes that are no document.
pub(crate) fn damaged(ns: &str, error: &Malformed) -> ConsumerError {
    ConsumerError::Refused(format!("a document of {ns} is damaged: {error}"))
}
