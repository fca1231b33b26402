//! A document that is held until the target accepts it.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::position::EntryId;
use rustc_hash::FxHashMap;

use crate::error::ConsumerError;
use crate::record_position::RecordPosition;
use crate::replay::damage::damaged;
use crate::replay::held_documents::error::IndexRefusal;
use crate::replay::held_documents::suspended_indexes::note::SuspendedIndex;
use crate::replay::plan::{Action, Routing, Write};

/// Maximum number of bytes of all held documents.
pub(crate) const MAX_HELD_BYTES: usize = 64 << 20;

/// A document that an index of the target refuses temporarily.
#[derive(Debug, Clone)]
pub(crate) struct HeldDocument {
    /// The last entry that changed the document.
    pub(crate) id: EntryId,
    /// The state of the document with all of its entries applied.
    pub(crate) document: Arc<[u8]>,
    /// The first entry that was held.
    pub(crate) since: EntryId,
    /// The position of the record with that entry.
    pub(crate) position: RecordPosition,
    /// The `_id` of the note with the stored form, if it was parked. The next owner of the partition
    /// then holds that form.
    pub(crate) parked_note: Option<String>,
    /// Number of bytes of the parked stored form.
    pub(crate) parked_bytes: usize,
    /// The server's error code.
    pub(crate) code: i32,
    /// The start of the server's error text.
    pub(crate) text: String,
}

/// The identity of a document on the target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DocumentKey {
    /// Namespace of the document.
    pub(crate) ns: String,
    /// Its canonical `_id`.
    pub(crate) identity: Vec<u8>,
}

/// The held documents, by their identities.
pub(crate) type HeldByKey = FxHashMap<DocumentKey, HeldDocument>;

/// A held document with its identity.
#[derive(Debug, Clone)]
pub(crate) struct KeyedDocument {
    /// The identity.
    pub(crate) key: DocumentKey,
    /// The document.
    pub(crate) held: HeldDocument,
}

/// A document with its `_id`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdentifiedDocument<'d> {
    /// The document.
    pub(crate) document: Document<'d>,
    /// Its `_id`.
    pub(crate) document_id: Element<'d>,
}

/// The documents that are held, and the indexes that are suspended, while entries are applied again.
#[derive(Debug, Default)]
pub(crate) struct HeldDocuments {
    pub(crate) held: Mutex<HeldByKey>,
    /// Bytes of documents that were held since the total was last checked.
    pub(crate) held_since_check: AtomicUsize,
    pub(crate) suspended: Mutex<Vec<SuspendedIndex>>,
}

impl HeldDocument {
    /// Returns the reason why the document is held.
    pub(crate) fn refusal(&self) -> IndexRefusal {
        IndexRefusal {
            code: self.code,
            text: self.text.clone(),
        }
    }

    /// Returns true if the document is held for this partition.
    pub(crate) fn is_of(&self, topic: &str, partition: i32) -> bool {
        self.position.name.is(topic, partition)
    }

    /// Returns a write of the document with its `_id`, as a write of its last entry.
    pub(crate) const fn write<'d>(
        &'d self,
        document_id: Element<'d>,
        action: Action<'d>,
    ) -> Write<'d> {
        Write {
            id: self.id,
            origin: self.position.origin(),
            document_id,
            action,
            routing: Routing::NONE,
        }
    }

    /// Returns an entry that inserts the document in its current state.
    pub(crate) fn entry(&self, ns: &str) -> Result<Vec<u8>, ConsumerError> {
        let document = read(ns, &self.document)?.document;
        let mut bytes = Vec::new();
        let mut entry = DocumentBuilder::start(&mut bytes);
        entry.raw("ts", kind::TIMESTAMP, &self.id.ts.to_le_bytes());
        entry.str("op", "i").str("ns", ns).document("o", document);
        entry.finish();
        Ok(bytes)
    }
}

/// Parses a stored or held document, and returns it with its `_id`.
pub(crate) fn read<'d>(ns: &str, bytes: &'d [u8]) -> Result<IdentifiedDocument<'d>, ConsumerError> {
    let failed = |error: Malformed| damaged(ns, &error);
    let document = Document::new(bytes).map_err(failed)?;
    let document_id = document.get("_id").map_err(failed)?;
    let document_id = document_id.ok_or_else(|| failed(Malformed::Missing("_id")))?;
    Ok(IdentifiedDocument {
        document,
        document_id,
    })
}
