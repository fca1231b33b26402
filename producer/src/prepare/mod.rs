//! Work that must precede the encoding of entries: splitting transactions, finding routes, looking
//! up the documents of updates, creating topics and checking their owners.

pub mod claims;
pub mod internal_topics;
pub mod lookup;
pub mod route;
pub mod topics;
pub mod transaction;
