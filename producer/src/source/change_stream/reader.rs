//! The state of a change stream between its events: ordinals, fragments, and what the events of a
//! sharded cluster depend on.
//!
//! Several events may have one cluster time, such as those of a transaction. The stream returns
//! them in the same order whenever it is read, so the index of an event among them is its ordinal.
//! A position with an ordinal says that some events of its cluster time have been sent. A stream
//! that continues there numbers the next events from this ordinal on.

use oplog_relay_core::document::Document;
use oplog_relay_core::position::{EntryId, Position, Timestamp};
use oplog_relay_core::resume::{RecentCommand, ResumePoint};

use super::batch::{DocumentLookup, EventBatch};
use super::convert::{Conversion, Converter};
use super::event::Event;
use super::fragments::Fragments;
use super::shards::{Shards, Verdict};
use super::token::time_of;
use crate::error::ProducerError;
use crate::saved::error::SavedError;

/// The result of reading an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Its entry is in the batch.
    Entry,
    /// More fragments of it follow.
    Nothing,
    /// Its meaning is ambiguous: the caller looks up the document, and calls [`Reader::carry`].
    Lookup,
    /// It deletes a document that may have moved to another shard: the caller checks whether the
    /// document still exists, and calls [`Reader::carry_delete`].
    Locate,
}

/// Reads the events of a change stream into batches.
#[derive(Debug)]
pub struct Reader {
    converter: Converter,
    /// Present for a sharded cluster.
    shards: Option<Shards>,
    fragments: Fragments,
    /// The cluster time of the last event, and the number of events with it; 0 if no further event
    /// has that cluster time.
    position: Position,
}

impl Reader {
    /// Creates a reader of a stream that continues at a position.
    ///
    /// # Errors
    /// [`SavedError::ResumePoint`] if the saved state cannot be read.
    pub fn new(
        position: Position,
        point: Option<&ResumePoint>,
        is_sharded: bool,
    ) -> Result<Self, ProducerError> {
        let unreadable = |reason: String| SavedError::ResumePoint { reason };
        let commands = point.map(|point| point.commands.clone());
        let shards = is_sharded.then(|| Shards::new(commands.unwrap_or_default()));
        let shards = shards.transpose();
        let shards = shards.map_err(|error| unreadable(error.to_string()))?;
        Ok(Self {
            converter: Converter {
                has_uuids: !is_sharded,
            },
            shards,
            fragments: Fragments::default(),
            position,
        })
    }

    /// Returns an empty batch.
    #[must_use]
    pub fn batch(&self) -> EventBatch {
        let mut batch = EventBatch::default();
        batch.remember(self.commands());
        batch
    }

    fn commands(&self) -> &[RecentCommand] {
        self.shards.as_ref().map_or(&[], Shards::commands)
    }

    /// Forgets the fragments of an event that the stream sends again after it is reopened.
    pub fn reopened(&mut self) {
        self.fragments.clear();
    }

    /// Reads an event into the batch. `joined` receives the whole event if this was its last
    /// fragment.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the event is damaged, or has no exact meaning as an entry.
    pub fn take(
        &mut self,
        document: Document<'_>,
        joined: &mut Vec<u8>,
        batch: &mut EventBatch,
    ) -> Result<Taken, ProducerError> {
        let event = Event::read(document)?;
        match event.fragment {
            None if self.fragments.are_incomplete() => Err(event.refused(
                "it follows a fragment of a large event whose other fragments are missing",
            )),
            None => self.take_whole(&event, batch),
            Some(fragment) => match self.fragments.add(document, fragment)? {
                None => Ok(Taken::Nothing),
                Some(whole) => {
                    *joined = whole;
                    let whole = Document::new(joined).map_err(ProducerError::undecodable)?;
                    self.take_whole(&Event::read(whole)?, batch)
                }
            },
        }
    }

    fn take_whole(
        &mut self,
        event: &Event<'_>,
        batch: &mut EventBatch,
    ) -> Result<Taken, ProducerError> {
        let verdict = match &mut self.shards {
            Some(shards) => shards.judge(event),
            None => Ok(Verdict::Carry),
        };
        let verdict = verdict.map_err(|error| event.refused(&error.to_string()))?;
        let entries = batch.entries();
        match verdict {
            Verdict::Carry => match self.converter.convert(event, entries)? {
                Conversion::Entry => {}
                Conversion::Ambiguous => return Ok(Taken::Lookup),
            },
            Verdict::Repeated | Verdict::MovedAway => self.converter.noop(event, entries)?,
            Verdict::Locate => return Ok(Taken::Locate),
        }
        self.push(event, DocumentLookup::None, batch)
    }

    /// Adds an event whose document was looked up. `found` is the document, and `at` the time of
    /// the lookup. If the document is gone, a noop is added.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the event is damaged.
    pub fn carry(
        &mut self,
        event: &Event<'_>,
        found: Option<Document<'_>>,
        at: Option<Timestamp>,
        batch: &mut EventBatch,
    ) -> Result<Taken, ProducerError> {
        let entries = batch.entries();
        let lookup = match found {
            Some(document) => {
                self.converter.looked_up(event, document, at, entries)?;
                DocumentLookup::Found
            }
            None => {
                self.converter.noop(event, entries)?;
                DocumentLookup::Gone
            }
        };
        self.push(event, lookup, batch)
    }

    /// Adds a delete, or a noop if the document still exists.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the event is damaged.
    pub fn carry_delete(
        &mut self,
        event: &Event<'_>,
        still_exists: bool,
        batch: &mut EventBatch,
    ) -> Result<Taken, ProducerError> {
        let entries = batch.entries();
        match still_exists {
            true => self.converter.noop(event, entries)?,
            false => drop(self.converter.convert(event, entries)?),
        }
        self.push(event, DocumentLookup::None, batch)
    }

    fn push(
        &mut self,
        event: &Event<'_>,
        lookup: DocumentLookup,
        batch: &mut EventBatch,
    ) -> Result<Taken, ProducerError> {
        let Position { ts, ord, .. } = self.position;
        if event.time < ts || (event.time == ts && ord == 0 && ts != Timestamp::default()) {
            return Err(event.refused(&format!(
                "the stream has already passed its cluster time: it was at {ts}"
            )));
        }
        let ord = if event.time == ts { ord } else { 0 };
        let next = ord.checked_add(1);
        self.position = Position {
            ts: event.time,
            term: -1,
            ord: next.ok_or_else(|| event.refused("too many events have its cluster time"))?,
        };
        batch.remember(self.commands());
        batch.push(
            EntryId {
                ts: event.time,
                ord,
            },
            lookup,
            event.token,
        );
        Ok(Taken::Entry)
    }

    /// Notes the token that a reply ends with. If it says that everything before a later cluster
    /// time was read, the batch reaches the position before that time.
    pub fn reach(&mut self, token: Document<'_>, batch: &mut EventBatch) {
        if self.fragments.are_incomplete() {
            return;
        }
        let Some(time) = time_of(token) else {
            // The token of a compatible service does not say its time, but is never before the last
            // event.
            if !batch.has_entries() {
                batch.reach(self.position, token);
            }
            return;
        };
        let position = Position {
            ts: time.before(),
            term: -1,
            ord: 0,
        };
        let Position { ts, ord, .. } = self.position;
        // The same token is returned while nothing happens.
        if position.ts < ts || (position.ts == ts && ord == 0) {
            return;
        }
        self.position = position;
        batch.reach(position, token);
    }

    /// Returns the position of the stream.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }
}
