//! Work that must precede the encoding of entries: taking transactions apart, finding routes,
//! looking up the documents of updates, and managing topics and their owners.

pub mod claims;
pub mod internal_topics;
pub mod lookup;
pub mod route;
pub mod topics;
pub mod transaction;
