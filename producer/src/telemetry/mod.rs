//! What the program reports of itself.

pub mod metrics;
pub mod progress;
pub mod status;
