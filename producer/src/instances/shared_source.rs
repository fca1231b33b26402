//! A source that instances share, with the state of its assignment in this instance.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use oplog_relay_core::topic::position_topic;
use tokio::sync::watch;

use crate::config::SourceConfig;

/// A source that instances share.
#[derive(Debug)]
pub(super) struct SharedSource {
    pub(super) name: String,
    pub(super) prefix: String,
    /// The position topic, whose only partition is assigned to the instance that follows the source.
    pub(super) topic: String,
    assigned: watch::Sender<bool>,
    /// True while this instance has a lease.
    is_leased: Mutex<bool>,
    returned: Condvar,
}

impl SharedSource {
    /// Returns the source with this configuration, which must have a name.
    ///
    /// # Panics
    /// If the source has no name.
    pub(super) fn of(config: &SourceConfig) -> Self {
        let stream = &config.stream;
        let name = stream.source_name.clone();
        let name = name.expect("the check of --high-availability requires names");
        Self::named(&stream.topic_prefix, &name)
    }

    pub(super) fn named(prefix: &str, name: &str) -> Self {
        Self {
            topic: position_topic(prefix, name),
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            assigned: watch::Sender::new(false),
            is_leased: Mutex::new(false),
            returned: Condvar::new(),
        }
    }

    /// Sets whether the source is assigned to this instance.
    pub(super) fn set_assigned(&self, assigned: bool) {
        self.assigned.send_replace(assigned);
    }

    /// Returns true if the source is assigned to this instance.
    pub(super) fn is_assigned(&self) -> bool {
        *self.assigned.borrow()
    }

    /// Waits until the source is assigned to this instance, or is not.
    pub(super) async fn assigned(&self, wanted: bool) {
        let mut assigned = self.assigned.subscribe();
        // `self` owns the sender, so the channel cannot close.
        drop(assigned.wait_for(|assigned| *assigned == wanted).await);
    }

    pub(super) fn set_leased(&self, is_leased: bool) {
        *self
            .is_leased
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = is_leased;
        self.returned.notify_all();
    }

    /// Blocks until the lease is returned. Returns false if that takes longer than `limit`.
    pub(super) fn await_return(&self, limit: Duration) -> bool {
        let is_leased = self
            .is_leased
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self.returned.wait_timeout_while(is_leased, limit, |it| *it);
        let (is_leased, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*is_leased
    }
}
