//! What oplog-producer and oplog-consumer share.

pub mod document;
pub mod entry;
pub mod format;
pub mod position;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod state;
pub mod topic;
