//! The documents to read from a source, by collection.

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{DocumentBuilder, Element, kind};
use oplog_relay_core::entry::{Entry, EntryError};
use rustc_hash::FxHashSet;

use super::window::write_document_key;

/// Number of bytes of `_id`s at which a list is full. An `_id` may be as large as a document.
const MOST_ID_BYTES: usize = 1 << 20;

/// The documents to ask for in one collection.
#[derive(Debug, Clone)]
pub struct Request {
    /// `db.collection`, as in the entries.
    pub ns: String,
    /// UUID of the collection, if the entries have it.
    pub ui: Option<CollectionUuid>,
    /// The `_id`s as elements of an array.
    ids: Vec<u8>,
    count: usize,
    /// The keys of the documents in a window.
    pub(super) keys: Vec<Vec<u8>>,
}

impl Request {
    /// Returns the number of `_id`s in the filter.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Appends `{_id: {$in: [...]}}` to a command.
    pub fn write_filter(&self, command: &mut DocumentBuilder<'_>) {
        command.nested("filter", kind::DOCUMENT, |filter| {
            filter.nested("_id", kind::DOCUMENT, |id| {
                id.raw("$in", kind::ARRAY, &self.array());
            });
        });
    }

    fn array(&self) -> Vec<u8> {
        let length = i32::try_from(self.ids.len() + 5).unwrap_or(i32::MAX);
        let mut array = Vec::with_capacity(self.ids.len() + 5);
        array.extend_from_slice(&length.to_le_bytes());
        array.extend_from_slice(&self.ids);
        array.push(0);
        array
    }

    fn push(&mut self, id: Element<'_>, key: Vec<u8>) {
        self.keys.push(key);
        // Servers do not store a regular expression or undefined as an `_id`, and `$in` treats the
        // former as a pattern and refuses the latter.
        if matches!(id.kind, kind::REGEX | kind::UNDEFINED) {
            return;
        }
        self.ids.push(id.kind);
        let mut digits = itoa::Buffer::new();
        self.ids
            .extend_from_slice(digits.format(self.count).as_bytes());
        self.ids.push(0);
        self.ids.extend_from_slice(id.value);
        self.count += 1;
    }
}

/// A list of documents to ask for. It contains each document once.
#[derive(Debug)]
pub struct Wanted {
    requests: Vec<Request>,
    keys: FxHashSet<Vec<u8>>,
    id_bytes: usize,
    most: usize,
}

impl Wanted {
    pub(super) fn new(most: usize) -> Self {
        Self {
            requests: Vec::new(),
            keys: FxHashSet::default(),
            id_bytes: 0,
            most,
        }
    }

    /// Returns true if no more documents should be added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.keys.len() >= self.most || self.id_bytes >= MOST_ID_BYTES
    }

    /// Adds the document of an update, unless the list already has it.
    ///
    /// # Errors
    /// [`EntryError`] if the entry has no `_id`, or a damaged one.
    pub fn add(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        let id = entry.document_id()?;
        let mut key = Vec::new();
        write_document_key(entry, id, &mut key)?;
        if !self.keys.insert(key.clone()) {
            return Ok(());
        }
        self.id_bytes += id.value.len();
        self.request(entry).push(id, key);
        Ok(())
    }

    /// Returns the requests, in the order in which their collections were added.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Returns the request for an entry's collection. Consecutive entries are often of the same
    /// collection, so the last request is examined first.
    fn request(&mut self, entry: &Entry<'_>) -> &mut Request {
        let is_its = |request: &Request| request.ui == entry.ui && request.ns == entry.ns;
        let known = self.requests.iter().rposition(is_its);
        let place = known.unwrap_or_else(|| {
            self.requests.push(Request {
                ns: entry.ns.to_owned(),
                ui: entry.ui,
                ids: Vec::new(),
                count: 0,
                keys: Vec::new(),
            });
            self.requests.len() - 1
        });
        &mut self.requests[place]
    }
}
