//! Metrics and progress that the program reports about itself.

pub mod latency;
pub mod metrics;
pub mod progress;
pub mod status;
