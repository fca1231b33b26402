//! Which collections are compared.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use mongodb::Client;
use mongodb::results::CollectionType;
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::runtime::mongo::MongoError;

use crate::error::ConsumerError;

/// Collections that either side has and the filter lets pass, in order. Views are not data; the
/// servers' own collections (`system.*`, admin, config, local) differ by nature.
pub(super) async fn both(
    source: &Client,
    target: &Client,
    filter: &NamespaceFilter,
) -> Result<BTreeSet<String>, ConsumerError> {
    let mut all = of(source, "the source").await?;
    all.extend(of(target, "the target").await?);
    all.retain(|ns| filter.passes(ns));
    Ok(all)
}

async fn of(client: &Client, side: &str) -> Result<BTreeSet<String>, ConsumerError> {
    let failed = |error: mongodb::error::Error| MongoError::from_driver(side, &error);
    let mut all = BTreeSet::new();
    for db in client.list_database_names().await.map_err(failed)? {
        // Saves the question where the privilege to ask it is rare.
        if is_internal(&format!("{db}.x")) {
            continue;
        }
        let collections = client
            .database(&db)
            .list_collections()
            .await
            .map_err(failed)?;
        let collections: Vec<_> = collections.try_collect().await.map_err(failed)?;
        for collection in collections {
            let is_data = collection.collection_type == CollectionType::Collection;
            if is_data && !collection.name.starts_with("system.") {
                all.insert(format!("{db}.{}", collection.name));
            }
        }
    }
    Ok(all)
}
