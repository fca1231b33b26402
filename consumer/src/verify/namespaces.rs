//! The collections and views of both sides, and their definitions.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use mongodb::bson::{Document as Bson, doc};
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::time_series;
use oplog_relay_core::topic::is_temporary;
use oplog_relay_runtime::mongo::{MongoError, REPLY_LIMIT, error_code, error_text, hello, in_time};

use super::definition::Definition;
use super::side::Server;
use crate::error::ConsumerError;
use crate::replay::plan::translation::done;

/// The error code of `listIndexes` for a view.
const IS_A_VIEW: i32 = 166;

/// The definitions on both sides, sorted by namespace.
pub(super) type Listing = BTreeMap<String, [Option<Definition>; 2]>;

/// Returns the collections and views that exist on either side and that the filter includes. The
/// servers' own collections (most of `system.*`, admin, config, local, a replay's catalog) are excluded
/// because they always differ. Temporary collections are excluded too. Indexes are not read yet.
pub(super) async fn both(
    servers: [&Server; 2],
    filter: &NamespaceFilter,
) -> Result<Listing, ConsumerError> {
    let mut all = Listing::new();
    for (place, server) in servers.into_iter().enumerate() {
        let names = in_time(REPLY_LIMIT, server.client.list_database_names()).await;
        for db in names.map_err(|error| failed(server, &error))? {
            // The collections of internal databases are not listed: few users have the privilege for it.
            if is_internal(&format!("{db}.x")) {
                continue;
            }
            for (name, definition) in listed(server, &db, None).await? {
                let ns = format!("{db}.{name}");
                if is_compared(&name) && filter.passes(&ns) {
                    let sides = all.entry(ns).or_default();
                    if let Some(side) = sides.get_mut(place) {
                        *side = Some(definition);
                    }
                }
            }
        }
    }
    Ok(all)
}

/// Returns true if a collection is compared. Of the `system.*` collections, only those with user data
/// are compared: the buckets of time series, and `system.js`.
fn is_compared(name: &str) -> bool {
    let own = !name.starts_with("system.")
        || name == "system.js"
        || time_series::of_buckets(name).is_some();
    own && !is_temporary(name)
}

/// Returns the current definition of a collection or view, with its indexes.
pub(super) async fn one(server: &Server, ns: &str) -> Result<Option<Definition>, ConsumerError> {
    let Namespace {
        db,
        collection: name,
    } = Namespace::split(ns);
    let Some((_, mut found)) = listed(server, db, Some(name)).await?.pop() else {
        return Ok(None);
    };
    // A server lists the indexes of buckets as those of their time series.
    if found.form == "view" || time_series::of_buckets(name).is_some() {
        return Ok(Some(found));
    }
    let collection = server.client.database(db).collection::<Bson>(name);
    let command = doc! { "listIndexes": collection.name(), "cursor": {} };
    match all(server, db, command).await {
        Ok(indexes) => {
            let named = indexes.into_iter().filter_map(|index| {
                let name = index.get_str("name").ok()?.to_owned();
                Some((name, index))
            });
            found.indexes = named.collect();
            Ok(Some(found))
        }
        // The collection was dropped in the meantime, or is a view.
        Err(error) if error_code(&error) == Some(done::NO_COLLECTION) => Ok(None),
        Err(error) if error_code(&error) == Some(IS_A_VIEW) => Ok(Some(found)),
        Err(error) => Err(failed(server, &error)),
    }
}

/// Returns the shard keys of the collections that are sharded on a server; none if it is not a mongos.
/// Without the right to read them, the indexes of shard keys are compared like all others.
pub(super) async fn shard_keys(server: &Server) -> BTreeMap<String, Bson> {
    let mut keys = BTreeMap::new();
    let is_mongos = hello(&server.client)
        .await
        .is_ok_and(|hello| hello.is_mongos);
    if !is_mongos {
        return keys;
    }
    let command = doc! { "find": "collections", "projection": { "key": 1, "dropped": 1 } };
    match all(server, "config", command).await {
        Ok(found) => {
            for sharded in found {
                let is_dropped = sharded.get_bool("dropped").unwrap_or(false);
                let (ns, key) = (sharded.get_str("_id"), sharded.get_document("key"));
                if let (Ok(ns), Ok(key), false) = (ns, key, is_dropped) {
                    keys.insert(ns.to_owned(), key.clone());
                }
            }
        }
        Err(error) => tracing::warn!(
            side = %server.side,
            reason = error_text(&error),
            "the shard keys cannot be read, so the index of a shard key that exists on one side counts \
             as a difference; the role clusterMonitor has the right to read them"
        ),
    }
    keys
}

async fn listed(
    server: &Server,
    db: &str,
    name: Option<&str>,
) -> Result<Vec<(String, Definition)>, ConsumerError> {
    let mut command = doc! { "listCollections": 1 };
    if let Some(name) = name {
        command.insert("filter", doc! { "name": name });
    }
    let listed = all(server, db, command).await;
    let listed = listed.map_err(|error| failed(server, &error))?;
    let read = |listed: Bson| {
        let name = listed.get_str("name").ok()?.to_owned();
        let form = listed.get_str("type").unwrap_or("collection").to_owned();
        let options = listed.get_document("options").cloned().unwrap_or_default();
        let indexes = BTreeMap::new();
        Some((
            name,
            Definition {
                form,
                options,
                indexes,
            },
        ))
    };
    Ok(listed.into_iter().filter_map(read).collect())
}

/// Returns all documents of a command's cursor.
async fn all(server: &Server, db: &str, command: Bson) -> mongodb::error::Result<Vec<Bson>> {
    let database = server.client.database(db);
    let listed = async {
        database
            .run_cursor_command(command)
            .await?
            .try_collect()
            .await
    };
    in_time(REPLY_LIMIT, listed).await
}

fn failed(server: &Server, error: &mongodb::error::Error) -> ConsumerError {
    MongoError::from_driver(&format!("the {}", server.side), error).into()
}
