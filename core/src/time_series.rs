//! Time series, as servers from 5.0 to 8.x keep them: a collection of buckets with a view before it.
//!
//! The series `w` is the collection `system.buckets.w`, which has its documents and its options, and
//! a document of `system.views`, by which clients read measurements. A server logs the two
//! separately, in an order that depends on the command: a series that is dropped is a delete in
//! `system.views` and then a `drop` of the buckets, but `dropDatabase` drops `system.views` first,
//! and a new granularity is a replacement in `system.views` and then a `collMod` of the buckets.
//! So every command of the buckets is in one order with those of the series' own name, which may
//! become another collection's, and with all views of the database.

/// Where the views of a database stand, a document each.
pub const VIEWS: &str = "system.views";

/// The time series whose buckets a collection holds.
#[must_use]
pub fn of_buckets(collection: &str) -> Option<&str> {
    collection.strip_prefix("system.buckets.")
}
