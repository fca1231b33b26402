//! Both programs between real servers (Kafka and FerretDB), the documentation, and the servers
//! themselves.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers are small in tests"
)]

mod bench;
mod compose;
mod consumer;
mod documents;
mod dump;
mod full_sync;
mod history;
mod memory;
mod order;
mod pipeline;
mod producer;
mod services;
mod support;
mod tail;
mod verify;
