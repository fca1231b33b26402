//! The contract between oplog-producer and oplog-consumer: what stands on the topics, and what it
//! means.
//!
//! # Guarantees
//!
//! 1. **No loss.** The saved position never passes an entry that Kafka has not committed.
//! 2. **Every entry exactly once in Kafka**, for a `read_committed` reader: records and position
//!    commit in one Kafka transaction under a fixed `transactional.id` per source, across kill -9
//!    and broker restarts. Retries inside the Kafka client are out of reach: brokers before KIP-890
//!    can commit a transaction in part, and because the position is written last, that can double
//!    an entry and never lose one.
//! 3. **Order per document.** All entries of one document are in one partition, in oplog order;
//!    those of a collection whose documents depend on each other are in one partition as a whole.
//! 4. **Convergent replay.** Any stretch of the topics, entered at a consistent cut and applied
//!    again in order, leads the target to the same state, up to the order of fields where a `$v: 1`
//!    `$unset` before a `$set` of the same field is applied again. Diffs (`$v: 2`) keep the order.
//! 5. **Nothing silent.** What cannot be decoded, mapped, sent or applied stops the stream with an
//!    exit code of its own; a lost position says what is missing and what to do.
//! 6. **Bounded memory**, the Kafka client's queues included.
//! 7. **Proof.** `oplog-consumer verify` compares source and target byte for byte, in bounded memory,
//!    while both are written to, and goes on after an interruption.
//!
//! Commands (DDL) are ordered by [`barrier`]s: in whatever process its partitions are read, a
//! command runs after all earlier and before all later writes of its collections.
//!
//! A transaction is taken apart where it commits: each operation is an entry of its own with the
//! commit's time, its ordinal, and its place in the transaction. What is exactly once is the entry;
//! one transaction of the source may span several Kafka transactions.
//!
//! # Words
//!
//! *entry* (oplog), *document* (MongoDB), *record* (Kafka), *batch*, *key*; *position* (in the
//! source), *offset* (Kafka only), *checkpoint* (a saved position), *commit* (Kafka offsets or
//! transaction), *full sync* (copy of what is there), *tail* (follow the oplog), *replay* (to MongoDB), *emit* (JSON to others),
//! *barrier*, *incarnation* (one life of a collection, between its creation and its drop), *source*
//! (a replica set or a dump), *lag*.
//!
//! # The map
//!
//! Nothing here does I/O, reads a clock or needs a runtime:
//!
//! - [`document`] raw BSON in place; [`entry`] an oplog entry's header; [`position`] times and ids
//! - [`command`] what commands there are; [`time_series`] collections that are two things in the log; [`barrier`] the records that keep them in order;
//!   [`routing`] an operator's change of the routing table, which they keep in order too
//! - [`diff`] what `$v: 2` diffs and `$v: 1` modifiers make of a document
//! - [`key`] the record key and its partition; [`compare`] MongoDB's order of values
//! - [`json`] raw BSON ↔ Extended JSON; [`mod@format`] what stands in a record
//! - [`snapshot`] the entries of a full sync; [`topic`] names in Kafka; [`state`] what a source saves; [`filter`] which namespaces pass
//!
//! Clients, configuration, logs, HTTP and exit codes are in the crate `oplog-relay-runtime`, which
//! this one does not know.

pub mod barrier;
pub mod command;
pub mod compare;
pub mod diff;
pub mod document;
pub mod entry;
pub mod filter;
pub mod format;
pub mod index;
pub mod json;
pub mod key;
pub mod position;
pub mod routing;
pub mod snapshot;
pub mod state;
pub mod time_series;
pub mod topic;
