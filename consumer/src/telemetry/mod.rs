//! What the program reports of itself: metrics, status and lag.

pub mod lag;
pub mod metrics;
pub mod readiness;
pub mod status;
