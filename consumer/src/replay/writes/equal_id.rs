//! Documents whose `_id`s differ and are the same under the collation of their collection.
//!
//! The target may have "ABC" where a stretch that is applied again inserts "abc": the source had deleted
//! the one before it inserted the other. A replacement finds the other document and is refused,
//! because it would change its `_id`. That document is removed: the stretch inserts it again.

use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::Document;

use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::plan::{Action, BulkKind, Write};
use crate::replay::target::MongoSink;

impl MongoSink {
    /// Removes the document that a replacement found by an equal `_id`, if there is one whose `_id` is
    /// another value.
    pub(crate) async fn remove_equal_id(
        &self,
        ns: &str,
        write: &Write<'_>,
    ) -> Result<bool, ConsumerError> {
        if !matches!(write.action, Action::Insert(_) | Action::Replace(_)) {
            return Ok(false);
        }
        let Some(stored) = self.stored(ns, write).await? else {
            return Ok(false);
        };
        let stored = Document::new(&stored).map_err(|error| damaged(ns, &error))?;
        let other = stored.get("_id").map_err(|error| damaged(ns, &error))?;
        let Some(other) = other.filter(|id| compare_values(*id, write.document_id).is_ne()) else {
            return Ok(false);
        };
        tracing::debug!(
            ns,
            entry = %write.id,
            "removing a document whose _id is equal under the collection's collation"
        );
        let delete = Write {
            document_id: other,
            action: Action::Delete,
            ..*write
        };
        let reply = self.run(ns, BulkKind::Delete, &[delete]).await?;
        // One that was not removed is met again.
        Ok(reply.is_ok_and(|reply| reply.errors.is_empty() && reply.n == 1))
    }
}
