//! The reply of a source to a request for documents.

use oplog_relay_core::position::Timestamp;

/// The reply to one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The documents that were found, one after the other.
    pub documents: Vec<u8>,
    /// True if the reply had no room for all documents, so that a missing one may exist.
    pub is_cut: bool,
    /// The `operationTime` of the server's reply, if the server reports it.
    pub at: Option<Timestamp>,
}
