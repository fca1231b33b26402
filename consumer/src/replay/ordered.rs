//! Collections of the target whose documents depend on each other, so that the order of their
//! writes counts beyond each document: those with a unique index besides `_id`, capped ones, and
//! those with a collation of their own.

use mongodb::bson::doc;
use oplog_relay_runtime::mongo::documents_depend;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::ConsumerError;
use crate::replay::target::MongoSink;
use crate::worker::batch::Located;

/// What was found of collections, by namespace. Forgotten when a command changes one.
pub(crate) type Known = FxHashMap<String, bool>;

impl MongoSink {
    /// The collections of a batch whose order is kept across their documents. Taken once for a
    /// batch: commands of other collections may make what is known be forgotten meanwhile.
    pub(crate) async fn ordered_of<'a>(
        &self,
        entries: &[Located<'a>],
    ) -> Result<FxHashSet<&'a str>, ConsumerError> {
        let all: FxHashSet<&str> = entries.iter().map(|located| located.entry.ns).collect();
        let mut ordered = FxHashSet::default();
        for ns in all {
            let known = self.known_order().get(ns).copied();
            let is_ordered = match known {
                Some(is_ordered) => is_ordered,
                None => self.is_ordered_now(ns).await?,
            };
            if is_ordered {
                ordered.insert(ns);
            }
        }
        Ok(ordered)
    }

    /// Whether a collection's order is kept across its documents, as the target says now.
    pub(crate) async fn is_ordered_now(&self, ns: &str) -> Result<bool, ConsumerError> {
        let is_ordered = self
            .persist("reading a collection's indexes", || self.find_order(ns))
            .await?;
        self.known_order().insert(ns.to_owned(), is_ordered);
        Ok(is_ordered)
    }

    /// A command may have changed it.
    pub(crate) fn forget_order(&self) {
        self.known_order().clear();
    }

    async fn find_order(&self, ns: &str) -> mongodb::error::Result<bool> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        documents_depend(&self.client.database(db), doc! { "name": collection }).await
    }
}
