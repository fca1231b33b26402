//! What both programs run on: clients, configuration, logs, metrics, HTTP and shutdown.
//!
//! Nothing here knows an entry, a topic's content or a role: producer and consumer ideas stay in
//! their packages. The pure modules of this crate never import this one.

pub mod command_line;
pub mod config;
pub mod exit;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod mongo;
pub mod retry;
pub mod shutdown;
pub mod status_line;
pub mod telemetry;
