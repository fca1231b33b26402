//! Documents whose `_id`s differ but are equal under the collation of their collection.
//!
//! When entries are applied again, the target may have "ABC" while an entry inserts "abc": the
//! source deleted one before it inserted the other. The replacement then matches the stored
//! document and is refused, because it would change the document's `_id`. The stored document is
//! removed, and the replacement is sent again. If the source has the removed document in the end, a
//! later entry inserts it again.

use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::Document;
use oplog_relay_runtime::mongo::{error_code, is_transient};

use crate::error::ConsumerError;
use crate::replay::damage::damaged;
use crate::replay::directive::{Directive, rule_for};
use crate::replay::plan::{Action, BulkKind, Write};
use crate::replay::sink::MongoSink;
use crate::replay::writes::bulk::Next;
use crate::replay::writes::reply::WriteError;

/// The stored document with an equal `_id`, after an attempt to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EqualId {
    /// It was removed.
    Removed,
    /// It may still be stored, or another client has removed it: the replacement must be sent again.
    Unsettled,
    /// The replacement was refused for another reason, or the target refuses the removal.
    Other,
}

impl MongoSink {
    /// Handles the refusal of the first of these writes because it would change a field that cannot be
    /// changed.
    pub(crate) async fn after_immutable_field<'a>(
        &self,
        ns: &str,
        rest: &[Write<'a>],
        error: &WriteError,
    ) -> Result<Next<'a>, ConsumerError> {
        let Some((write, after)) = rest.split_first() else {
            return Ok(Next::Go(Vec::new()));
        };
        Ok(match self.remove_equal_id(ns, write).await? {
            EqualId::Removed => Next::Go(rest.to_vec()),
            EqualId::Unsettled => {
                self.wait_for_target(error);
                Next::Pause(rest.to_vec())
            }
            EqualId::Other => {
                self.refuse_write(ns, write, error)?;
                Next::Go(after.to_vec())
            }
        })
    }

    /// Removes the document that a replacement matched by an equal `_id`, if its `_id` is a
    /// different value.
    async fn remove_equal_id(&self, ns: &str, write: &Write<'_>) -> Result<EqualId, ConsumerError> {
        let (Action::Insert(document) | Action::Replace(document)) = write.action else {
            return Ok(EqualId::Other);
        };
        let Some(stored) = self.stored(ns, write).await? else {
            // If the entry itself names two `_id`s, every attempt would be refused.
            let own = document.get("_id").map_err(|error| damaged(ns, &error))?;
            let is_own = own.is_some_and(|own| compare_values(own, write.document_id).is_eq());
            return Ok(if is_own {
                EqualId::Unsettled
            } else {
                EqualId::Other
            });
        };
        let stored = Document::new(&stored).map_err(|error| damaged(ns, &error))?;
        let other = stored.get("_id").map_err(|error| damaged(ns, &error))?;
        let Some(other) = other.filter(|id| compare_values(*id, write.document_id).is_ne()) else {
            return Ok(EqualId::Other);
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
        Ok(match self.run(ns, BulkKind::Delete, &[delete]).await? {
            Ok(reply) => match reply.errors.first() {
                Some(error) if rule_for(error.code).directive != Directive::Retry => EqualId::Other,
                None if self.is_acknowledged(&reply)? && reply.n == 1 => EqualId::Removed,
                _ => EqualId::Unsettled,
            },
            Err(error) => {
                let directive = error_code(&error).map(|code| rule_for(code).directive);
                if directive == Some(Directive::Retry) || is_transient(&error) {
                    EqualId::Unsettled
                } else {
                    EqualId::Other
                }
            }
        })
    }
}
