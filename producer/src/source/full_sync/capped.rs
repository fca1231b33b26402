//! Capped collections, which are read in natural order.

use futures_util::StreamExt;
use mongodb::raw_batch_cursor::RawBatchCursor;
use oplog_relay_core::state::{CopyKind, CopyStage};
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::mongo::{READ, in_time};

use super::copies::Copy;
use crate::error::ProducerError;
use crate::source::full_sync::interleave::{Interleaving, contents_of};
use crate::source::{Batch, Copied, SourceEvent, Work};

impl Interleaving {
    /// Reads each capped collection completely and in natural order, while the tail waits.
    pub(super) async fn read_capped(&mut self) -> Result<(), ProducerError> {
        let wanted = |copy: &Copy| {
            copy.is_named
                && copy.record.kind == CopyKind::Capped
                && copy.record.stage == CopyStage::Created
        };
        for key in self.sync.copies.keys_of(wanted) {
            let Some(copy) = self.sync.copies.get_mut(&key) else {
                continue;
            };
            let (ns, ui, filter) = (copy.record.ns.clone(), copy.ui, copy.filter.clone());
            let (from, limit) = (self.sync.position.ts, copy.limit);
            let source = self.sync.source.clone();
            let cursor = source.natural(&ns, filter.as_deref(), limit, from).await?;
            // The cursor stays on the collection that it was opened on, even if that is renamed.
            match source.find(&ns, ui).await? {
                None => return self.close(&key).await,
                Some(listed) if listed.ns != ns => {
                    copy.is_named = false;
                    continue;
                }
                Some(_) => {}
            }
            self.send_capped(&key, cursor).await?;
        }
        Ok(())
    }

    async fn send_capped(
        &mut self,
        key: &str,
        mut cursor: RawBatchCursor,
    ) -> Result<(), ProducerError> {
        let mut ended = false;
        while !ended {
            if self.shutdown.triggered() {
                return Err(ProducerError::Interrupted);
            }
            let batch = in_time(READ, async { cursor.next().await.transpose() }).await;
            let batch = batch.map_err(ProducerError::Source)?;
            ended = batch.is_none();
            let Some(copy) = self.sync.copies.get_mut(key) else {
                return Ok(());
            };
            let batch = batch.map(Batch::Reply);
            let contents = batch
                .as_ref()
                .map(contents_of)
                .transpose()?
                .unwrap_or_default();
            copy.count(contents.documents, contents.bytes);
            if ended {
                copy.record.stage = CopyStage::Reading;
            }
            self.sync.metrics.full_sync.update(&copy.record);
            let copied = Copied {
                ns: copy.record.ns.clone(),
                ui: copy.ui,
                captured_at: now_ms(),
                work: batch.map_or(Work::Nothing, Work::Documents),
                // The copy is saved only at its end: after a restart the whole collection is read
                // again.
                saves: ended.then(|| copy.save()).into_iter().collect(),
                holds_indexes: None,
            };
            self.send(SourceEvent::Copied(Box::new(copied))).await?;
        }
        Ok(())
    }
}
