//! An in-memory MongoDB server, the target or the source of a test. It runs commands as a server of
//! 4.2 to 8.0 does, byte for byte, for every BSON type, with options, indexes and views. In-process
//! it replays plans; behind [`ModelServer`] it serves drivers.
//!
//! | file | holds |
//! | --- | --- |
//! | `version` | the server version |
//! | `command` | the commands and their arguments |
//! | `failure`, `duplicate` | refusals, by code; the replies about duplicate keys |
//! | `namespace` | the collections and views |
//! | `record` | one collection: its documents and indexes |
//! | `options`, `spec`, `expiry`, `collation` | the options of `create` and `createIndexes` |
//! | `index`, `path` | the keys of unique indexes |
//! | `form` | the values that other indexes refuse |
//! | `filter` | queries |
//! | `fields`, `update` | documents split into fields; `$set`, `$unset`, `$inc`, `$push` with dotted paths |
//! | `write`, `statement` | `insert`, `update`, `delete`; one statement of an `update` |
//! | `read` | `find`, `getMore`, the lists |
//! | `ddl`, `indexes`, `coll_mod` | commands that change collections |
//! | `time_series` | collections of buckets and the views over them |
//! | `replay` | plans of the consumer |
//! | `contents` | its content, for comparisons |
//! | `golden` | the golden oplogs and the states that they must result in |
//! | `cluster` | a sharded cluster behind a mongos, with transactions |
//! | `server` | the model on a port |
//! | `source` | an oplog beside the data, and the other queries of a full sync |
//!
//! `README.md` beside this file lists the server behaviour that each part models.
//!
//! Unsupported features are refused: transactions of a replica set with 20, update pipelines other than
//! `$replaceWith` of a literal and aggregations other than samples with 40324, regular expressions in
//! queries with 2, and others, such as reads of views, with 238. An unknown command returns 59.

mod cluster;
mod coll_mod;
mod collation;
mod command;
mod contents;
mod ddl;
mod duplicate;
mod expiry;
mod failure;
mod fields;
mod filter;
mod form;
mod golden;
mod index;
mod indexes;
mod namespace;
mod options;
mod path;
mod read;
mod record;
mod replay;
mod server;
mod source;
mod spec;
mod statement;
mod time_series;
mod update;
mod version;
mod write;

use std::collections::BTreeMap;

use cluster::Cluster;
use read::Cursors;
use record::Collection;

pub use contents::{Collections, State};
pub use failure::{Failure, NO_CODE};
pub use golden::{Agreement, Scenario};
pub use server::ModelServer;
pub use version::Version;

/// The model of a server.
#[derive(Debug, Clone, Default)]
pub struct Model {
    version: Version,
    /// The address at which it is served.
    address: String,
    /// Collections by database and name.
    databases: BTreeMap<String, BTreeMap<String, Collection>>,
    cursors: Cursors,
    /// The other shards, if this is a sharded cluster.
    cluster: Option<Box<Cluster>>,
    /// Number of UUIDs and times generated so far.
    uuids: u64,
    /// Number of updates of a replay that did not find a document.
    pub unmatched: u64,
    /// Number of updates of a replay for which the document was read, changed and replaced.
    pub rewritten: u64,
}

impl Model {
    /// Returns a server of that version without data.
    #[must_use]
    pub fn of(version: Version) -> Model {
        Model {
            version,
            ..Model::default()
        }
    }
}
