//! Collections of the target whose documents depend on each other, so that the order of writes
//! matters across documents: those with a unique index besides `_id`, capped collections, and those
//! with their own collation.

use mongodb::bson::doc;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::documents_depend;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::ConsumerError;
use crate::replay::sink::MongoSink;
use crate::worker::batch::Located;

/// Cached order requirements of collections, by namespace. The cache is cleared when a command
/// runs, and when an index is suspended or built again.
pub(crate) type Known = FxHashMap<String, bool>;

impl MongoSink {
    /// Returns the collections of a batch whose writes must keep their order across documents. It is
    /// called once per batch: a command of another worker may clear the cache at any time, and the
    /// answer must not change within a plan.
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

    /// Queries the target and caches the result. Returns true if the writes of a collection must
    /// keep their order across documents.
    pub(crate) async fn is_ordered_now(&self, ns: &str) -> Result<bool, ConsumerError> {
        let is_ordered = self
            .persist("reading a collection's indexes", || self.find_order(ns))
            .await?;
        self.known_order().insert(ns.to_owned(), is_ordered);
        Ok(is_ordered)
    }

    /// Clears the cached order and shard keys of collections, which a command may have changed.
    pub(crate) fn forget_order(&self) {
        self.known_order().clear();
        self.forget_shard_keys();
    }

    async fn find_order(&self, ns: &str) -> mongodb::error::Result<bool> {
        let Namespace { db, collection } = Namespace::split(ns);
        documents_depend(
            &self.target.client.database(db),
            doc! { "name": collection },
        )
        .await
    }
}
