//! What is saved of a source in Kafka.

pub mod checkpoint;
