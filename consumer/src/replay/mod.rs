//! Replaying: plans as bulk writes to a MongoDB.
//!
//! Inserts are optimistic: a document that is there is replaced, which is what the insert means
//! when a stretch is replayed (and left alone if it is the same). An update that no command can
//! say, or that a command cannot apply to the stored document, is a rewrite: read, change, replace.
//! What an index refuses while a stretch is applied again is held until it passes.
//!
//! While the target cannot be reached a write is repeated without a limit, with growing pauses; what the
//! target refuses for good ends the program (the directives).

mod capabilities;
pub mod catalog;
pub(crate) mod commands;
mod damage;
pub(crate) mod deferred;
pub mod directive;
mod ordered;
pub mod plan;
pub(crate) mod refusals;
pub(crate) mod target;
pub(crate) mod writes;

pub use crate::replay::deferred::held_document::UNRESOLVED;
pub use crate::replay::deferred::suspended_indexes::suspended_indexes;
pub use crate::replay::target::{MongoSink, Settings};
