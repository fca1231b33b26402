//! Records of the documents, commands and views of a full sync, between the entries of the tail.

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::routing::FIRST_ORD as FIRST_CHANGE;
use oplog_relay_core::snapshot::{Captured, FIRST_ORD};

use super::{Encoder, HandOn, write_state};
use crate::encode::chunk::Chunk;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::{Copied, Work};

/// Maximum number of entries of a full sync at one position. Higher ordinals belong to changes of
/// the routing and to barriers.
const MOST_READS: u32 = FIRST_CHANGE - FIRST_ORD;

impl Encoder {
    /// Continues after `reads` entries that a full sync has sent at the position. The indexes of
    /// `held` collections are sent by the full sync, at the end of their copies.
    #[must_use]
    pub fn copying(mut self, reads: u32, held: impl IntoIterator<Item = CollectionUuid>) -> Self {
        self.place.reads = reads;
        self.held.extend(held);
        self
    }

    /// Encodes a step of a full sync. Its saved state is in the same chunk as its last record.
    ///
    /// # Errors
    /// The errors of [`Encoder::encode`]; [`ProducerError::Ended`] if no position is known, or if
    /// the position is inside a transaction.
    pub fn copy(
        &mut self,
        copied: &Copied,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        self.note_time();
        let at = self.place.position.filter(|end| end.ord == 0);
        let at = at.ok_or(ProducerError::Ended("a full sync without a position"))?;
        self.place.stamp = self.place.stamp.max(at.ts.clamp_wall(None));
        self.open_state(chunk)?;
        let captured = Captured {
            at,
            ns: &copied.ns,
            ui: copied.ui,
            millis: copied.captured_at,
        };
        let mut built = Vec::new();
        match &copied.work {
            Work::Nothing => {}
            Work::Documents(batch) => {
                for document in batch.documents()? {
                    self.hand_on_full(chunk, hand_on)?;
                    let document = document.map_err(ProducerError::undecodable)?;
                    built.clear();
                    captured.write_document(document, &mut built);
                    self.encode_read(at, &built, chunk)?;
                    chunk.counts.copied_documents += 1;
                    chunk.counts.copied_bytes += document.as_bytes().len() as u64;
                }
            }
            Work::Command(command) => {
                let command = Document::new(command).map_err(ProducerError::undecodable)?;
                captured.write_command(command, &mut built);
                self.encode_read(at, &built, chunk)?;
            }
            Work::View(view) => {
                let view = Document::new(view).map_err(ProducerError::undecodable)?;
                captured.write_view(view, &mut built);
                self.encode_read(at, &built, chunk)?;
            }
        }
        for save in &copied.saves {
            let value = save.value.as_deref().unwrap_or_default();
            write_state(&save.key, value, self.place.stamp, chunk);
        }
        match (copied.holds_indexes, copied.ui) {
            (Some(true), Some(ui)) => drop(self.held.insert(ui)),
            (Some(false), Some(ui)) => drop(self.held.remove(&ui)),
            _ => {}
        }
        self.complete(chunk);
        Ok(())
    }

    fn encode_read(
        &mut self,
        at: Position,
        entry: &[u8],
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        if self.place.reads >= MOST_READS {
            let most = MOST_READS;
            return Err(EntryFault::TooManyReads { most, at }.into());
        }
        let id = EntryId {
            ts: at.ts,
            ord: FIRST_ORD + self.place.reads,
        };
        self.place.reads += 1;
        let entry = Document::new(entry).map_err(ProducerError::undecodable)?;
        self.encode_operation(&Entry::parse(entry)?, id, true, chunk)
    }

    /// Returns true if an entry of the tail builds an index of a collection that is being copied. Until
    /// the copy is complete, the target's documents are from different times, and could violate a
    /// unique index that holds on the source.
    pub(crate) fn leaves_out(&self, entry: &Entry<'_>) -> Result<bool, ProducerError> {
        let held = !self.held.is_empty()
            && entry.operation == Operation::Command
            && entry.snapshot.is_none()
            && entry.ui.is_some_and(|ui| self.held.contains(&ui));
        Ok(held
            && matches!(
                entry.command()?.name,
                b"createIndexes" | b"commitIndexBuild"
            ))
    }
}
