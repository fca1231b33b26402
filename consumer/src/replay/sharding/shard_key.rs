//! The shard key of a collection: its values in a document, and the updates that may change them.

use mongodb::bson::Document as Bson;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};

use crate::replay::index_key::key_fields;
use crate::replay::plan::{Action, Routing, is_zero};

/// The shard key of a collection that is sharded by more than `_id`, or that has a collation of its own.
/// With a collation, a filter of `_id` alone would be compared by it and could not select a shard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShardKey {
    /// The paths of its fields, without `_id`. A hashed field is routed by its value too.
    paths: Vec<String>,
    /// The shard key as the cluster reports it, which is also the key of its index.
    pattern: Bson,
    /// True if the collection has a collation of its own.
    has_collation: bool,
}

impl ShardKey {
    /// Reads the shard key of a collection; `None` if `_id` is sufficient to route its writes.
    pub(crate) fn new(pattern: &Bson, has_collation: bool) -> Option<Self> {
        let fields = pattern.keys().filter(|path| *path != "_id");
        let paths: Vec<String> = fields.cloned().collect();
        (!paths.is_empty() || has_collation).then_some(Self {
            paths,
            pattern: pattern.clone(),
            has_collation,
        })
    }

    /// Returns true if an index with this key has exactly the fields of the shard key.
    pub(crate) fn is_key_of_index(&self, key: &Bson) -> bool {
        key_fields(&self.pattern) == key_fields(key)
    }

    /// Returns true if the collection has a collation of its own.
    pub(crate) const fn has_collation(&self) -> bool {
        self.has_collation
    }

    /// Returns the paths that a lookup must return. `_id` is always returned as a whole.
    pub(crate) fn projection(&self) -> Vec<&str> {
        let paths = self.paths.iter().map(String::as_str);
        paths.filter(|path| !path.starts_with("_id.")).collect()
    }

    /// Returns the values of the shard key, by path. As on the servers, a missing field counts as
    /// null; the type of a value counts, because servers since 4.4 treat `1` and `1.0` as different
    /// shard keys.
    pub(crate) fn values_of(&self, document: Document<'_>) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        let mut values = DocumentBuilder::start(&mut out);
        for path in &self.paths {
            match value_at(document, path)? {
                Some(value) => values.raw(path, value.kind, value.value),
                None => values.raw(path, kind::NULL, &[]),
            };
        }
        values.finish();
        Ok(out)
    }

