//! Compares the indexes that a command would create with those that exist on the target.

use mongodb::bson::{Bson, Document, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{error_code, is_set, is_transient};

use crate::error::ConsumerError;
use crate::replay::commands::failure::CommandFailure;
use crate::replay::commands::{Execution, unwritable};
use crate::replay::directive::{Directive, UNAUTHORIZED, rule_for};
use crate::replay::index_key::{key_fields, number};
use crate::replay::plan::translation::{POSTPONED_EXPIRY, done};
use crate::replay::sink::MongoSink;

/// Fields of an index that are not compared: a server adds them, they do not change the definition,
/// or the replay withholds them.
const IGNORED_FIELDS: [&str; 4] = ["v", "ns", "background", "expireAfterSeconds"];

const DROP_INDEX: &str = "drop that index on the target and restart";
const REPLACE_SHARD_KEY_INDEX: &str = "it serves the shard key of the collection; create another index \
                                       that begins with the shard key, drop this one, and restart";

/// Fields of an index that are flags: a number counts as a boolean.
const FLAGS: [&str; 4] = ["unique", "sparse", "hidden", "prepareUnique"];

impl MongoSink {
    /// Returns the command with only those of its indexes that are missing on the target; `None` if
    /// none of them is missing. Existing indexes must be the same, except for what a replay
    /// withholds: `expireAfterSeconds`, which is postponed here, and `unique`, if the index was
    /// created as non-unique because its collection is partitioned by `_id`.
    ///
    /// # Errors
    /// Returns an error if an index with the same name or key has another definition.
    pub(crate) async fn missing_indexes(
        &self,
        command: &[u8],
        execution: Execution<'_>,
    ) -> Result<Option<Document>, ConsumerError> {
        let Execution {
            db,
            ran,
            made_non_unique,
            ..
        } = execution;
        let mut wanted = Document::from_reader(command).map_err(|error| unwritable(ran, &error))?;
        let name = wanted
            .get_str("createIndexes")
            .unwrap_or_default()
            .to_owned();
        let there = self.indexes(db, &name).await?;
        let mut missing = Vec::new();
        let specs = wanted
            .get_array("indexes")
            .map_err(|error| unwritable(ran, &error))?;
        for spec in specs.iter().filter_map(Bson::as_document) {
            let same_name = |index: &&Document| index.get("name") == spec.get("name");
            let found = there.iter().find(same_name);
            let found = found.or_else(|| there.iter().find(|index| key(index) == key(spec)));
            let Some(index) = found else {
                missing.push(Bson::from(spec.clone()));
                continue;
            };
            if definition(index, made_non_unique) != definition(spec, made_non_unique) {
                let serves_shard_key = self.serves_shard_key(db, &name, index).await?;
                if !(serves_shard_key && is_renamed(index, spec, made_non_unique)) {
                    return Err(CommandFailure::OtherIndex {
                        entry: ran.id,
                        ns: ran.ns.clone(),
                        wanted: spec.to_string(),
                        found: index.to_string(),
                        advice: match serves_shard_key {
                            true => REPLACE_SHARD_KEY_INDEX,
                            false => DROP_INDEX,
                        },
                    }
                    .into());
                }
                tracing::info!(
                    ns = ran.ns,
                    entry = %ran.id,
                    wanted = spec.get_str("name").unwrap_or_default(),
                    found = index.get_str("name").unwrap_or_default(),
                    "the index of the shard key has the definition of an index of the source, so that \
                     index is not created under its own name"
                );
            }
            self.postpone_expiry(db, &name, index).await?;
        }
        if missing.is_empty() {
            return Ok(None);
        }
        wanted.insert("indexes", missing);
        Ok(Some(wanted))
    }

    /// Returns true if an index of the target has exactly the fields of its collection's shard key, as
    /// the index that a cluster creates when it shards a collection.
    async fn serves_shard_key(
        &self,
        db: &str,
        collection: &str,
        index: &Document,
    ) -> Result<bool, ConsumerError> {
        let ns = Namespace { db, collection }.to_string();
        let shard_key = self.shard_key_of(&ns).await?;
        let key = index.get_document("key").ok();
        Ok(shard_key
            .zip(key)
            .is_some_and(|(shard_key, key)| shard_key.is_key_of_index(key)))
    }

    /// Returns the definitions of the indexes of a collection that exists.
    pub(crate) async fn indexes(
        &self,
        db: &str,
        name: &str,
    ) -> Result<Vec<Document>, ConsumerError> {
        let reply = self
            .persist("listing indexes", || async {
                let list = doc! { "listIndexes": name };
                self.target.client.database(db).run_command(list).await
            })
            .await?;
        // A collection has at most 64 indexes, which fit in the first batch.
        let cursor = reply.get_document("cursor");
        let batch = cursor.and_then(|cursor| cursor.get_array("firstBatch"));
        let all = batch.map(|batch| {
            batch
                .iter()
                .filter_map(Bson::as_document)
                .cloned()
                .collect()
        });
        Ok(all.unwrap_or_default())
    }

    /// Prevents an existing index from expiring documents during a replay. If the target cannot
    /// change the expiry, the index is dropped and built again without one.
    async fn postpone_expiry(
        &self,
        db: &str,
        name: &str,
        index: &Document,
    ) -> Result<(), ConsumerError> {
        let seconds = index.get("expireAfterSeconds").map(number);
        if seconds.is_none_or(|seconds| seconds == Bson::Double(POSTPONED_EXPIRY.into())) {
            return Ok(());
        }
        let index_name = index.get_str("name").unwrap_or_default();
        tracing::warn!(
            db,
            collection = name,
            index = index_name,
            "postponing the expiry of documents by an existing TTL index of the target until cutover"
        );
        let change = doc! { "name": index_name, "expireAfterSeconds": POSTPONED_EXPIRY };
        let command = doc! { "collMod": name, "index": change };
        let refused = self
            .persist("postponing the expiry of an index", || async {
                let database = self.target.client.database(db);
                match database.run_command(command.clone()).await {
                    Err(error) if is_refusal(&error) => Ok(true),
                    done => done.map(|_| false),
                }
            })
            .await?;
        if refused {
            self.rebuild_without_expiry(db, name, index).await?;
        }
        Ok(())
    }

    /// Drops a TTL index and builds it again without its expiry. If the index is lost between the
    /// two, the command that creates it runs again and builds it.
    async fn rebuild_without_expiry(
        &self,
        db: &str,
        name: &str,
        index: &Document,
    ) -> Result<(), ConsumerError> {
        let mut rebuilt = index.clone();
        rebuilt.remove("expireAfterSeconds");
        rebuilt.remove("ns");
        let drop_index = doc! { "dropIndexes": name, "index": index.get("name") };
        let create = doc! { "createIndexes": name, "indexes": [rebuilt] };
        for command in [drop_index, create] {
            self.persist("rebuilding an index without its expiry", || async {
                let database = self.target.client.database(db);
                match database.run_command(command.clone()).await {
                    Err(error) if error_code(&error) == Some(done::NO_INDEX) => Ok(()),
                    done => done.map(drop),
                }
            })
            .await?;
        }
        Ok(())
    }
}

/// Returns true if a target refuses a command permanently, and not because of a missing privilege.
fn is_refusal(error: &mongodb::error::Error) -> bool {
    let directive = error_code(error).map(|code| (code, rule_for(code).directive));
    match directive {
        Some((UNAUTHORIZED, _) | (_, Directive::Retry)) | None => false,
        Some(_) => !is_transient(error),
    }
}

/// Returns the fields of an index's key, as [`key_fields`] does.
fn key(index: &Document) -> Vec<Bson> {
    let key = index.get_document("key");
    key.map(key_fields).unwrap_or_default()
}

/// Returns true if two indexes differ only in their names.
fn is_renamed(index: &Document, spec: &Document, made_non_unique: bool) -> bool {
    let unnamed = |index: &Document| {
        let mut definition = definition(index, made_non_unique);
        definition.remove("name");
        definition
    };
    unnamed(index) == unnamed(spec)
}

/// Returns the fields that define an index, by name, in a form that can be compared. `unique` is
/// left out if `made_non_unique` is true.
pub(crate) fn definition(
    index: &Document,
    made_non_unique: bool,
) -> std::collections::BTreeMap<String, Bson> {
    let is_option = |name: &str, value: &Bson| {
        let withheld = made_non_unique && name == "unique";
        let is_off = FLAGS.contains(&name) && !is_set(index, name);
        !withheld && !is_off && !IGNORED_FIELDS.contains(&name) && *value != Bson::Boolean(false)
    };
    let options = index.iter().filter(|(name, value)| is_option(name, value));
    let mut definition = std::collections::BTreeMap::new();
    for (name, value) in options {
        let value = match (name.as_str(), value) {
            ("key", _) => Bson::from(key(index)),
            (flag, _) if FLAGS.contains(&flag) => Bson::Boolean(true),
            ("collation", Bson::Document(collation)) => {
                if collation.get_str("locale").ok() == Some("simple") {
                    continue;
                }
                let mut collation = collation.clone();
                collation.remove("version");
                Bson::from(collation)
            }
            (_, value) => number(value),
        };
        definition.insert(name.clone(), value);
    }
    definition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_its_key_name_and_options() {
        let wanted = doc! { "v": 2, "key": { "a": 1, "b": -1 }, "name": "i",
        "collation": { "locale": "simple" }, "expireAfterSeconds": POSTPONED_EXPIRY };
        let same = doc! { "v": 1, "key": { "a": 1.0, "b": -1_i64 }, "name": "i", "sparse": false,
        "ns": "s.a", "expireAfterSeconds": 60 };
        assert_eq!(definition(&wanted, false), definition(&same, false));
        for other in [
            doc! { "key": { "b": -1, "a": 1 }, "name": "i" },
            doc! { "key": { "a": 1, "b": -1 }, "name": "j" },
            doc! { "key": { "a": 1, "b": -1 }, "name": "i", "sparse": true },
            doc! { "key": { "a": 1, "b": -1 }, "name": "i", "collation": { "locale": "de" } },
        ] {
            assert_ne!(
                definition(&wanted, false),
                definition(&other, false),
                "{other}"
            );
        }
        let unique = doc! { "key": { "a": 1, "b": -1 }, "name": "i", "unique": true };
        assert_ne!(definition(&wanted, false), definition(&unique, false));
        assert_eq!(definition(&wanted, true), definition(&unique, true));
        let typed = doc! { "key": { "a": 1, "b": -1 }, "name": "i", "unique": 1.0, "sparse": 0 };
        assert_eq!(definition(&typed, false), definition(&unique, false));
    }
}
