//! A target that is a sharded cluster: writes to collections that are sharded by anything but `_id`.
//!
//! A cluster does not keep `_id` unique across its shards. It refuses an upsert whose filter does not
//! have the shard key, and a replacement that it cannot send to a single shard. An update that changes
//! the shard key needs the whole key in its filter and a transaction or a retryable write, because the
//! document may belong to another shard afterwards (`chunk_manager_targeter.cpp`, later
//! `collection_routing_info_targeter.cpp`, and `update_stage.cpp` of MongoDB):
//!
//! | statement | without the shard key in its filter |
//! | --- | --- |
//! | update with upsert | 61 (`ShardKeyNotFound`); MongoDB 7.1 and later search all shards |
//! | replacement without upsert | goes to the shard of the *new* document, and misses one that is elsewhere |
//! | update with operators, by `_id` | is sent to all shards; 72 if the filter has no `_id` either |
//! | delete of one document, by `_id` | is sent to all shards, each of which may delete one |
//! | update that changes the shard key | 31025; with the key, but without a transaction, 20 |
//! | insert | goes to the shard of the document, even if another shard has its `_id` |
//!
//! Therefore each write to such a collection is routed: one `find` per batch reads the stored values
//! of the shard key by `_id`, and the filters have `_id` and these values. A document with another
//! shard key than the stored one *moves*: it is deleted and inserted in one transaction, so that it is
//! never missing or stored twice. A missing field of a shard key counts as null, as on the servers.
//!
//! A replica set, and collections that are not sharded or are sharded by `_id`, need none of this.
//!
//! # Modules
//!
//! - `shard_key` extracts the values of a shard key, and detects updates that may change them
//! - `known` caches the shard keys of collections, `catalog` reads them from the cluster
//! - `created` shards collections that the replay creates
//! - `run` plans writes by the stored values; pure code
//! - `routed` sends what was planned, `changed` the documents that must be read first
//! - `misrouted` refuses writes whose shard key the cluster does not accept
//! - `moved` moves documents by the commands in `move_commands`, and `moving` keeps those that move
//!   without a transaction
//! - `held` writes documents that an index refused before

pub(crate) mod catalog;
pub(crate) mod changed;
mod created;
mod held;
pub(crate) mod known;
mod misrouted;
pub(crate) mod move_commands;
pub(crate) mod moved;
pub(crate) mod moving;
pub(crate) mod routed;
pub(crate) mod run;
pub(crate) mod shard_key;
