//! The replay: applies entries to a MongoDB deployment, as bulk writes and commands.
//!
//! Inserts are optimistic. A document that already exists, because entries are applied again, is
//! replaced, or left unchanged if it is equal. An update that no command can express, or that a
//! command cannot apply to the stored document, is a rewrite: the document is read, changed and
//! replaced. A document that an index refuses while entries are applied again is held until the
//! index accepts it.
//!
//! While the target cannot be reached, a write is retried without a limit, with increasing pauses.
//! A write that is refused permanently ends the program or becomes a dead letter (see
//! [`directive`]).
//!
//! # Modules
//!
//! - [`plan`] turns the entries of a batch into writes, and commands of an oplog into commands for a
//!   target; pure code
//! - `sink` sends a plan to the target
//! - `target` holds the client and the limits of the target, `capabilities` detects optional features of
//!   the server, and `ordered` finds collections whose writes must keep their order
//! - `writes` sends bulk writes, retries and bisects them, and rewrites documents
//! - `commands` runs commands and records them in the [`catalog`]
//! - `index_key` makes the keys of indexes comparable
//! - `held_documents` holds documents that an index refuses temporarily, and suspends such indexes
//! - `note` writes the notes of the catalog and of `held_documents`
//! - `sharding` routes writes to collections that are sharded on the target, and moves documents between
//!   shards
//! - `refusals` handles writes that the target refuses permanently, `damage` has the error for
//!   malformed documents, `request_refused` the one for other requests
//! - [`directive`] is the table of the target's error codes

mod capabilities;
pub mod catalog;
pub mod commands;
pub mod damage;
pub mod directive;
pub mod held_documents;
pub(crate) mod index_key;
mod note;
mod ordered;
pub mod plan;
pub(crate) mod refusals;
pub mod request_refused;
pub(crate) mod sharding;
pub(crate) mod sink;
mod target;
pub mod writes;

pub use crate::replay::held_documents::error::UNRESOLVED;
pub use crate::replay::held_documents::suspended_indexes::suspended_indexes;
pub use crate::replay::sink::{MongoSink, Settings};
