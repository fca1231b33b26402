//! The parts that the tests of this package share beside the kit; `hard_cases` says which test
//! covers which hard case.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "in a test harness a panic is the failure report, output its log, and numbers small"
)]

pub mod hard_cases;
pub mod schema;
