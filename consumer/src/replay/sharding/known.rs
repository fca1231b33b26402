//! Caches the shard keys of the target's collections, and whether the cluster runs transactions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::replay::sharding::shard_key::ShardKey;

/// Time after which a shard key is read again. An operator may shard a collection at any time, and the
/// cluster does not refuse the inserts that follow. After a refusal, transactions are tried again after
/// the same time.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What the replay knows about a sharded target.
#[derive(Debug, Default)]
pub(crate) struct Sharding {
    keys: Mutex<FxHashMap<String, Known>>,
    /// The time at which the cluster last refused a transaction.
    refused_transactions: Mutex<Option<Instant>>,
    /// True if `oplog_relay.moving` may have a document of this group.
    may_have_moving: AtomicBool,
}

/// A shard key that was read.
#[derive(Debug)]
struct Known {
    /// `None` if `_id` is sufficient to route the writes of the collection.
    key: Option<Arc<ShardKey>>,
    since: Instant,
}

impl Sharding {
    /// Returns the shard key of a collection. The outer `None` means that it must be read, the inner one
    /// that `_id` is sufficient to route its writes.
    #[expect(clippy::option_option, reason = "unknown differs from not sharded")]
    pub(crate) fn known(&self, ns: &str) -> Option<Option<Arc<ShardKey>>> {
        let keys = self.keys();
        let known = keys.get(ns)?;
        (known.since.elapsed() < REMEMBERED).then(|| known.key.clone())
    }

    /// Stores the shard key of a collection.
    pub(crate) fn remember(&self, ns: &str, key: Option<Arc<ShardKey>>) {
        let since = Instant::now();
        self.keys().insert(ns.to_owned(), Known { key, since });
    }

    /// Removes the shard key of a collection, so that it is read again before the next write.
    pub(crate) fn forget(&self, ns: &str) {
        self.keys().remove(ns);
    }

    /// Returns true if the collection had a shard key when it was last read.
    pub(crate) fn was_sharded(&self, ns: &str) -> bool {
        let keys = self.keys();
        keys.get(ns).is_some_and(|known| known.key.is_some())
    }

    /// Removes all shard keys.
    pub(crate) fn forget_all(&self) {
        self.keys().clear();
    }

    /// Returns false for a minute after the cluster has refused a transaction. The refusal may have
    /// had a temporary cause, such as a collection that was being resharded.
    pub(crate) fn runs_transactions(&self) -> bool {
        let refused = self.refused_transactions();
        refused.is_none_or(|since| since.elapsed() >= REMEMBERED)
    }

    /// Records that the cluster has refused a transaction. Returns true for the first refusal.
    pub(crate) fn refuse_transactions(&self) -> bool {
        self.refuse_transactions_at(Instant::now())
    }

    fn refuse_transactions_at(&self, now: Instant) -> bool {
        self.refused_transactions().replace(now).is_none()
    }

    /// Returns the last refusal. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn refused_transactions(&self) -> MutexGuard<'_, Option<Instant>> {
        let refused = self.refused_transactions.lock();
        refused.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if `oplog_relay.moving` may have a document of this group.
    pub(crate) fn may_have_moving(&self) -> bool {
        self.may_have_moving.load(Ordering::Relaxed)
    }

    /// Records that `oplog_relay.moving` may have a document of this group.
    pub(crate) fn expect_moving(&self) {
        self.may_have_moving.store(true, Ordering::Relaxed);
    }

    /// Returns the cache. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn keys(&self) -> MutexGuard<'_, FxHashMap<String, Known>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_tried_again_after_a_minute() {
        let sharding = Sharding::default();
        assert!(sharding.runs_transactions());
        assert!(sharding.refuse_transactions());
        assert!(!sharding.runs_transactions());
        let before = Instant::now().checked_sub(REMEMBERED).unwrap();
        assert!(!sharding.refuse_transactions_at(before));
        assert!(sharding.runs_transactions());
    }
}
