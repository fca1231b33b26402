//! Real servers and real processes for the tests and the demo: Apache Kafka with Kafka Connect,
//! FerretDB (MongoDB's wire protocol on SQLite), a schema registry and this workspace's own
//! programs, without a container engine.
//!
//! | file | holds |
//! | --- | --- |
//! | `apicurio` | a schema registry, and its deserializer for Java |
//! | `cache` | the folder that servers are installed into once, and its lock |
//! | `port` | TCP ports that no other test on this machine holds |
//! | `process` | a child process that dies with the test process |
//! | `kafka` | a private Kafka broker, its own tools, its Java partitioner |
//! | `connect` | Kafka Connect with the MongoDB sink and Debezium's transforms |
//! | `ferretdb` | a private FerretDB, with or without an oplog |
//! | `program` | `oplog-producer` and `oplog-consumer` as processes |
//! | `python` | virtual environments of Python, each with one package, for the examples |
//! | `standing` | the servers of `make services-up`, which outlive their starter |
//! | `compose` | the checked model of a compose file |
//! | `wait` | waiting for a condition, with a deadline |
//!
//! All functions block their thread; an async test calls them from a multi-thread runtime. No
//! function sleeps for a fixed time. `OPLOG_RELAY_CACHE` moves the cache, `OPLOG_RELAY_KEEP=1`
//! keeps the working directories (a panicking test always keeps them), `OPLOG_RELAY_BIN_DIR` names
//! the folder of the programs.

mod apicurio;
mod cache;
mod compose;
mod connect;
mod ferretdb;
mod kafka;
mod port;
mod process;
mod program;
mod python;
mod standing;
mod wait;
mod workdir;

pub use apicurio::{Apicurio, url_at as registry_url};
pub use compose::compose_services;
pub use connect::{Connect, Connector};
pub use ferretdb::{FerretDb, FerretDbOptions};
pub use kafka::{Kafka, KafkaLine, KafkaOptions, java_partitions, run_java};
pub use port::Port;
pub use process::peak_kib;
pub use program::{Program, binary};
pub use python::python_with;
pub use standing::{Standing, StandingPorts, StandingState};
pub use wait::{wait_for, wait_until, wait_until_async};
