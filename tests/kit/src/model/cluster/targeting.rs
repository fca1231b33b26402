//! The shard key of a collection, and the shards to which a document or a query belongs.

use bson::{Bson as Value, Document as Bson};
use oplog_relay_core::document::{Document, Element, kind};
use oplog_relay_core::key::write_id_identity;

use crate::model::failure::Failure;
use crate::model::filter::operators;
use crate::model::version::Version;

/// `ShardKeyNotFound`
pub(super) const NO_SHARD_KEY: i32 = 61;

/// The shard key of a collection.
#[derive(Debug, Clone)]
pub(super) struct ShardKey {
    pub(super) pattern: Bson,
    pub(super) unique: bool,
}

/// The bytes and types of the values of a shard key.
pub(super) type KeyValues = Vec<(u8, Vec<u8>)>;

impl ShardKey {
    /// Returns the values of a document. A missing field counts as null since 4.4; earlier servers refuse
    /// such a document.
    pub(super) fn values_of(
        &self,
        document: Document<'_>,
        version: Version,
    ) -> Result<KeyValues, Failure> {
        let mut values = KeyValues::new();
        for path in self.pattern.keys() {
            match at(document, path)? {
                Some(value) if value.kind == kind::ARRAY => {
                    let message = "Shard key cannot contain array values or array descendants.";
                    return Err(Failure::new(NO_SHARD_KEY, message));
                }
                Some(value) => values.push((value.kind, value.value.to_vec())),
                None if version < Version::V4_4 => {
                    let message = format!(
                        "document does not contain shard key for pattern {}",
                        self.pattern
                    );
                    return Err(Failure::new(NO_SHARD_KEY, message));
                }
                None => values.push((kind::NULL, Vec::new())),
            }
        }
        Ok(values)
    }

    /// Returns the values that a query fixes by equality; `None` unless it fixes the whole key.
    pub(super) fn values_in(&self, query: Document<'_>) -> Result<Option<KeyValues>, Failure> {
        let mut values = KeyValues::new();
        for path in self.pattern.keys() {
            let Some(condition) = query.get(path)? else {
                return Ok(None);
            };
            let equal = match operators(condition) {
                None => Some(condition),
                Some(inner) => inner.get("$eq")?,
            };
            let Some(equal) = equal else {
                return Ok(None);
            };
            values.push((equal.kind, equal.value.to_vec()));
        }
        Ok(Some(values))
    }

    /// Returns true if an index with this key may be unique: the shard key is its prefix, and is not
    /// hashed.
    pub(super) fn is_prefix_of(&self, index: &Bson) -> bool {
        let mut fields = index.keys();
        self.pattern.keys().all(|path| fields.next() == Some(path))
            && !self.pattern.values().any(|value| value.as_str().is_some())
    }

    /// Returns true if an index can serve the shard key.
    pub(super) fn is_served_by(&self, index: &Bson) -> bool {
        let mut fields = index.iter();
        self.pattern.iter().all(|(path, direction)| {
            fields.next().is_some_and(|(field, other)| {
                let is_hashed = |value: &Value| value.as_str() == Some("hashed");
                field == path && is_hashed(direction) == is_hashed(other)
            })
        })
    }
}

/// Returns the shard of these values. Equal numbers of different types belong to the same shard.
pub(super) fn shard_of(values: &KeyValues, shards: usize) -> Result<usize, Failure> {
    let mut identity = Vec::new();
    for (kind, value) in values {
        let element = Element {
            name: b"_id",
            kind: *kind,
            value,
        };
        write_id_identity(element, &mut identity)?;
    }
    let sum: usize = identity.iter().map(|byte| usize::from(*byte)).sum();
    Ok(sum % shards)
}

/// Returns true if a query fixes `_id` by equality.
pub(super) fn has_exact_id(query: Document<'_>) -> Result<bool, Failure> {
    let Some(id) = query.get("_id")? else {
        return Ok(false);
    };
    Ok(match operators(id) {
        None => id.kind != kind::REGEX,
        Some(inner) => inner.get("$eq")?.is_some(),
    })
}

/// Returns the value at a path, which cannot lead through an array.
fn at<'d>(document: Document<'d>, path: &str) -> Result<Option<Element<'d>>, Failure> {
    let mut inner = document;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let Some(value) = inner.get(part)? else {
            return Ok(None);
        };
        if parts.peek().is_none() || value.kind == kind::ARRAY {
            return Ok(Some(value));
        }
        if value.kind != kind::DOCUMENT {
            return Ok(None);
        }
        inner = value.document()?;
    }
    Ok(None)
}
