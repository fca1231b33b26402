//! Shards the collections that `--shard-collections` names when the replay creates them.

use mongodb::bson::{Document, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{error_code, error_text};

use crate::error::ConsumerError;
use crate::replay::commands::DriverResult;
use crate::replay::commands::failure::CommandFailure;
use crate::replay::directive::UNAUTHORIZED;
use crate::replay::sharding::catalog::is_permanent;
use crate::replay::sink::MongoSink;

/// `CommandNotFound`: a server without `enableSharding` does not need it. It has no effect since 6.0.
const NO_COMMAND: i32 = 59;

const RIGHTS: &str = "grant the target's user the role clusterManager, or the action enableSharding on \
                      the collection";
const RULES: &str = "the collection must not be capped, and each unique index besides _id must begin with \
                     the shard key";

/// The state of a collection before a write to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The operator has not configured a shard key.
    NotConfigured,
    /// It has just been sharded.
    Sharded,
    /// It has documents, so it is not sharded.
    HasDocuments,
}

impl MongoSink {
    /// Shards a collection that the replay has just created, if its shard key is configured. It may be
    /// sharded already.
    pub(crate) async fn shard_created(
        &self,
        namespace: Namespace<'_>,
    ) -> Result<(), ConsumerError> {
        let ns = namespace.to_string();
        let Some(key) = self.policies.shard_collections.get(&ns) else {
            return Ok(());
        };
        let refused = self
            .persist("sharding a collection", || self.shard(namespace, key))
            .await?;
        self.forget_shard_key(&ns);
        match refused {
            None => {
                tracing::info!(ns, %key, "the collection is sharded on the target");
                Ok(())
            }
            Some(error) => Err(CommandFailure::NotSharded {
                key: key.to_string(),
                text: error_text(&error),
                advice: match error_code(&error) {
                    Some(UNAUTHORIZED) => RIGHTS,
                    _ => RULES,
                },
                ns,
            }
            .into()),
        }
    }

    /// Shards a collection that is about to be written to, if its shard key is configured and it has no
    /// documents.
    pub(crate) async fn shard_before_write(&self, ns: &str) -> Result<Before, ConsumerError> {
        if !self.policies.shard_collections.contains_key(ns) {
            return Ok(Before::NotConfigured);
        }
        let namespace = Namespace::split(ns);
        if self.has_documents(namespace).await? {
            return Ok(Before::HasDocuments);
        }
        self.shard_created(namespace).await?;
        Ok(Before::Sharded)
    }

    /// Shards a collection. Returns the error if the target permanently refuses that.
    async fn shard(
        &self,
        Namespace { db, collection }: Namespace<'_>,
        key: &Document,
    ) -> DriverResult<Option<mongodb::error::Error>> {
        let admin = self.target.client.database("admin");
        let enable = doc! { "enableSharding": db };
        let shard = doc! {
            "shardCollection": format!("{db}.{collection}"), "key": key.clone(),
            // This is required for a collection with a collation of its own, and has no effect on
            // others: shard keys are always compared without a collation.
            "collation": { "locale": "simple" },
        };
        for command in [enable, shard] {
            let is_optional = command.contains_key("enableSharding");
            match admin.run_command(command).await {
                Ok(_) => {}
                Err(error) if is_optional && error_code(&error) == Some(NO_COMMAND) => {}
                Err(error) if is_permanent(&error) => return Ok(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Warns that a collection is not sharded although its shard key is configured.
pub(crate) fn report_unsharded(ns: &str) {
    tracing::warn!(
        ns,
        "the collection has documents on the target and is not sharded by --shard-collections; leaving it \
         as it is"
    );
}
