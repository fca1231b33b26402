//! The error for a malformed document on the target or in an entry.

use oplog_relay_core::document::Malformed;

/// A document on the target, or in an entry, that is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a document of {ns} is damaged: {source}")]
pub struct DamagedDocument {
    /// Namespace of the document.
    pub ns: String,
    /// The damage.
    pub source: Malformed,
}

/// Returns the error for bytes that are not a valid document.
pub(crate) fn damaged(ns: &str, error: &Malformed) -> DamagedDocument {
    DamagedDocument {
        ns: ns.to_owned(),
        source: error.clone(),
    }
}
