//! The collections and views that are still to be copied.

use std::collections::{BTreeMap, BTreeSet};

use oplog_relay_core::collection_uuid::{CollectionUuid, UuidError};
use oplog_relay_core::json::parse_document;
use oplog_relay_core::state::{CopyKind, CopyRecord, CopyStage, STATE_VERSION, State};
use serde::Serialize;

use super::listing::{CollectionSize, Listed};
use super::range::Range;
use crate::source::Save;

/// Approximate number of bytes of documents per read.
const READ_BYTES: u64 = 4 << 20;
/// Number of documents of the first read of a collection without statistics.
const FIRST_READ: u32 = 500;
/// Maximum number of documents of a read.
const MOST_DOCUMENTS: u64 = 50_000;

/// A copy of a collection or view that is not complete.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Its key in the state topic: UUID or namespace.
    pub key: String,
    /// UUID of the collection.
    pub ui: Option<CollectionUuid>,
    /// The saved record.
    pub record: CopyRecord,
    /// The query that its documents must match.
    pub filter: Option<Vec<u8>>,
    /// Open ranges by number.
    pub ranges: BTreeMap<u32, Range>,
    /// Numbers of the ranges that are being read.
    pub busy: BTreeSet<u32>,
    /// True if the name in the record is the one at the tail's position.
    pub is_named: bool,
    /// Maximum number of documents of the next read.
    pub limit: u32,
}

impl Copy {
    /// Creates the copy of a collection of which nothing is sent yet. Its name counts as the one at
    /// the tail's position.
    #[must_use]
    pub fn planned(listed: &Listed, size: CollectionSize) -> Self {
        let CollectionSize { documents, bytes } = size;
        let record = CopyRecord {
            v: STATE_VERSION,
            ns: listed.ns.clone(),
            ui: listed.ui.map(|ui| ui.to_string()),
            kind: listed.kind,
            stage: CopyStage::Planned,
            requested: false,
            only_documents: false,
            filter: None,
            documents: 0,
            bytes: 0,
            expected_documents: documents,
            expected_bytes: bytes,
        };
        Self {
            key: record.ui.clone().unwrap_or_else(|| listed.ns.clone()),
            ui: listed.ui,
            limit: limit(documents, bytes),
            record,
            filter: None,
            ranges: BTreeMap::new(),
            busy: BTreeSet::new(),
            is_named: true,
        }
    }

    fn read(key: &str, record: &CopyRecord) -> Result<Self, String> {
        let ui = record.ui.as_deref().map(str::parse).transpose();
        let ui = ui.map_err(|error: UuidError| error.to_string())?;
        Ok(Self {
            key: key.to_owned(),
            ui,
            filter: record.filter.as_deref().map(parse_filter).transpose()?,
            record: record.clone(),
            ranges: BTreeMap::new(),
            busy: BTreeSet::new(),
            is_named: false,
            limit: limit(record.expected_documents, record.expected_bytes),
        })
    }

    /// Returns true if all of its documents are sent.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.record.stage == CopyStage::Reading && self.ranges.is_empty()
    }

    /// Counts documents that are sent, and adjusts the size of the next read.
    pub fn count(&mut self, documents: u64, bytes: u64) {
        self.record.documents += documents;
        self.record.bytes += bytes;
        if documents > 0 {
            self.limit = limit(documents, bytes);
        }
    }

    /// Returns the record of its progress.
    #[must_use]
    pub fn save(&self) -> Save {
        save(format!("copy/{}", self.key), &self.record)
    }

    /// Returns the record of a range; a range that is no longer open is deleted.
    #[must_use]
    pub fn save_range(&self, number: u32) -> Save {
        let key = format!("range/{}/{number}", self.key);
        match self.ranges.get(&number) {
            Some(range) => save(key, &range.record()),
            None => Save { key, value: None },
        }
    }

    /// Returns the deletions of all of its saved records.
    #[must_use]
    pub fn close(&self) -> Vec<Save> {
        let ranges = self.ranges.keys().map(|number| Save {
            key: format!("range/{}/{number}", self.key),
            value: None,
        });
        let own = Save {
            key: format!("copy/{}", self.key),
            value: None,
        };
        ranges.chain([own]).collect()
    }
}

fn save(key: String, record: &impl Serialize) -> Save {
    let value = serde_json::to_vec(record)
        .expect("the record has no map keys and values that JSON does not support");
    Save {
        key,
        value: Some(value),
    }
}

/// Returns the number of documents that have about [`READ_BYTES`].
fn limit(documents: u64, bytes: u64) -> u32 {
    if documents == 0 || bytes == 0 {
        return FIRST_READ;
    }
    let each = (bytes / documents).max(1);
    let documents = (READ_BYTES / each).clamp(2, MOST_DOCUMENTS);
    u32::try_from(documents).expect("it was limited to a number of 32 bits")
}

/// Parses a query in Extended JSON.
///
/// # Errors
/// The reason why it is not a document.
pub fn parse_filter(text: &str) -> Result<Vec<u8>, String> {
    let mut query = Vec::new();
    parse_document(text.as_bytes(), &mut query)
        .map_err(|error| format!("the filter is not an Extended JSON document: {error}"))?;
    Ok(query)
}

/// All copies, the largest first.
#[derive(Debug, Clone, Default)]
pub struct Copies(Vec<Copy>);

impl Copies {
    /// Reads the saved copies.
    ///
    /// # Errors
    /// The fault of a record.
    pub fn read(state: &State) -> Result<Self, String> {
        let mut copies = Self::default();
        for (key, record) in &state.copies {
            copies.add(Copy::read(key, record)?);
        }
        for ((key, number), record) in &state.ranges {
            let range = Range::read(record)?;
            if let Some(copy) = copies.get_mut(key) {
                copy.ranges.insert(*number, range);
            }
        }
        Ok(copies)
    }

    /// Adds a copy unless it already exists.
    pub fn add(&mut self, copy: Copy) {
        if self.get_mut(&copy.key).is_some() {
            return;
        }
        let larger = |other: &Copy| other.record.expected_bytes >= copy.record.expected_bytes;
        let place = self.0.iter().take_while(|other| larger(other)).count();
        self.0.insert(place, copy);
    }

    /// Removes a copy and returns it.
    pub fn remove(&mut self, key: &str) -> Option<Copy> {
        let place = self.0.iter().position(|copy| copy.key == key)?;
        Some(self.0.remove(place))
    }

    /// Returns the copy with a key.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Copy> {
        self.0.iter_mut().find(|copy| copy.key == key)
    }

    /// Returns all copies.
    pub fn iter(&self) -> std::slice::Iter<'_, Copy> {
        self.0.iter()
    }

    /// Returns the keys of the copies that meet a condition.
    pub fn keys_of(&self, wanted: impl Fn(&Copy) -> bool) -> Vec<String> {
        let wanted = self.0.iter().filter(|copy| wanted(copy));
        wanted.map(|copy| copy.key.clone()).collect()
    }

    /// Returns true if no copy is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of copies.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if only views are left.
    #[must_use]
    pub fn are_views(&self) -> bool {
        self.0.iter().all(|copy| copy.record.kind == CopyKind::View)
    }

    /// Returns the collections whose index builds the full sync sends.
    pub fn held(&self) -> impl Iterator<Item = CollectionUuid> + '_ {
        let held = self.0.iter().filter(|copy| !copy.record.only_documents);
        held.filter_map(|copy| copy.ui)
    }
}
