//! The entries of a change stream. Each has its own identity, because several events may have the
//! same cluster time, and its own resume point.

use std::sync::Arc;

use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::resume::{RecentCommand, ResumePoint};

use super::{Encoder, HandOn};
use crate::encode::ahead::Ahead;
use crate::encode::chunk::Chunk;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::Documents;
use crate::source::change_stream::batch::{DocumentLookup, EventBatch, EventEntry, Point};

/// The point that the encoder has reached. Its saved form is made once for each chunk, not for each
/// entry.
#[derive(Debug, Default)]
pub(super) struct ReachedPoint {
    saved: Option<Arc<ResumePoint>>,
    /// The token of a newer point; empty if `saved` is up to date.
    token: Vec<u8>,
    commands: Vec<RecentCommand>,
}

impl ReachedPoint {
    fn new(point: Option<ResumePoint>) -> Self {
        Self {
            saved: point.map(Arc::new),
            ..Self::default()
        }
    }

    fn set(&mut self, point: Point<'_>) {
        self.token.clear();
        self.token.extend_from_slice(point.token.as_bytes());
        if self.commands != point.commands {
            self.commands = point.commands.to_vec();
        }
    }

    /// Returns the point in the form in which it is saved.
    pub(super) fn saved(&mut self) -> Option<Arc<ResumePoint>> {
        if !self.token.is_empty() {
            let token = Document::new(&self.token).expect("set keeps a whole document");
            let point = ResumePoint::new(token, self.commands.clone());
            self.saved = Some(Arc::new(point));
            self.token.clear();
        }
        self.saved.clone()
    }
}

impl Encoder {
    /// Continues a change stream at the saved point.
    #[must_use]
    pub fn resuming(mut self, point: Option<ResumePoint>) -> Self {
        self.place.resume = ReachedPoint::new(point);
        self
    }

    /// Encodes the entries of a change stream, as [`Encoder::encode`] does for those of an oplog.
    ///
    /// # Errors
    /// The errors of [`Encoder::encode`].
    pub fn encode_events(
        &mut self,
        batch: &EventBatch,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        self.note_time();
        let mut ahead = Ahead::of(self);
        for event in batch.iter() {
            let event = event?;
            let entry = self.read_entry(event.entry)?;
            self.prepare(&entry, Documents::Bytes(event.rest), &mut ahead)?;
            self.encode_event(&entry, &event, chunk, hand_on)?;
            self.hand_on_full(chunk, hand_on)?;
        }
        if let Some(reading) = batch.high_water()? {
            let ts = reading.position.ts;
            chunk.reached.wall = chunk.reached.wall.max(ts.clamp_wall(None));
            self.place.position = Some(reading.position);
            self.place.resume.set(reading.point);
        }
        self.finish_batch(chunk)
    }

    fn encode_event(
        &mut self,
        entry: &Entry<'_>,
        event: &EventEntry<'_>,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let EntryId { ts, ord } = event.id;
        self.check_order(event.id, entry)?;
        if ord == 0 && self.rules.is_some() {
            self.change_routing(chunk, hand_on)?;
        }
        chunk.counts.source_bytes += entry.raw.as_bytes().len() as u64;
        if let Some(count) = chunk.counts.entries.get_mut(entry.operation.index()) {
            *count += 1;
        }
        match event.lookup {
            DocumentLookup::None => {}
            DocumentLookup::Found => chunk.counts.looked_up += 1,
            DocumentLookup::Gone => chunk.counts.gone += 1,
        }
        self.encode_operation(entry, event.id, true, chunk)?;
        chunk.reached.wall = ts.clamp_wall(entry.wall);
        self.place.reads = 0;
        self.place.position = Some(Position {
            ts,
            term: -1,
            ord: ord.saturating_add(1),
        });
        self.place.resume.set(event.point);
        Ok(())
    }

    /// Checks that an event follows the position.
    fn check_order(&self, id: EntryId, entry: &Entry<'_>) -> Result<(), ProducerError> {
        let Some(end) = self.place.position else {
            return Ok(());
        };
        if id.ts > end.ts || (id.ts == end.ts && end.ord > 0 && id.ord >= end.ord) {
            return Ok(());
        }
        Err(EntryFault::EventGoesBackwards {
            event: id,
            ns: entry.ns.to_owned(),
            after: end,
        }
        .into())
    }
}
