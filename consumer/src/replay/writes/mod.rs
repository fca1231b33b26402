//! Bulk writes to the target: sending, retries, bisection, and the handling of replies.
//!
//! # Modules
//!
//! - `bulk` sends one bulk until it is acknowledged, within the `limits` of the target; `reply` parses
//!   the replies
//! - `outcome` handles writes that were refused individually, and updates that found no document;
//!   `command_error` handles commands that failed as a whole; `failure` has the errors of both
//! - `unchanged` finds inserts whose document already exists; `equal_id` handles documents whose `_id`s
//!   are equal under a collation
//! - `rewrite` reads, changes and replaces documents; `find` reads documents by their `_id`; `permits`
//!   limits the number of concurrent reads
//! - `bypass` tracks the collections whose validators cannot be bypassed

pub(crate) mod bulk;
pub(crate) mod bypass;
pub(crate) mod command_error;
pub(crate) mod equal_id;
pub mod failure;
pub(crate) mod find;
pub(crate) mod limits;
pub(crate) mod outcome;
pub(crate) mod permits;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod unchanged;
