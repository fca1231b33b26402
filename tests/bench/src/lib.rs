//! Benchmarks of both programs.
//!
//! - [`comparison`]: whole programs, compared with the plain clients
//! - [`pieces`]: the steps of the work per entry
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a panic is the failure report, output is the log, and numbers are small"
)]

pub mod comparison;
pub mod pieces;
