//! Time series as servers from 5.0 to 8.x store them: a collection of buckets and a view of it.
//!
//! The series `w` consists of the collection `system.buckets.w`, which has its documents and
//! options, and of a document in `system.views`, through which clients read measurements. A server
//! logs the two separately, in an order that depends on the command. Dropping a series logs a
//! delete in `system.views` and then a `drop` of the buckets, but `dropDatabase` drops
//! `system.views` first. A change of the granularity is logged as a replacement in `system.views`
//! and then a `collMod` of the buckets. Every command of the buckets is therefore ordered with the
//! commands of the series' own name, which another collection may later have, and with all views of
//! the database.

/// The collection that holds the views of a database, one document each.
pub const VIEWS: &str = "system.views";

/// Returns the name of the time series whose buckets a collection holds.
#[must_use]
pub fn of_buckets(collection: &str) -> Option<&str> {
    collection.strip_prefix("system.buckets.")
}
