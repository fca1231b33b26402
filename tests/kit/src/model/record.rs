//! One collection: its documents in the order of their insertion, and its indexes.

use std::collections::BTreeMap;

use bson::{Document as Bson, doc};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, Element};

use super::collation::Collation;
use super::failure::Failure;
use super::filter::{self, operators};
use super::form;
use super::index::{Index, id_index};

/// A document's position in the order of insertion.
pub(super) type RecordId = u64;

/// A collection.
#[derive(Debug, Clone)]
pub(super) struct Collection {
    pub(super) uuid: CollectionUuid,
    /// The options, as `listCollections` shows them.
    pub(super) options: Bson,
    pub(super) collation: Collation,
    /// The indexes; the first one is that of `_id`.
    pub(super) indexes: Vec<Index>,
    records: BTreeMap<RecordId, Vec<u8>>,
    next: RecordId,
    /// Total bytes of the documents.
    bytes: u64,
}

impl Collection {
    /// Returns an empty collection with options that were checked and completed.
    pub(super) fn new(uuid: CollectionUuid, options: Bson) -> Result<Collection, Failure> {
        let collation = Collation::of(&options)?;
        let spec = match options.get_document("clusteredIndex") {
            Ok(clustered) => {
                let mut spec = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
                spec.extend(clustered.clone());
                spec.insert("clustered", true);
                spec
            }
            Err(_) => id_index(&collation),
        };
        Ok(Collection {
            uuid,
            options,
            collation,
            indexes: vec![Index::new(spec)?],
            records: BTreeMap::new(),
            next: 0,
            bytes: 0,
        })
    }

    /// Returns the indexes as a server lists them. Buckets are clustered by their `_id`, so they do
    /// not have an index of it.
    pub(super) fn listed_indexes(&self) -> impl Iterator<Item = &Index> {
        let is_clustered = self.options.get_bool("clusteredIndex").unwrap_or(false);
        self.indexes.iter().skip(usize::from(is_clustered))
    }

    /// Returns the documents in the order of insertion.
    pub(super) fn records(&self) -> impl Iterator<Item = (RecordId, Document<'_>)> {
        let records = self.records.iter();
        records.filter_map(|(id, bytes)| Some((*id, Document::new(bytes).ok()?)))
    }

    /// Returns a document.
    pub(super) fn document(&self, record: RecordId) -> Option<Document<'_>> {
        let bytes = self.records.get(&record)?;
        Document::new(bytes).ok()
    }

    /// Returns true if the collection drops its oldest documents.
    pub(super) fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }

    /// Returns the documents that match a filter, in the order of insertion.
    pub(super) fn select(&self, filter: Document<'_>) -> Result<Vec<RecordId>, Failure> {
        let Some(candidates) = self.by_id(filter)? else {
            let mut found = Vec::new();
            for (record, document) in self.records() {
                if filter::matches(document, filter, &self.collation)? {
                    found.push(record);
                }
            }
            return Ok(found);
        };
        let mut found = Vec::new();
        for record in candidates {
            let document = self.document(record).unwrap_or(Document::EMPTY);
            if filter::matches(document, filter, &self.collation)? {
                found.push(record);
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Returns the documents that the `_id`s of a filter select; `None` if the filter does not
    /// contain an `_id`.
    fn by_id(&self, filter: Document<'_>) -> Result<Option<Vec<RecordId>>, Failure> {
        let Some(id) = filter.get("_id")? else {
            return Ok(None);
        };
        let wanted: Vec<Element<'_>> = match operators(id) {
            None => vec![id],
            Some(operators) => match (operators.get("$eq")?, operators.get("$in")?) {
                (Some(id), _) => vec![id],
                (None, Some(list)) => list.document()?.elements().collect::<Result<_, _>>()?,
                (None, None) => return Ok(None),
            },
        };
        let mut found = Vec::new();
        for id in wanted {
            found.extend(self.find_id(id)?);
        }
        Ok(Some(found))
    }

    fn find_id(&self, id: Element<'_>) -> Result<Option<RecordId>, Failure> {
        self.indexes
            .first()
            .map_or(Ok(None), |index| index.find(id))
    }

    /// Adds a document, and drops the oldest ones of a capped collection that is full.
    pub(super) fn insert(&mut self, ns: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let keys = self.checked_keys(ns, None, &bytes)?;
        let record = self.next;
        self.next += 1;
        for (index, keys) in self.indexes.iter_mut().zip(keys) {
            index.add(keys, record);
        }
        self.bytes += bytes.len() as u64;
        self.records.insert(record, bytes);
        self.drop_oldest()
    }

    /// Replaces a document.
    pub(super) fn replace(
        &mut self,
        ns: &str,
        record: RecordId,
        bytes: Vec<u8>,
    ) -> Result<(), Failure> {
        let keys = self.checked_keys(ns, Some(record), &bytes)?;
        self.forget_keys(record)?;
        for (index, keys) in self.indexes.iter_mut().zip(keys) {
            index.add(keys, record);
        }
        self.bytes += bytes.len() as u64;
        if let Some(old) = self.records.insert(record, bytes) {
            self.bytes -= old.len() as u64;
        }
        Ok(())
    }

    /// Removes a document.
    pub(super) fn remove(&mut self, record: RecordId) -> Result<(), Failure> {
        self.forget_keys(record)?;
        if let Some(old) = self.records.remove(&record) {
            self.bytes -= old.len() as u64;
        }
        Ok(())
    }

    /// Removes all documents.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
        for index in &mut self.indexes {
            index.clear();
        }
    }

    /// Fills an index from the documents. With `refuse`, fails with 11000 for the first duplicate.
    pub(super) fn build(&self, ns: &str, index: &mut Index, refuse: bool) -> Result<(), Failure> {
        index.clear();
        for (record, document) in self.records() {
            form::check(index, document)?;
            let keys = index.keys_of(document)?;
            if refuse {
                index.check(ns, &keys, Some(record), document)?;
            }
            index.add(keys, record);
        }
        Ok(())
    }

    /// Returns the document's keys in each index, if no other document has them.
    fn checked_keys(
        &self,
        ns: &str,
        own: Option<RecordId>,
        bytes: &[u8],
    ) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
        let document = Document::new(bytes)?;
        let mut all = Vec::with_capacity(self.indexes.len());
        for index in &self.indexes {
            let keys = index.keys_of(document)?;
            index.check(ns, &keys, own, document)?;
            form::check(index, document)?;
            all.push(keys);
        }
        Ok(all)
    }

    fn forget_keys(&mut self, record: RecordId) -> Result<(), Failure> {
        let Some(bytes) = self.records.get(&record) else {
            return Ok(());
        };
        let document = Document::new(bytes)?;
        for index in &mut self.indexes {
            let keys = index.keys_of(document)?;
            index.remove(&keys, record);
        }
        Ok(())
    }

    /// Drops the oldest documents of a capped collection that exceeds its limits. No oplog entry records
    /// that.
    pub(super) fn drop_oldest(&mut self) -> Result<(), Failure> {
        if !self.is_capped() {
            return Ok(());
        }
        let limit = |name| super::options::integer(&self.options, name);
        let most_bytes = limit("size").unwrap_or(i64::MAX).unsigned_abs();
        let most = limit("max").unwrap_or(i64::MAX).unsigned_abs();
        while self.bytes > most_bytes || self.records.len() as u64 > most {
            let Some(oldest) = self.records.keys().next().copied() else {
                break;
            };
            self.remove(oldest)?;
        }
        Ok(())
    }
}
