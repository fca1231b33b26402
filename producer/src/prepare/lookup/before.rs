//! The documents before changes, which MongoDB 6.0 and later keep in `config.system.preimages`.

use std::ops::Range;

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::looked_up::DocumentBefore;
use oplog_relay_core::position::Timestamp;
use rustc_hash::{FxHashMap, FxHashSet};

use super::pre_image::PreImageId;
use super::reply::Reply;
use super::stored_documents::StoredDocuments;
use super::{MOST_DOCUMENTS, WANTED_BYTES};
use crate::error::ProducerError;

/// Maximum number of bytes of the documents of other collections that are kept when documents of
/// one collection are read.
const MAX_HELD_BYTES: usize = 32 << 20;
/// Approximate memory of an entry of a map, in bytes.
const ID_COST: usize = 64;

/// The documents before changes of one collection that were read ahead. They never change, so they
/// are used until the next documents of the collection are read.
#[derive(Debug, Default)]
struct PreImages {
    bytes: Vec<u8>,
    found: FxHashMap<PreImageId, Range<usize>>,
    /// The changes whose document the source does not have.
    missing: FxHashSet<PreImageId>,
}

/// The result of a lookup of the document before a change.
#[derive(Debug, Clone)]
enum Known {
    Missing,
    /// Its place in the bytes of its collection.
    At(PreImageId, Range<usize>),
}

impl PreImages {
    /// Reads the documents of a reply to a request for these `_id`s. The reply is in the order of the
    /// `_id`s. If it is cut, the requested documents after its last document may exist.
    ///
    /// # Errors
    /// [`Malformed`] if a document of the reply is damaged.
    fn read(ids: &[PreImageId], reply: &Reply) -> Result<Self, Malformed> {
        let mut images = Self::default();
        let mut last = None;
        let mut rest = &reply.documents[..];
        while !rest.is_empty() {
            let (stored, after) = Document::split(rest)?;
            rest = after;
            let field = |name| {
                stored
                    .get(name)?
                    .ok_or(Malformed::Missing("_id or preImage"))
            };
            let id = PreImageId::read(field("_id")?.document()?)?;
            let document = field("preImage").and_then(Element::document)?;
            let start = images.bytes.len();
            images.bytes.extend_from_slice(document.as_bytes());
            images.found.insert(id, start..images.bytes.len());
            last = last.max(Some((id.ts, id.index)));
        }
        let is_known = |id: &&PreImageId| !reply.is_cut || Some((id.ts, id.index)) <= last;
        let missing = ids.iter().filter(|id| !images.found.contains_key(id));
        images.missing = missing.filter(is_known).copied().collect();
        Ok(images)
    }

    fn find(&self, id: PreImageId) -> Option<Known> {
        match self.found.get(&id) {
            Some(range) => Some(Known::At(id, range.clone())),
            None => self.missing.contains(&id).then_some(Known::Missing),
        }
    }

    /// Returns the approximate memory in bytes.
    fn cost(&self) -> usize {
        self.bytes.len() + (self.found.len() + self.missing.len()) * ID_COST
    }
}

/// Looks up the documents before changes.
#[derive(Debug)]
pub struct BeforeLookup {
    source: StoredDocuments,
    /// The documents that were read ahead, by collection.
    images: FxHashMap<CollectionUuid, PreImages>,
    /// The place of the operation that is being encoded, if it is one of an `applyOps`.
    operation: Option<OperationPlace>,
    /// Number of documents to ask for at a time.
    at_once: usize,
    /// The document before the current change, if it was looked up.
    current: Option<Known>,
}

/// The place of an operation in the oplog.
#[derive(Debug, Clone, Copy)]
pub struct OperationPlace {
    /// The timestamp of the `applyOps` entry that contains it, which may precede its commit.
    pub ts: Timestamp,
    /// Its index in that entry.
    pub index: u32,
}

