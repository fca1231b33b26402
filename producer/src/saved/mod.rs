//! The data of a source that is saved in Kafka.
//!
//! # Modules
//!
//! - `checkpoint` reads the position and the state, and checks that they fit the source
//! - `error` has the reasons why they cannot be used

pub mod checkpoint;
pub mod error;
