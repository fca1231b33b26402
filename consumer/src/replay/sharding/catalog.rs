//! Reads the shard keys of collections from the target.

use std::sync::Arc;

use mongodb::bson::{Document, Timestamp, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{error_code, error_text, is_transient};

use crate::error::ConsumerError;
use crate::replay::commands::DriverResult;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::sharding::created::{Before, report_unsharded};
use crate::replay::sharding::shard_key::ShardKey;
use crate::replay::sink::MongoSink;
use crate::replay::writes::failure::WriteFailure;
use crate::replay::writes::find::ReadLevel;

/// `NamespaceNotFound`: the collection does not exist.
const NO_COLLECTION: i32 = 26;

/// What a cluster reports about a collection.
enum Reported {
    /// It is not sharded.
    Unsharded,
    /// It is sharded; there is no key if `_id` is sufficient to route its writes.
    Sharded(Option<ShardKey>),
    /// It may be sharded, but the user cannot read its shard key, for this reason.
    Hidden(String),
}

impl MongoSink {
    /// Returns true if the documents of a collection are distributed over shards by anything but
    /// `_id`, so that its writes must be routed.
    pub(crate) async fn is_spread(&self, ns: &str) -> Result<bool, ConsumerError> {
        Ok(self.target.sharding.is_some() && self.shard_key_of(ns).await?.is_some())
    }

    /// Returns the shard key of a collection; `None` if `_id` is sufficient to route its writes.
    pub(crate) async fn shard_key_of(
        &self,
        ns: &str,
    ) -> Result<Option<Arc<ShardKey>>, ConsumerError> {
        let Some(sharding) = &self.target.sharding else {
            return Ok(None);
        };
        if let Some(known) = sharding.known(ns) {
            return Ok(known);
        }
        self.read_shard_key(ns, false).await
    }

    /// Reads and caches the shard key of a collection. If a shard key is configured, the collection is
    /// sharded first. `is_repeated` is true for the second reading of a collection that has documents
    /// and is not sharded.
    async fn read_shard_key(
        &self,
        ns: &str,
        is_repeated: bool,
    ) -> Result<Option<Arc<ShardKey>>, ConsumerError> {
        let reported = self
            .persist("reading the shard key of a collection", || {
                self.reported_key(ns)
            })
            .await?;
        let is_sharded = !matches!(reported, Reported::Unsharded);
        let key = match reported {
            Reported::Unsharded => None,
            Reported::Sharded(key) => key.map(Arc::new),
            Reported::Hidden(reason) => {
                return Err(WriteFailure::ShardKeyHidden {
                    ns: ns.to_owned(),
                    reason,
                }
                .into());
            }
        };
        // A collection that is sharded by `_id` has no key here either, but is sharded already.
        if key.is_none() && !is_sharded {
            match self.shard_before_write(ns).await? {
                Before::NotConfigured => {}
                Before::Sharded => return Box::pin(self.shard_key_of(ns)).await,
                // Another member may have sharded it, and written the documents.
                Before::HasDocuments if !is_repeated => {
                    return Box::pin(self.read_shard_key(ns, true)).await;
                }
                Before::HasDocuments => report_unsharded(ns),
            }
        }
        if let Some(sharding) = &self.target.sharding {
            sharding.remember(ns, key.clone());
        }
        Ok(key)
    }

    /// Returns the level of a read that must find each document exactly once, even if it is being moved.
    /// A cluster may acknowledge a transaction before all shards have committed it: until MongoDB 6.1
    /// `coordinateCommitReturnImmediatelyAfterPersistingDecision` is the default. A local read then
    /// finds the document on no shard.
    pub(crate) async fn settled(&self) -> Result<ReadLevel, ConsumerError> {
        if self.target.sharding.is_none() {
            return Ok(ReadLevel::Local);
        }
        let admin = self.target.client.database("admin");
        let reply = self
            .persist("reading the time of the cluster", || {
                admin.run_command(doc! { "ping": 1 }).into_future()
            })
            .await?;
        let time: Option<Timestamp> = reply.get_timestamp("operationTime").ok();
        // A cluster without replica sets reports no time, and has no transactions.
        Ok(time.map_or(ReadLevel::Local, ReadLevel::Settled))
    }

    /// Warns that a collection that is about to be dropped was sharded by an operator: the next
    /// collection of that name is not.
    pub(crate) fn report_lost_key(&self, ns: &str) {
        let sharding = self.target.sharding.as_ref();
        let was_sharded = sharding.is_some_and(|sharding| sharding.was_sharded(ns));
        if was_sharded && !self.policies.shard_collections.contains_key(ns) {
            tracing::warn!(
                ns,
                "the source dropped a collection that is sharded on the target; a later collection of \
                 that name is not sharded unless --shard-collections names it"
            );
        }
    }

    /// Makes the next write to a collection read its shard key again.
    pub(crate) fn forget_shard_key(&self, ns: &str) {
        if let Some(sharding) = &self.target.sharding {
            sharding.forget(ns);
        }
    }

    /// Makes the next write to each collection read its shard key again.
    pub(crate) fn forget_shard_keys(&self) {
        if let Some(sharding) = &self.target.sharding {
            sharding.forget_all();
        }
    }

    /// Reads `config.collections`, which needs the role clusterMonitor. `readWrite` is sufficient for
    /// `collStats`, which tells only whether a collection is sharded, so a user without that role can
    /// write to collections that are not.
    async fn reported_key(&self, ns: &str) -> DriverResult<Reported> {
        let config = self.target.client.database("config");
        let find = doc! {
            "find": "collections", "filter": { "_id": ns }, "limit": 1, "singleBatch": true,
        };
        let refused = match config.run_command(find).await {
            Ok(reply) => return Ok(reported_in(&reply)),
            Err(error) if is_permanent(&error) => error,
            Err(error) => return Err(error),
        };
        let Namespace { db, collection } = Namespace::split(ns);
        let database = self.target.client.database(db);
        match database.run_command(doc! { "collStats": collection }).await {
            Ok(stats) if stats.get_bool("sharded").unwrap_or(false) => {
                Ok(Reported::Hidden(error_text(&refused)))
            }
            Ok(_) => Ok(Reported::Unsharded),
            Err(error) if error_code(&error) == Some(NO_COLLECTION) => Ok(Reported::Unsharded),
            Err(error) if is_permanent(&error) => Ok(Reported::Hidden(error_text(&error))),
            Err(error) => Err(error),
        }
    }
}

/// Returns true if the same request would fail again with this error.
pub(crate) fn is_permanent(error: &mongodb::error::Error) -> bool {
    let directive = error_code(error).map(|code| rule_for(code).directive);
    directive != Some(Directive::Retry) && !is_transient(error)
}

/// Reads a reply of `config.collections`. Servers before 5.0 keep the documents of dropped collections.
/// Since 8.0 it also has collections that are not sharded (`unsplittable`), but were moved to another
/// shard.
fn reported_in(reply: &Document) -> Reported {
    let cursor = reply.get_document("cursor").ok();
    let batch = cursor.and_then(|cursor| cursor.get_array("firstBatch").ok());
    let found = batch.and_then(|batch| batch.first()?.as_document());
    let flag = |name| found.is_some_and(|found| found.get_bool(name).unwrap_or(false));
    let key = found.and_then(|found| found.get_document("key").ok());
    let (Some(found), Some(key)) = (found, key) else {
        return Reported::Unsharded;
    };
    if flag("dropped") || flag("unsplittable") {
        return Reported::Unsharded;
    }
    let collation = found.get_document("defaultCollation").ok();
    let locale = collation.and_then(|collation| collation.get_str("locale").ok());
    let has_collation = locale.is_some_and(|locale| locale != "simple");
    Reported::Sharded(ShardKey::new(key, has_collation))
}
