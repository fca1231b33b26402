//! The error for a document, of the target or of an entry, that cannot be read.

use oplog_relay_core::document::Malformed;

use crate::error::ConsumerError;

/// Returns the error for bytes that are not a valid document.
pub(crate) fn damaged(ns: &str, error: &Malformed) -> ConsumerError {
    ConsumerError::Refused(format!("a document of {ns} is damaged: {error}"))
}
