//! Collections of the target whose documents depend on each other, so that the order of their
//! writes counts beyond each document: those with a unique index besides `_id`, capped ones, and
//! those with a collation of their own.

use std::collections::BTreeSet;

use mongodb::bson::doc;
use oplog_relay_core::runtime::mongo::documents_depend;
use rustc_hash::FxHashMap;

use super::MongoSink;
use crate::batch::Located;
use crate::error::ConsumerError;

/// What was found of collections, by namespace. Forgotten when a command changes one.
pub(super) type Known = FxHashMap<String, bool>;

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
        documents_depend(&self.client.database(db), doc! { "name": collection }).await
    }
}
