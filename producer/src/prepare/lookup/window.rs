//! The documents that were looked up. They are held until the documents of later entries are read.

use std::ops::Range;

use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::position::Timestamp;
use rustc_hash::FxHashMap;

use super::reply::Reply;
use super::request::Request;

/// Number of bytes of documents at which a window counts as full.
const FULL_BYTES: usize = 16 << 20;
/// Capacity in bytes that a window keeps when it is cleared.
const KEPT_BYTES: usize = 4 << 20;

/// A document that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The place of the document in the window's bytes; `None` if it is gone.
    pub(super) document: Option<Range<usize>>,
    /// The time of the read, if the server reports it.
    pub(super) at: Option<Timestamp>,
}

/// The documents that were found, by collection and `_id`.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Time that the source had reached before the reads. A later entry may have changed a document
    /// since then.
    through: Timestamp,
    found: FxHashMap<Vec<u8>, Found>,
    bytes: Vec<u8>,
    key: Vec<u8>,
}

impl Window {
    /// Returns the time of the last entry for which the window may be used.
    pub(super) const fn through(&self) -> Timestamp {
        self.through
    }

    /// Returns true if the window should be cleared before another read.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_BYTES
    }

    /// Removes all documents. The next ones are read after the source has reached `through`.
    pub(super) fn clear(&mut self, through: Timestamp) {
        self.through = through;
        self.found.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
    }

    /// Returns the bytes of a document that was found.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Finds the document of an entry. Returns `None` if it was not read, or if it may have been
    /// read before the entry was logged.
    pub(super) fn find(&mut self, entry: &Entry<'_>) -> Result<Option<Found>, EntryError> {
        if entry.ts > self.through {
            return Ok(None);
        }
        self.key.clear();
        write_document_key(entry, entry.document_id()?, &mut self.key)?;
        Ok(self.found.get(&self.key).cloned())
    }

    /// Adds the reply to a request, and returns its number of documents. A document that is missing
    /// from the reply is gone, unless the reply had no room for all documents.
    pub(super) fn take(&mut self, request: &Request, reply: &Reply) -> Result<usize, Malformed> {
        let (start, mut count) = (self.bytes.len(), 0);
        self.bytes.extend_from_slice(&reply.documents);
        let mut rest = reply.documents.as_slice();
        let mut found = FxHashMap::default();
        while !rest.is_empty() {
            let begin = start + reply.documents.len() - rest.len();
            let (document, after) = Document::split(rest)?;
            let id = document.get("_id")?.ok_or(Malformed::Missing("_id"))?;
            let mut identity = Vec::new();
            write_id_identity(id, &mut identity)?;
            found.insert(identity, begin..begin + document.as_bytes().len());
            count += 1;
            rest = after;
        }
        let collection = collection_length(&request.ns);
        for key in &request.keys {
            let identity = key.get(collection..).unwrap_or_default();
            let document = found.remove(identity);
            if document.is_some() || !reply.is_cut {
                let at = reply.at;
                self.found.insert(key.clone(), Found { document, at });
            }
        }
        Ok(count)
    }
}

/// Appends the key of a document in a window: the collection and the identity of the `_id`.
pub(super) fn write_document_key(
    entry: &Entry<'_>,
    id: Element<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    out.extend_from_slice(&entry.ui.map_or([0; 16], |ui| ui.0));
    out.extend_from_slice(entry.ns.as_bytes());
    // A namespace contains no zero byte, so it cannot be confused with the identity.
    out.push(0);
    write_id_identity(id, out)
}

/// Returns the number of bytes of a key before the identity of the `_id`.
const fn collection_length(ns: &str) -> usize {
    16 + ns.len() + 1
}
