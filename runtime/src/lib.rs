//! The runtime of both programs: clients, configuration, logs, metrics, HTTP and shutdown.
//!
//! Nothing here depends on the content of a topic or on the role of a program. Code that only the
//! producer or only the consumer needs is in its package.
//!
//! # Modules
//!
//! - [`command_line`]: argument parsing; [`config`]: the layers of flags, environment and file, and
//!   the report of all faults; [`exit`]: the exit codes
//! - [`kafka`]: the administration client, readers, options and errors of Kafka
//! - [`mongo`]: connections to MongoDB, its `hello` reply and its error codes
//! - [`http`]: the pages `/livez`, `/readyz`, `/status` and `/metrics`; [`metrics`]: the metrics
//!   that both programs have
//! - [`telemetry`]: logs; [`status_line`]: the progress line on a terminal
//! - [`retry`]: back-off with a cap; [`shutdown`]: the orderly shutdown;
//!   [`startup_error`]: the reasons why a program cannot start; [`clock`]: the clocks of the host

pub mod clock;
pub mod command_line;
pub mod config;
pub mod exit;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod mongo;
pub mod retry;
pub mod shutdown;
pub mod startup_error;
pub mod status_line;
pub mod telemetry;
