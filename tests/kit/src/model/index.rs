//! Indexes: their specs, and the keys of the unique ones.

use std::collections::HashMap;

use bson::{Bson as Value, Document as Bson, doc};
use oplog_relay_core::document::{Document, Element, kind};

use super::collation::Collation;
use super::duplicate::DuplicateKey;
use super::failure::Failure;
use super::filter;
use super::path::{Part, Place, keys, parts};
use super::record::RecordId;

/// The value in a key for a missing field.
const NULL: Element<'static> = Element {
    name: b"",
    kind: kind::NULL,
    value: &[],
};

/// One index of a collection.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// The spec, as `listIndexes` shows it.
    spec: Bson,
    collation: Collation,
    paths: Vec<String>,
    /// The `partialFilterExpression`.
    filter: Option<Vec<u8>>,
    /// Documents by key, for indexes that refuse duplicates; the others do not need them.
    entries: HashMap<Vec<u8>, Vec<RecordId>>,
}

impl Index {
    /// Returns an index of a spec that was checked and completed.
    pub(super) fn new(spec: Bson) -> Result<Index, Failure> {
        let key = spec.get_document("key");
        let key = key.map_err(|_| Failure::missing_field("key"))?;
        let filter = spec.get_document("partialFilterExpression").ok();
        Ok(Index {
            collation: Collation::of(&spec)?,
            paths: key.keys().cloned().collect(),
            filter: filter.map(Bson::to_vec).transpose()?,
            entries: HashMap::new(),
            spec,
        })
    }

    /// Returns the spec, as `listIndexes` shows it.
    pub(super) const fn spec(&self) -> &Bson {
        &self.spec
    }

    /// Returns the spec for a change. The keys must not depend on the changed fields.
    pub(super) const fn spec_mut(&mut self) -> &mut Bson {
        &mut self.spec
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        self.spec.get_str("name").unwrap_or_default()
    }

    /// Returns its key pattern.
    pub(super) fn key(&self) -> Bson {
        self.spec.get_document("key").cloned().unwrap_or_default()
    }

    /// Returns its collation.
    pub(super) const fn collation(&self) -> &Collation {
        &self.collation
    }

    /// Returns a boolean field of the spec.
    pub(super) fn is(&self, field: &str) -> bool {
        self.spec.get(field).is_some_and(is_true)
    }

    /// Returns true for the index of `_id` and for the clustered index.
    pub(super) fn is_id(&self) -> bool {
        self.paths == ["_id"] && (self.name() == "_id_" || self.is("clustered"))
    }

    /// Returns true if it refuses a key that another document has.
    pub(super) fn refuses_duplicates(&self) -> bool {
        self.is_id() || self.is("unique") || self.is("prepareUnique")
    }

    /// Returns the keys of a document as bytes that are the same for equal keys. An index that
    /// permits duplicates returns no keys.
    pub(super) fn keys_of(&self, document: Document<'_>) -> Result<Vec<Vec<u8>>, Failure> {
        if !self.refuses_duplicates() || !self.holds(document)? {
            return Ok(Vec::new());
        }
        let sparse = self.is("sparse");
        let mut found = Vec::new();
        for key in self.values(document)? {
            if sparse && key.iter().all(Option::is_none) {
                continue;
            }
            found.push(self.identity(&key)?);
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Returns true if the index contains the document, which a partial index may not.
    pub(super) fn holds(&self, document: Document<'_>) -> Result<bool, Failure> {
        match &self.filter {
            None => Ok(true),
            Some(filter) => filter::matches(document, Document::new(filter)?, &self.collation),
        }
    }

    /// Returns the keys of a document, as values; fails with 171 if two different arrays are indexed.
    pub(super) fn values<'a>(
        &self,
        document: Document<'a>,
    ) -> Result<Vec<Vec<Option<Element<'a>>>>, Failure> {
        let paths = self.paths.iter().map(|path| parts(path));
        let paths: Vec<Vec<Part<'_>>> = paths.collect();
        let places = paths.iter().map(|path| Place::Inside(document, path));
        let mut found = Vec::new();
        keys(places.collect(), &mut found)?;
        Ok(found)
    }

