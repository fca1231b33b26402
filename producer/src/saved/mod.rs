//! The data of a source that is saved in Kafka.

pub mod checkpoint;
pub mod error;
