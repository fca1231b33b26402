//! consumer
pub mod batch;
pub mod chunk;
pub mod offsets;
pub mod plan;
