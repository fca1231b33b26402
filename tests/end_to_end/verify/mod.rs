//! `oplog-consumer verify` and `audit`: the differences that they find, and the repairs.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic is the failure report, and numbers are small"
)]

mod audit;
mod copied;
mod definitions;
mod documents;
mod large;
mod live;
mod scene;