    /// Returns the part of a filter that has these values.
    pub(crate) fn routing<'v>(&self, values: &'v [u8]) -> Result<Routing<'v>, Malformed> {
        Ok(Routing {
            values: Document::new(values)?,
            has_collation: self.has_collation,
        })
    }

    /// Returns true if a field of the shard key has the zero timestamp in this document, which a server
    /// replaces with its own time when it stores the document. It replaces only top-level fields.
    pub(crate) fn has_zero_timestamp(&self, document: Document<'_>) -> Result<bool, Malformed> {
        if !document.may_have(kind::TIMESTAMP) {
            return Ok(false);
        }
        for field in document.elements() {
            let field = field?;
            if is_zero(field) && self.paths.iter().any(|path| path.as_bytes() == field.name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns true if an update may change the shard key of its document.
    pub(crate) fn may_change(&self, action: &Action<'_>) -> Result<bool, Malformed> {
        match action {
            Action::Modify(modifiers) | Action::AsIs { modifiers, .. } => {
                for operator in modifiers.elements() {
                    let operator = operator?;
                    if operator.name == b"$v" {
                        continue;
                    }
                    for change in operator.document()?.elements() {
                        if self.overlaps(change?.name) {
                            return Ok(true);
                        }
                    }
                }
                Ok(false)
            }
            // Each section has top-level fields.
            Action::Fields(diff) => {
                for section in diff.elements() {
                    for change in section?.document()?.elements() {
                        if self.overlaps(change?.name) {
                            return Ok(true);
                        }
                    }
                }
                Ok(false)
            }
            // It restores zero timestamps that the server replaced with its own time when it stored
            // the document, so the stored value of the shard key changes.
            Action::Zeros(document) => {
                for field in document.elements() {
                    let field = field?;
                    if field.kind == kind::TIMESTAMP && self.overlaps(field.name) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            // A diff is applied by this program in any case, so its paths need no check.
            Action::Diff(_) => Ok(true),
            Action::Insert(_) | Action::Replace(_) | Action::Rewritten(_) | Action::Delete => {
                Ok(false)
            }
        }
    }

    /// Returns true if a path is a field of the shard key, contains one, or is within one.
    fn overlaps(&self, changed: &[u8]) -> bool {
        let is_within = |inner: &[u8], outer: &[u8]| {
            inner.starts_with(outer) && matches!(inner.get(outer.len()), None | Some(b'.'))
        };
        let mut paths = self.paths.iter().map(String::as_bytes);
        paths.any(|path| is_within(changed, path) || is_within(path, changed))
    }
}

/// Returns the value at a path. A path cannot lead through an array, because servers accept none in a
/// shard key.
fn value_at<'d>(document: Document<'d>, path: &str) -> Result<Option<Element<'d>>, Malformed> {
    let mut at = document;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let Some(value) = at.get(part)? else {
            return Ok(None);
        };
        if parts.peek().is_none() {
            return Ok(Some(value));
        }
        if value.kind != kind::DOCUMENT {
            return Ok(None);
        }
        at = value.document()?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    fn bytes(document: &Bson) -> Vec<u8> {
        document.to_vec().unwrap()
    }

    fn key(pattern: &Bson) -> ShardKey {
        ShardKey::new(pattern, false).unwrap()
    }

    #[test]
    fn a_key_of_id_alone_needs_no_routing() {
        assert_eq!(ShardKey::new(&doc! { "_id": "hashed" }, false), None);
        let key = key(&doc! { "a": 1, "_id": 1 });
        let document = bytes(&doc! { "_id": 7, "a": 2 });
        let values = key.values_of(Document::new(&document).unwrap()).unwrap();
        assert_eq!(values, bytes(&doc! { "a": 2 }));
    }

    #[test]
    fn an_index_has_the_fields_of_the_shard_key_whatever_the_type_of_its_directions() {
        let key = key(&doc! { "a": 1, "b": "hashed" });
        assert!(key.is_key_of_index(&doc! { "a": 1.0, "b": "hashed" }));
        assert!(key.is_key_of_index(&doc! { "a": 1_i64, "b": "hashed" }));
        for other in [
            doc! { "a": 1 },
            doc! { "a": 1, "b": 1 },
            doc! { "a": -1, "b": "hashed" },
            doc! { "b": "hashed", "a": 1 },
            doc! { "a": 1, "b": "hashed", "c": 1 },
        ] {
            assert!(!key.is_key_of_index(&other), "{other}");
        }
    }

    #[test]
    fn a_key_of_id_with_a_collation_needs_the_simple_collation() {
        let key = ShardKey::new(&doc! { "_id": "hashed" }, true).unwrap();
        let document = bytes(&doc! { "_id": "a", "x": 2 });
        let values = key.values_of(Document::new(&document).unwrap()).unwrap();
        let routing = key.routing(&values).unwrap();
        assert!(routing.values.is_empty() && routing.has_collation);
        assert!(key.projection().is_empty());
    }

    #[test]
    fn missing_fields_are_null_and_types_count() {
        let key = key(&doc! { "a.b": "hashed", "c": 1 });
        let values = |document: &Bson| {
            let document = bytes(document);
            key.values_of(Document::new(&document).unwrap()).unwrap()
        };
        let null = bytes(&doc! { "a.b": null, "c": 1 });
        assert_eq!(values(&doc! { "c": 1 }), null);
        assert_eq!(values(&doc! { "a": 5, "c": 1 }), null);
        assert_eq!(values(&doc! { "a": { "b": null }, "c": 1 }), null);
        let one = doc! { "a": { "b": 1 } };
        assert_eq!(values(&one), bytes(&doc! { "a.b": 1, "c": null }));
        assert_ne!(values(&one), values(&doc! { "a": { "b": 1.0 } }));
    }

    #[test]
    fn updates_of_the_key_or_of_a_part_of_it_may_change_it() {
        let key = key(&doc! { "a.b": 1 });
        let may_change = |modifiers: &Bson| {
            let modifiers = bytes(modifiers);
            let action = Action::Modify(Document::new(&modifiers).unwrap());
            key.may_change(&action).unwrap()
        };
        for path in ["a", "a.b", "a.b.c"] {
            assert!(may_change(&doc! { "$v": 1, "$set": { path: 1 } }), "{path}");
            assert!(may_change(&doc! { "$unset": { path: 1 } }), "{path}");
        }
        for path in ["b", "a.c", "ab", "a.bc"] {
            assert!(!may_change(&doc! { "$set": { path: 1 } }), "{path}");
        }
        let diff = bytes(&doc! { "u": { "x": 1 }, "d": { "a": false } });
        let action = Action::Fields(Document::new(&diff).unwrap());
        assert!(key.may_change(&action).unwrap());
    }
}
