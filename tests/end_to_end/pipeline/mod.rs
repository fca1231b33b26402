//! The whole pipeline on real servers: a dump through Kafka into a target, or out as JSON, with
//! crashes, resets and restarts of servers.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic is the failure report, and numbers are small"
)]

mod emit;
mod history;
mod replay;
mod scene;
mod verify;
