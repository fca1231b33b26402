//! What must be known or done before entries are encoded: transactions taken apart, routes, topics and
//! their owners.

pub mod claims;
pub mod internal_topics;
pub mod route;
pub mod topics;
pub mod transaction;
