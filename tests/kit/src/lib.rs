//! The servers, generators and readers that the tests, the demo and the bench share.
//!
//! # Modules
//!
//! - [`services`]: real servers and this workspace's programs as processes
//! - [`stub`]: a fake mongod that serves an oplog and fails on request
//! - [`model`]: a fake mongod that stores data, as the source or the target of a test
//! - [`event_server`]: a fake mongos or replica set that serves the events of a change stream
//! - [`fake_registry`]: a stand-in for a schema registry
//! - [`generated`]: a server of generated documents; [`load`] and [`ddl`]: the writes of a source
//! - [`stream`]: the entries of a source, read with the producer's parts and without Kafka;
//!   [`copying`]: a full sync, likewise
//! - [`topic_reader`]: the records of topics; [`http_status`]: the HTTP endpoints of a program
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

pub mod copying;
pub mod ddl;
pub mod event_server;
pub mod fake_registry;
pub mod generated;
pub mod http_status;
pub mod load;
pub mod model;
pub mod services;
pub mod stream;
pub mod stub;
pub mod topic_reader;
mod wire;
