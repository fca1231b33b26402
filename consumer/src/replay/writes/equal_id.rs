//! Documents whose `_id`s differ but are equal under the collation of their collection.
//!
//! When entries are applied again, the target may have "ABC" while an entry inserts "abc": the
//! source deleted one before it inserted the other. The replacement then matches the stored
//! document and is refused, because it would change the document's `_id`. The stored document is
//! removed, and the replacement is sent again. If the source has the removed document in the end, a
//! later entry inserts it again.

use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::Document;

use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::plan::{Action, BulkKind, Write};
use crate::replay::sink::MongoSink;

impl MongoSink {
    /// Removes the document that a replacement matched by an equal `_id`, if its `_id` is a
    /// different value. Returns true if it was removed.
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
        // A delete that fails is not sent again: the target's refusal of the replacement then
        // counts.
        Ok(reply.is_ok_and(|reply| reply.errors.is_empty() && reply.n == 1))
    }
}