impl BeforeLookup {
    /// Creates a lookup that has read nothing yet.
    #[must_use]
    pub fn new(source: StoredDocuments) -> Self {
        Self {
            source,
            images: FxHashMap::default(),
            operation: None,
            at_once: MOST_DOCUMENTS,
            current: None,
        }
    }

    /// Sets the place of the operation that is encoded next; `None` if an entry is encoded next.
    pub const fn set_operation(&mut self, operation: Option<OperationPlace>) {
        self.operation = operation;
    }

    /// Returns the identity of the change that is being encoded; `None` for an entry without a
    /// UUID, because servers that log no UUIDs keep no pre-images.
    #[must_use]
    pub fn id_of(&self, entry: &Entry<'_>) -> Option<PreImageId> {
        let ui = entry.ui?;
        let OperationPlace { ts, index } = self.operation.unwrap_or(OperationPlace {
            ts: entry.ts,
            index: 0,
        });
        Some(PreImageId { ui, ts, index })
    }

    /// Returns the number of documents to ask for at a time.
    #[must_use]
    pub const fn at_once(&self) -> usize {
        self.at_once
    }

    /// Returns true if the document before a change, or its absence, is known.
    #[must_use]
    pub fn covers(&self, id: PreImageId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: PreImageId) -> Option<Known> {
        self.images.get(&id.ui)?.find(id)
    }

    /// Asks for documents of one collection after the source has reached the time `through`, and
    /// discards those of this collection that were read before. Does nothing if the list is empty.
    /// MongoDB scans all `_id`s between the least and the greatest one of a request, and the `_id`s
    /// begin with the UUID, so a request for several collections could read those of many others.
    ///
    /// # Errors
    /// The errors of [`StoredDocuments::read_before`]; [`ProducerError::Undecodable`] for a damaged
    /// reply.
    pub fn ask(&mut self, ids: &[PreImageId], through: Timestamp) -> Result<(), ProducerError> {
        let Some(first) = ids.first() else {
            return Ok(());
        };
        self.images.remove(&first.ui);
        if self.images.values().map(PreImages::cost).sum::<usize>() > MAX_HELD_BYTES {
            self.images.clear();
        }
        let reply = self.source.read_before(ids, through)?;
        let images = PreImages::read(ids, &reply).map_err(ProducerError::undecodable)?;
        if let Some(average) = images.bytes.len().checked_div(images.found.len()) {
            self.at_once = (WANTED_BYTES / average.max(1)).clamp(1, MOST_DOCUMENTS);
        }
        self.images.insert(first.ui, images);
        Ok(())
    }

    /// Makes the document before a change the current one, and asks for it alone if it is not known.
    ///
    /// # Errors
    /// The errors of [`BeforeLookup::ask`].
    pub fn look_up(&mut self, id: PreImageId, through: Timestamp) -> Result<(), ProducerError> {
        self.current = self.find(id);
        if self.current.is_none() {
            self.ask(&[id], through)?;
            self.current = self.find(id);
        }
        match self.current {
            Some(_) => Ok(()),
            None => Err(ProducerError::Ended(
                "a lookup of one pre-image is incomplete",
            )),
        }
    }

    /// Clears the current document, because the next entry has none.
    pub fn clear_current(&mut self) {
        self.current = None;
    }

    /// Returns the document that was made the current one.
    #[must_use]
    pub fn current(&self) -> DocumentBefore<'_> {
        let Some(known) = &self.current else {
            return DocumentBefore::NotLookedUp;
        };
        let document = match known {
            Known::Missing => None,
            Known::At(id, range) => {
                let images = self.images.get(&id.ui);
                let bytes = images.and_then(|images| images.bytes.get(range.clone()));
                // The bounds of the document were checked when it was found.
                bytes.and_then(|bytes| Document::new(bytes).ok())
            }
        };
        document.map_or(DocumentBefore::Missing, DocumentBefore::Document)
    }
}
