//! The documents of updates, as the source has them now.

use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::format::looked_up::CurrentDocument;
use oplog_relay_core::position::Timestamp;

use super::request::Wanted;
use super::stored_documents::StoredDocuments;
use super::window::{Found, Window};
use super::{MOST_DOCUMENTS, WANTED_BYTES};
use crate::error::ProducerError;

/// Looks up the current documents of updates, and holds those that were read ahead for the following
/// entries.
#[derive(Debug)]
pub struct CurrentLookup {
    source: StoredDocuments,
    window: Window,
    /// Number of documents to ask for at a time.
    at_once: usize,
    /// The document of the entry that is being encoded.
    current: Option<Found>,
}

impl CurrentLookup {
    /// Creates a lookup that has read nothing yet.
    #[must_use]
    pub fn new(source: StoredDocuments) -> Self {
        Self {
            source,
            window: Window::default(),
            at_once: MOST_DOCUMENTS,
            current: None,
        }
    }

    /// Returns true if the document of an update is known.
    ///
    /// # Errors
    /// [`EntryError`] if the entry has no `_id`, or a damaged one.
    #[inline]
    pub fn covers(&mut self, entry: &Entry<'_>) -> Result<bool, EntryError> {
        Ok(self.window.find(entry)?.is_some())
    }

    /// Returns an empty list of the documents to ask for next.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted::new(self.at_once)
    }

    /// Asks for the documents of entries up to the time `through`, and discards the documents that
    /// were read before. Does nothing if the list is empty.
    ///
    /// # Errors
    /// The errors of [`StoredDocuments::read`]; [`ProducerError::Undecodable`] for a damaged reply.
    pub fn ask(&mut self, wanted: &Wanted, through: Timestamp) -> Result<(), ProducerError> {
        if wanted.requests().is_empty() {
            return Ok(());
        }
        self.window.clear(through);
        self.read(wanted)
    }

    /// Makes the document of an entry the current one, and asks for it alone if it is not known.
    ///
    /// # Errors
    /// The errors of [`StoredDocuments::read`]; [`ProducerError::Undecodable`] for a damaged
    /// entry or reply.
    pub fn look_up(&mut self, entry: &Entry<'_>) -> Result<(), ProducerError> {
        let damaged = |error| ProducerError::damaged(entry, &error);
        self.current = self.window.find(entry).map_err(damaged)?;
        if self.current.is_none() {
            // A window is valid for entries up to a certain time, so a later entry needs a new one.
            if entry.ts > self.window.through() || self.window.is_full() {
                self.window.clear(entry.ts);
            }
            let mut alone = Wanted::new(1);
            alone.add(entry).map_err(damaged)?;
            self.read(&alone)?;
            self.current = self.window.find(entry).map_err(damaged)?;
        }
        match self.current {
            Some(_) => Ok(()),
            None => Err(ProducerError::Ended(
                "a lookup of one document is incomplete",
            )),
        }
    }

    /// Clears the current document, because the next entry has none.
    pub fn clear_current(&mut self) {
        self.current = None;
    }

    /// Returns the document that was made the current one.
    #[must_use]
    pub fn current(&self) -> Option<CurrentDocument<'_>> {
        let Found { document, at } = self.current.as_ref()?;
        let bytes = document.clone().map(|range| self.window.bytes(range));
        // The bounds of the document were checked when it was found.
        let document = bytes.and_then(|bytes| Document::new(bytes).ok());
        Some(CurrentDocument { document, at: *at })
    }

    fn read(&mut self, wanted: &Wanted) -> Result<(), ProducerError> {
        let requests = wanted.requests();
        let replies = self.source.read(requests, self.window.through())?;
        let (mut documents, mut bytes) = (0, 0);
        for (request, reply) in requests.iter().zip(replies) {
            bytes += reply.documents.len();
            documents += self
                .window
                .take(request, &reply)
                .map_err(ProducerError::undecodable)?;
        }
        if let Some(average) = bytes.checked_div(documents) {
            self.at_once = (WANTED_BYTES / average.max(1)).clamp(1, MOST_DOCUMENTS);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
