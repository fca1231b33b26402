//! The error for a malformed document on the target or in an entry.

use oplog_relay_core::document::Malformed;

use crate::error::ConsumerError;

/// Returns the error for bytes that are not a valid document.
pub(crate) fn damaged(ns: &str, error: &Malformed) -> ConsumerError {
    ConsumerError::Refused(format!("a document of {ns} is damaged: {error}"))
}
