//! What oplog-producer and oplog-consumer share.

pub mod document;
pub mod entry;
pub mod format;
pub mod position;
pub mod state;
pub mod topic;
