//! Bulk writes to the target: sending, retries, bisection, and the handling of replies.
//!
//! # Modules
//!
//! - `bulk` sends one bulk until it is acknowledged, within the `limits` of the target; `reply` reads the
//!   answer
//! - `outcome` handles writes that were refused one by one, and updates that found no document;
//!   `command_error` a command that failed as a whole
//! - `unchanged` finds inserts whose document exists already; `equal_id` documents with `_id`s that are equal
//!   under a collation
//! - `rewrite` reads, changes and replaces documents; `find` reads them, in `turn`
//! - `bypass` remembers where validators cannot be bypassed

pub(crate) mod bulk;
pub(crate) mod bypass;
pub(crate) mod command_error;
pub(crate) mod equal_id;
pub(crate) mod find;
pub(crate) mod limits;
pub(crate) mod outcome;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod turn;
pub(crate) mod unchanged;
