//! `oplog-consumer verify` and `audit`: the differences that they find, the repairs, and the rights
//! that they need.
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
