//! Telemetry: metrics, readiness, `/status` and lag.

pub mod lag;
pub mod latency;
pub mod metrics;
pub mod readiness;
pub mod status;
