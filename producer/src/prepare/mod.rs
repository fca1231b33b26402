//! Work that must precede the encoding of entries: splitting transactions, finding routes, looking
//! up documents, creating topics and checking their owners.
//!
//! # Modules
//!
//! - `transaction` determines the role of each entry, and splits transactions into operations
//! - `route` finds the topic and partition of each entry
//! - `lookup` looks up the documents of updates, and the documents before changes
//! - `topics` creates topics, and refuses those whose settings would lose or reorder data
//! - `internal_topics` does the same for the two internal topics of a source
//! - `claims` reads which topics other sources of the prefix have claimed

pub mod claims;
pub mod internal_topics;
pub mod lookup;
pub mod route;
pub mod topics;
pub mod transaction;
