//! Entries made from events, with the identity of each and the point at which a stream continues.

use std::ops::Range;

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::resume::RecentCommand;

use crate::error::ProducerError;

/// Entries in the order of the stream, and the point that the stream has reached after them.
#[derive(Debug, Default)]
pub struct EventBatch {
    entries: Vec<u8>,
    places: Vec<Place>,
    tokens: Vec<u8>,
    /// The commands that the stream remembers: the whole list after each change within the batch.
    commands: Vec<Vec<RecentCommand>>,
    /// The point that the stream has reached beyond the last entry.
    high_water: Option<HighWater>,
}

/// The lookup of an update's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentLookup {
    /// The event needed none.
    None,
    /// The document was found.
    Found,
    /// The document was gone, so the entry has no effect.
    Gone,
}

/// The identity of an entry, and the point after it.
#[derive(Debug, Clone)]
struct Place {
    id: EntryId,
    lookup: DocumentLookup,
    token: Range<usize>,
    /// The number of changes of the remembered commands up to the entry.
    commands: usize,
}

#[derive(Debug)]
struct HighWater {
    position: Position,
    token: Vec<u8>,
}

/// A point at which a stream can continue.
#[derive(Debug, Clone, Copy)]
pub struct Point<'b> {
    /// The resume token.
    pub token: Document<'b>,
    /// The commands that the stream remembers.
    pub commands: &'b [RecentCommand],
}

/// An entry of a batch.
#[derive(Debug, Clone, Copy)]
pub struct EventEntry<'b> {
    /// The entry.
    pub entry: Document<'b>,
    /// The bytes of this entry and those after it.
    pub rest: &'b [u8],
    /// The identity of the entry.
    pub id: EntryId,
    /// The lookup of its document.
    pub lookup: DocumentLookup,
    /// The point after its event.
    pub point: Point<'b>,
}

/// A position without an entry, up to which everything has been read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'b> {
    /// The position.
    pub position: Position,
    /// The point at which the stream continues.
    pub point: Point<'b>,
}

impl EventBatch {
    /// Returns the bytes to which the next entry is appended, before [`EventBatch::push`].
    pub const fn entries(&mut self) -> &mut Vec<u8> {
        &mut self.entries
    }

    /// Adds the identity of the entry that was appended, and the token of its event.
    pub fn push(&mut self, id: EntryId, lookup: DocumentLookup, token: Document<'_>) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(token.as_bytes());
        self.places.push(Place {
            id,
            lookup,
            token: start..self.tokens.len(),
            commands: self.commands.len(),
        });
    }

    /// Sets the commands that the stream remembers from the next entry on.
    pub fn remember(&mut self, commands: &[RecentCommand]) {
        if self.commands_at(self.commands.len()) != commands {
            self.commands.push(commands.to_vec());
        }
    }

    fn commands_at(&self, changes: usize) -> &[RecentCommand] {
        let last = changes.checked_sub(1);
        let found = last.and_then(|last| self.commands.get(last));
        found.map_or(&[], Vec::as_slice)
    }

    /// Notes that everything up to a position has been read, as the token says.
    pub fn reach(&mut self, position: Position, token: Document<'_>) {
        self.high_water = Some(HighWater {
            position,
            token: token.as_bytes().to_vec(),
        });
    }

    /// Returns true if the batch has neither an entry nor a point that the stream has reached.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty() && self.high_water.is_none()
    }

    /// Returns true if the batch has an entry.
    #[must_use]
    pub const fn has_entries(&self) -> bool {
        !self.places.is_empty()
    }

    /// Returns the number of bytes of the entries.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.entries.len()
    }

    /// Returns the position that the stream has reached beyond the last entry.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if its token is damaged.
    pub fn high_water(&self) -> Result<Option<Reading<'_>>, ProducerError> {
        let Some(HighWater { position, token }) = &self.high_water else {
            return Ok(None);
        };
        Ok(Some(Reading {
            position: *position,
            point: Point {
                token: Document::new(token).map_err(ProducerError::undecodable)?,
                commands: self.commands_at(self.commands.len()),
            },
        }))
    }

    /// Returns the entries in order.
    ///
    /// # Errors
    /// An item is [`ProducerError::Undecodable`] if its bytes are damaged.
    pub fn iter(&self) -> impl Iterator<Item = Result<EventEntry<'_>, ProducerError>> {
        let mut rest = self.entries.as_slice();
        self.places.iter().map(move |place| {
            let read = || -> Result<(EventEntry<'_>, &[u8]), Malformed> {
                let (entry, after) = Document::split(rest)?;
                let token = self.tokens.get(place.token.clone());
                let point = Point {
                    token: Document::new(token.unwrap_or_default())?,
                    commands: self.commands_at(place.commands),
                };
                let read = EventEntry {
                    entry,
                    rest,
                    id: place.id,
                    lookup: place.lookup,
                    point,
                };
                Ok((read, after))
            };
            let (read, after) = read().map_err(ProducerError::undecodable)?;
            rest = after;
            Ok(read)
        })
    }
}
