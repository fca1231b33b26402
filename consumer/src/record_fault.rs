//! The reason why a record cannot be decoded.

use oplog_relay_core::foreign::ForeignError;
use oplog_relay_core::format::FormatError;

/// The reason why a record cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The record is in a topic of oplog-producer, or the entry in it is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The record is in a topic of another program.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
}
