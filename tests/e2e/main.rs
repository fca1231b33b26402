//! Both programs end to end, on real Kafka and FerretDB.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "numbers are small in tests"
)]

mod dump;
mod history;
mod producer;
mod support;
