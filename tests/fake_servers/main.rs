//! The parts that talk to servers, tested against servers in this process: a fake mongod on a port,
//! and the mock cluster of librdkafka.

mod change_streams;
mod collections;
mod cutover;
mod fake_mongod;
mod full_sync;
mod lookup;
mod programs;
mod publisher;
mod replay;
mod tail;
mod transactions;
