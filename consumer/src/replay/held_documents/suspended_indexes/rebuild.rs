//! Indexes that are dropped and built again with another definition.

use mongodb::bson::{Document, doc};
use oplog_relay_core::position::EntryId;

use crate::error::ConsumerError;
use crate::replay::commands::index_definition::definition;
use crate::replay::held_documents::suspended_indexes::note::SuspendedIndex;
use crate::replay::plan::translation::POSTPONED_EXPIRY;
use crate::replay::sink::MongoSink;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

const EXPIRES: &str = "expireAfterSeconds";

impl MongoSink {
    /// Drops the index that has the name of the given definition, and builds it by the definition. The
    /// definition is recorded first: if the program ends before the index is built, the command
    /// is run again, and the index is built before it runs.
    ///
    /// # Errors
    /// Returns an error if the target refuses to build the index. The definition stays recorded.
    pub(crate) async fn rebuild_index(
        &self,
        ns: &str,
        entry: EntryId,
        mut definition: Document,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        if definition
            .get_i32(EXPIRES)
            .is_ok_and(|seconds| seconds == POSTPONED_EXPIRY)
        {
            // Many servers accept this value only in `collMod`.
            definition.remove(EXPIRES);
        }
        let index = self.index_to_drop(ns, entry, definition);
        if self.record_and_drop(&index, token).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        self.restore_all(vec![index], token).await
    }

    /// Builds the indexes of a collection that an interrupted command has dropped. It is called before
    /// each command, because the target may be ahead of a command without a full barrier, but not of
    /// the interrupted one.
    ///
    /// # Errors
    /// Returns an error if the target refuses to build an index.
    pub(crate) async fn finish_rebuilds_of(
        &self,
        ns: &str,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut noted = self.noted(doc! { "ns": ns }).await?;
        noted.retain(|index| index.owner.is_none());
        self.restore_all(noted, token).await
    }

    /// Drops the index that a command rebuilds if it still has its old definition, because the program
    /// ended after it had recorded the new definition and before it dropped the index. The target would
    /// refuse to build the new one beside it.
    pub(super) async fn drop_old_definition(
        &self,
        index: &SuspendedIndex,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        if index.owner.is_some() {
            return Ok(Applied::Done);
        }
        let all = self.indexes_of(&index.ns).await?;
        let is_old = |found: &Document| {
            let has_name = found.get_str("name").ok() == Some(index.name());
            has_name && definition(found, false) != definition(&index.definition, false)
        };
        if all.iter().any(is_old) {
            return self.drop_recorded(index, token).await;
        }
        Ok(Applied::Done)
    }
}
