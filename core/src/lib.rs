//! What oplog-producer and oplog-consumer share.

pub mod compare;
pub mod document;
pub mod entry;
pub mod filter;
pub mod format;
pub mod json;
pub mod key;
pub mod position;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod state;
pub mod topic;
