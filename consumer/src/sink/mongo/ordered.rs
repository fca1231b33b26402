//! Collections of the target whose documents depend on each other, so that the order of their
//! writes counts beyond each document: those with a unique index besides `_id`, capped ones, and
//! those with a collation of their own.

use std::collections::BTreeSet;

use mongodb::bson::{Document, doc};
use rustc_hash::FxHashMap;

use super::MongoSink;
use crate::batch::Located;
use crate::error::ConsumerError;

/// What was found of collections, by namespace. Forgotten when a command changes one.
pub(super) type Known = FxHashMap<String, bool>;

/// There is no such collection.
const NO_COLLECTION: i32 = 26;

impl MongoSink {
    /// Looks up those collections of a batch that are not known yet.
    pub(super) async fn look_up_order(&self, entries: &[Located<'_>]) -> Result<(), ConsumerError> {
        let unknown: BTreeSet<&str> = {
            let known = self.known_order();
            let unknown = entries.iter().map(|located| located.entry.ns);
            unknown.filter(|ns| !known.contains_key(*ns)).collect()
        };
        for ns in unknown {
            let is_ordered = self
                .persist("reading a collection's indexes", || self.find_order(ns))
                .await?;
            if is_ordered {
                tracing::debug!(
                    ns,
                    "the order of this collection is kept across its documents"
                );
            }
            self.known_order().insert(ns.to_owned(), is_ordered);
        }
        Ok(())
    }

    /// Whether a collection's order is kept across its documents.
    pub(super) fn is_ordered(&self, ns: &str) -> bool {
        self.known_order().get(ns).copied().unwrap_or(false)
    }

    /// A command may have changed it.
    pub(super) fn forget_order(&self) {
        self.known_order().clear();
    }

    async fn find_order(&self, ns: &str) -> mongodb::error::Result<bool> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let database = self.client.database(db);
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        let reply = database.run_command(list).await?;
        let found = first_batch(&reply);
        let options = found
            .first()
            .and_then(|found| found.get_document("options").ok());
        if options.is_some_and(depends_by_options) {
            return Ok(true);
        }
        if found.is_empty() {
            return Ok(false);
        }
        let indexes = match database
            .run_command(doc! { "listIndexes": collection })
            .await
        {
            Ok(reply) => reply,
            Err(error) => {
                let code = oplog_relay_core::runtime::mongo::error_code(&error);
                return if code == Some(NO_COLLECTION) {
                    Ok(false)
                } else {
                    Err(error)
                };
            }
        };
        Ok(first_batch(&indexes).into_iter().any(limits_documents))
    }
}

fn first_batch(reply: &Document) -> Vec<&Document> {
    let batch = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    let batch = batch.map(Vec::as_slice).unwrap_or_default();
    batch.iter().filter_map(|item| item.as_document()).collect()
}

fn depends_by_options(options: &Document) -> bool {
    let collation = options.get_document("collation").ok();
    let locale = collation.and_then(|collation| collation.get_str("locale").ok());
    options.get_bool("capped").unwrap_or(false) || locale.is_some_and(|locale| locale != "simple")
}

fn limits_documents(index: &Document) -> bool {
    index.get_bool("unique").unwrap_or(false) && index.get_str("name").ok() != Some("_id_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_indexes_capped_collections_and_collations_depend() {
        let capped = doc! { "capped": true, "size": 9 };
        let simple = doc! { "collation": { "locale": "simple" } };
        let german = doc! { "collation": { "locale": "de" } };
        assert!(depends_by_options(&capped) && depends_by_options(&german));
        assert!(!depends_by_options(&simple) && !depends_by_options(&Document::new()));
        let id = doc! { "name": "_id_", "unique": true };
        let plain = doc! { "name": "a_1" };
        let unique = doc! { "name": "a_1", "unique": true };
        assert!(limits_documents(&unique) && !limits_documents(&plain) && !limits_documents(&id));
    }
}
