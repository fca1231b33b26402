//! An in-memory MongoDB target: it takes commands and applies them as a server of 4.2 to 8.0
//! does, byte for byte, for every type that BSON has, with options, indexes and views. In-process
//! it replays plans; behind [`ModelServer`] it serves drivers.
//!
//! | file | holds |
//! | --- | --- |
//! | `version` | which server it is |
//! | `command` | the commands and their arguments |
//! | `failure`, `duplicate` | what is refused, by code; the replies about duplicate keys |
//! | `namespace` | which collections and views there are |
//! | `record` | one collection: its documents and indexes |
//! | `options`, `spec`, `expiry`, `collation` | what `create` and `createIndexes` take |
//! | `index`, `path` | the keys of unique indexes |
//! | `form` | the values that other indexes refuse |
//! | `filter` | queries |
//! | `fields`, `update` | documents taken apart; `$set`, `$unset`, `$inc`, `$push` with dotted paths |
//! | `write`, `statement` | `insert`, `update`, `delete`; one statement of an `update` |
//! | `read` | `find`, `getMore`, the lists |
//! | `ddl`, `indexes`, `coll_mod` | what changes collections |
//! | `time_series` | collections of buckets and the views before them |
//! | `replay` | plans of the consumer |
//! | `contents` | what it holds, to be compared |
//! | `golden` | the golden oplogs and the states that they must lead to |
//! | `server` | the model on a port |
//! | `source` | an oplog beside the data, and what else a full sync asks for |
//!
//! `README.md` beside this file says which behaviour of which server each part stands for.
//!
//! What it does not have answers with 238, or 59 as an unknown command: sessions, transactions,
//! update pipelines but for `$replaceWith` of a literal (40324), aggregation but for samples, patterns in queries, `v: 1` indexes, running views.

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

use read::Cursors;
use record::Collection;

pub use contents::{Collections, State};
pub use failure::Failure;
pub use golden::{Agreement, Scenario};
pub use server::ModelServer;
pub use version::Version;

/// The target.
#[derive(Debug, Clone, Default)]
pub struct Model {
    version: Version,
    /// Where it is served.
    address: String,
    /// Collections by database and name.
    databases: BTreeMap<String, BTreeMap<String, Collection>>,
    cursors: Cursors,
    /// UUIDs and times given so far.
    uuids: u64,
    /// Updates of a replay that found no document.
    pub unmatched: u64,
    /// Updates of a replay that were made by reading, changing and replacing.
    pub rewritten: u64,
}

impl Model {
    /// An empty server of that version.
    #[must_use]
    pub fn of(version: Version) -> Model {
        Model {
            version,
            ..Model::default()
        }
    }
}
