//! The contract between oplog-producer and oplog-consumer: the records on the topics, and their
//! meaning.
//!
//! # Guarantees
//!
//! 1. **No loss.** The saved position never passes an entry that Kafka has not committed.
//! 2. **Every entry exactly once in Kafka**, for a `read_committed` reader. Records and position
//!    commit in one Kafka transaction under a fixed `transactional.id` per source, across kill -9
//!    and broker restarts. Retries inside the Kafka client cannot be controlled: brokers before
//!    KIP-890 can commit a transaction in part. Because the position is written last, that can
//!    duplicate an entry but never lose one.
//! 3. **Order per document.** All entries of one document are in one partition, in oplog order. If
//!    the documents of a collection depend on each other, the whole collection is in one partition.
//! 4. **Convergent replay.** Any part of the topics, read from a consistent cut and applied again
//!    in order, brings the target to the same state. The exception is the order of fields if a
//!    `$v: 1` `$unset` before a `$set` of the same field is applied again. Diffs (`$v: 2`) keep the
//!    order.
//! 5. **No silent errors.** Data that cannot be decoded, mapped, sent or applied stops the stream
//!    with a specific exit code, or becomes a dead letter if the operator has configured that. A
//!    lost position is reported with the missing range and the action to take.
//! 6. **Bounded memory**, the Kafka client's queues included.
//! 7. **Verification.** `oplog-consumer verify` compares source and target byte for byte in bounded
//!    memory while both receive writes. It continues after an interruption.
//!
//! Commands (DDL) are ordered by [`barrier`]s. Whichever processes read the partitions, a command
//! runs after all earlier and before all later writes of its collections. The exception is the
//! creation of an index that is not unique: later writes do not wait for it, and it waits for
//! earlier ones only if it can refuse a document.
//!
//! A transaction is split into its operations at its commit: each operation becomes an entry with
//! the timestamp of the commit, its ordinal, and its place in the transaction. Exactly once applies
//! to the entry: one transaction of the source may span several Kafka transactions.
//!
//! # Terms
//!
//! The terms are defined in docs/glossary.md. In short: an *entry* is in the oplog, a *record* in Kafka
//! and a *document* in MongoDB; a *position* is in the source, and an *offset* in a Kafka partition.
//!
//! # Modules
//!
//! No module does I/O, reads a clock or needs an async runtime:
//!
//! - [`document`]: raw BSON without decoding; [`entry`]: the header of an oplog entry;
//!   [`position`]: timestamps and identities; [`collection_uuid`]: the UUID of a collection
//! - [`command`]: the table of commands; [`time_series`]: collections that the oplog logs as
//!   buckets and a view; [`barrier`]: the records that keep commands in order; [`routing`]: an
//!   operator's change of the routing table, which barriers order too
//! - [`diff`]: the application of `$v: 2` diffs and `$v: 1` modifiers to a document
//! - [`index`]: indexes that can refuse a document
//! - [`key`]: the record key and its partition; [`compare`]: MongoDB's order of values
//! - [`json`]: raw BSON ↔ Extended JSON; [`mod@format`]: the encoding of records; [`foreign`]:
//!   records of other programs
//! - [`snapshot`]: the entries of a full sync; [`namespace`]: the two parts of a namespace;
//!   [`topic`]: names in Kafka; [`state`]: the saved state of a source, and [`resume`] the point of a
//!   change stream in it; [`filter`]: the namespace filter
//!
//! Clients, configuration, logs, HTTP and exit codes are in the crate `oplog-relay-runtime`, on
//! which this crate does not depend.

pub mod barrier;
pub mod collection_uuid;
pub mod command;
pub mod compare;
pub mod diff;
pub mod document;
pub mod entry;
pub mod filter;
pub mod foreign;
pub mod format;
pub mod index;
pub mod json;
pub mod key;
pub mod namespace;
pub mod position;
pub mod resume;
pub mod routing;
pub mod snapshot;
pub mod state;
pub mod time_series;
pub mod topic;
