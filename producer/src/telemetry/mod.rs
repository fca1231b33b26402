//! Metrics and progress that the program reports about itself.
//!
//! # Modules
//!
//! - `metrics` has the metrics and the body of `/status`; `counters` has those of one subject, `queue`
//!   the bytes that wait for the publisher, and `names` their names
//! - `latency` has the histogram of the parts of an entry's way
//! - `oplog_window` has the gauges of the source's oplog, and their part of `/status`
//! - `progress` has the progress of a full sync
//! - `status_line` shows the progress of the stream

mod counters;
pub mod latency;
pub mod metrics;
mod names;
pub mod oplog_window;
pub mod progress;
pub mod queue;
pub mod status_line;
