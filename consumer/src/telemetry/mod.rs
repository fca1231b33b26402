//! Telemetry: metrics, readiness, `/status` and lag.
//!
//! # Modules
//!
//! - `metrics` has the metrics
//! - `latency` measures how long entries take to reach and pass the consumer
//! - `readiness` determines the readiness of a member
//! - `lag` computes the lag behind what the producers have saved
//! - `status` serves `/status`, and shows the progress

pub mod lag;
pub mod latency;
pub mod metrics;
pub mod readiness;
pub mod status;
