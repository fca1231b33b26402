//! The reason why a record cannot be decoded.

use oplog_relay_core::foreign::ForeignError;
use oplog_relay_core::format::FormatError;

/// The reason why a record cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A record of oplog-producer is damaged, or the entry in a record of any program is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A record of another program cannot be converted to an entry.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
}
