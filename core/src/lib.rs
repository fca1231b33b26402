//! What oplog-producer and oplog-consumer share.

pub mod document;
