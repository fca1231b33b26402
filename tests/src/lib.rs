//! What the tests of this workspace share.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "in a test harness a panic is the failure report, and standard error its log"
)]

pub mod services;
