//! The shard keys of the target's collections, as far as they have been read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::replay::sharding::shard_key::ShardKey;

/// Time after which a shard key is read again. An operator may shard a collection at any time, and
/// inserts would not show it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known of a sharded cluster.
#[derive(Debug)]
pub(crate) struct Sharding {
    keys: Mutex<FxHashMap<String, Known>>,
    /// False once the cluster has refused a transaction.
    runs_transactions: AtomicBool,
    /// True if a document may be in the collection of moving documents.
    may_have_moving: AtomicBool,
}

/// The shard key of a collection, if it is not `_id`.
#[derive(Debug)]
struct Known {
    key: Option<Arc<ShardKey>>,
    since: Instant,
}

impl Default for Sharding {
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            runs_transactions: AtomicBool::new(true),
            may_have_moving: AtomicBool::new(false),
        }
    }
}

impl Sharding {
    /// Returns the shard key of a collection, which is `None` if `_id` is sufficient to route its writes;
    /// the outer `None` means that it must be read.
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

    /// Removes the shard key of a collection, which is read again before the next write.
    pub(crate) fn forget(&self, ns: &str) {
        self.keys().remove(ns);
    }

    /// Removes all shard keys.
    pub(crate) fn forget_all(&self) {
        self.keys().clear();
    }

    pub(crate) fn runs_transactions(&self) -> bool {
        self.runs_transactions.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse_transactions(&self) {
        self.runs_transactions.store(false, Ordering::Relaxed);
    }

    pub(crate) fn may_have_moving(&self) -> bool {
        self.may_have_moving.load(Ordering::Relaxed)
    }

    pub(crate) fn expect_moving(&self) {
        self.may_have_moving.store(true, Ordering::Relaxed);
    }

    /// Returns the cache. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn keys(&self) -> MutexGuard<'_, FxHashMap<String, Known>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
