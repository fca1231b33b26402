//! What both programs run on: clients, configuration, logs, metrics, HTTP and shutdown.
//!
//! Nothing here knows a topic's content or a role: what only the producer or only the consumer needs
//! stays in its package.
//!
//! # The map
//!
//! - [`command_line`] parses arguments; [`config`] merges flags, environment and file, and collects
//!   every fault; [`exit`] the exit codes
//! - [`kafka`] the administration client, readers, options and errors of Kafka
//! - [`mongo`] connections to MongoDB, its `hello` reply and its error codes
//! - [`http`] the pages `/livez`, `/readyz`, `/status` and `/metrics`; [`metrics`] the registry
//! - [`telemetry`] logs; [`status_line`] the line of progress on a terminal
//! - [`retry`] back-off with a cap; [`shutdown`] the orderly end

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
