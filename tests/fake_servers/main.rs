//! The parts that talk to servers, against servers of this process on a port: a fake mongod, and the
//! mock cluster of librdkafka.

mod collections;
mod cutover;
mod fake_mongod;
mod full_sync;
mod publisher;
mod replay;
mod tail;
mod transactions;