    /// Returns the bytes that are the same for equal keys.
    fn identity(&self, key: &[Option<Element<'_>>]) -> Result<Vec<u8>, Failure> {
        let mut identity = Vec::new();
        for value in key {
            self.collation
                .write_identity(value.unwrap_or(NULL), &mut identity)?;
        }
        Ok(identity)
    }

    /// Returns the document that has a value as its only key.
    pub(super) fn find(&self, value: Element<'_>) -> Result<Option<RecordId>, Failure> {
        let identity = self.identity(&[Some(value)])?;
        let found = self.entries.get(&identity);
        Ok(found.and_then(|records| records.first().copied()))
    }

    /// Fails with 11000 if a document other than `own` has one of these keys.
    pub(super) fn check(
        &self,
        ns: &str,
        keys: &[Vec<u8>],
        own: Option<RecordId>,
        document: Document<'_>,
    ) -> Result<(), Failure> {
        let taken = keys.iter().find(|key| {
            let records = self.entries.get(*key).map(Vec::as_slice);
            records.is_some_and(|records| records.iter().any(|record| Some(*record) != own))
        });
        match taken {
            None => Ok(()),
            Some(taken) => Err(self.duplicate(ns, taken, document)?),
        }
    }

    /// Returns the refusal of a duplicate key.
    fn duplicate(
        &self,
        ns: &str,
        taken: &[u8],
        document: Document<'_>,
    ) -> Result<Failure, Failure> {
        let mut key = Vec::new();
        for values in self.values(document)? {
            if self.identity(&values)? == taken {
                key.extend(values.into_iter().map(|value| value.unwrap_or(NULL)));
                break;
            }
        }
        let key = DuplicateKey::new(self.key(), &key, &self.collation);
        let message = key.message(ns, self.name())?;
        Ok(Failure {
            key: Some(Box::new(key)),
            ..Failure::new(11000, message)
        })
    }

    /// Records that a document has these keys.
    pub(super) fn add(&mut self, keys: Vec<Vec<u8>>, record: RecordId) {
        for key in keys {
            self.entries.entry(key).or_default().push(record);
        }
    }

    /// Records that a document no longer has these keys.
    pub(super) fn remove(&mut self, keys: &[Vec<u8>], record: RecordId) {
        for key in keys {
            if let Some(records) = self.entries.get_mut(key) {
                records.retain(|other| *other != record);
                if records.is_empty() {
                    self.entries.remove(key);
                }
            }
        }
    }

    /// Removes all keys.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Returns true if two documents share a key, which is possible if they are older than
    /// `prepareUnique`.
    pub(super) fn has_duplicates(&self) -> bool {
        self.entries.values().any(|records| records.len() > 1)
    }
}

/// Returns true for the values that servers treat as true.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Boolean(value) => *value,
        Value::Int32(value) => *value != 0,
        Value::Int64(value) => *value != 0,
        Value::Double(value) => *value != 0.0,
        _ => false,
    }
}

/// Returns a value for a reply; a value that `bson` cannot represent becomes null.
pub(super) fn value_of(element: Element<'_>) -> Result<Value, Failure> {
    let mut bytes = Vec::new();
    let mut builder = oplog_relay_core::document::DocumentBuilder::start(&mut bytes);
    builder.raw("v", element.kind, element.value);
    builder.finish();
    let document = Bson::from_reader(bytes.as_slice()).unwrap_or_default();
    Ok(document.get("v").cloned().unwrap_or(Value::Null))
}

/// Returns the index of `_id` that every collection has.
pub(super) fn id_index(collation: &Collation) -> Bson {
    let mut spec = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
    if let Some(collation) = collation.spec() {
        spec.insert("collation", collation.clone());
    }
    spec
}
