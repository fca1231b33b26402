//! Conversion of the update in a change event to the update of an entry.
//!
//! An event names the changes by paths, with dots between the names of fields and the indexes of
//! arrays. Most updates become `$set` and `$unset` with the same paths. The target's document has
//! the same structure as the source's, so a number in a path means the same there. An update
//! becomes a diff in these cases:
//!
//! - It truncates arrays, which `$set` and `$unset` cannot do.
//! - A name is empty or begins with a dollar sign. Servers do not accept such a path.
//! - The event has `disambiguatedPaths`, which lists the parts of ambiguous paths.
//!
//! A diff must state which parts of a path are indexes. If a path is not in `disambiguatedPaths`,
//! its first part is always a field, and a later number is an index if it is directly below an
//! array that the event truncates. Any other number makes the update ambiguous.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{Document, DocumentBuilder, Element, MAX_DEPTH, kind};
use crate::foreign::ForeignError;

/// The changes that an event describes.
#[derive(Debug, Clone, Copy)]
pub struct Description<'e> {
    /// The new values by their paths.
    pub updated: Option<Document<'e>>,
    /// The list of removed paths.
    pub removed: Option<Document<'e>>,
    /// The list of truncated arrays.
    pub truncated: Option<Document<'e>>,
    /// The name of the field that holds the new length in an item of `truncated`.
    pub length: &'static str,
    /// The parts of ambiguous paths.
    pub disambiguated: Option<Document<'e>>,
}

impl<'e> Description<'e> {
    /// Returns the update, which is the `o` of an entry.
    ///
    /// # Errors
    /// [`ForeignError::Ambiguous`] if a path has two meanings and the update has to be a diff;
    /// [`ForeignError::Event`] or [`ForeignError::Malformed`] if the description is damaged.
    pub fn update(&self) -> Result<Vec<u8>, ForeignError> {
        if self.needs_diff()? {
            self.diff()
        } else {
            self.modifiers()
        }
    }

    fn needs_diff(&self) -> Result<bool, ForeignError> {
        let has_items = |list: Option<Document<'_>>| list.is_some_and(|list| !list.is_empty());
        if has_items(self.truncated) || has_items(self.disambiguated) {
            return Ok(true);
        }
        let is_unusual = |path: &[u8]| {
            let mut parts = path.split(|byte| *byte == b'.');
            parts.any(|part| part.is_empty() || part.starts_with(b"$"))
        };
        for field in self.updated.iter().flat_map(|updated| updated.elements()) {
            if is_unusual(field?.name) {
                return Ok(true);
            }
        }
        for path in self.removed.iter().flat_map(|removed| removed.elements()) {
            if is_unusual(path?.string_bytes()?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn modifiers(&self) -> Result<Vec<u8>, ForeignError> {
        let mut bytes = Vec::new();
        let mut update = DocumentBuilder::start(&mut bytes);
        update.int32("$v", 1);
        if let Some(updated) = self.updated.filter(|updated| !updated.is_empty()) {
            update.document("$set", updated);
        }
        if let Some(removed) = self.removed.filter(|removed| !removed.is_empty()) {
            let mut unset = update.open(b"$unset", kind::DOCUMENT);
            for path in removed.elements() {
                let name = path?.string_bytes()?;
                if name.contains(&0) {
                    return Err(ForeignError::Event("a removed path has a NUL character"));
                }
                unset.element(Element {
                    name,
                    kind: kind::BOOLEAN,
                    value: &[1],
                });
            }
            unset.finish();
        }
        update.finish();
        Ok(bytes)
    }

    fn diff(&self) -> Result<Vec<u8>, ForeignError> {
        let mut root = Node::default();
        let arrays = self.truncated_paths()?;
        let paths = Paths {
            listed: self.listed_paths()?,
            arrays: &arrays,
        };
        for (path, length) in &arrays {
            let parts = paths.parts(path)?;
            let node = root.descend(&parts, path)?;
            node.truncate(*length, path)?;
        }
        for field in self.updated.iter().flat_map(|updated| updated.elements()) {
            let field = field?;
            let parts = paths.parts(field.name)?;
            root.put(&parts, Leaf::Updated(field), field.name)?;
        }
        for path in self.removed.iter().flat_map(|removed| removed.elements()) {
            let path = path?.string_bytes()?;
            let parts = paths.parts(path)?;
            root.put(&parts, Leaf::Removed, path)?;
        }
        let mut bytes = Vec::new();
        let mut update = DocumentBuilder::start(&mut bytes);
        update.int32("$v", 2);
        let mut diff = update.open(b"diff", kind::DOCUMENT);
        root.write(&mut diff);
        diff.finish();
        update.finish();
        Ok(bytes)
    }

    /// Returns the new lengths of the truncated arrays by their paths.
    fn truncated_paths(&self) -> Result<BTreeMap<&'e [u8], i32>, ForeignError> {
        let mut arrays = BTreeMap::new();
        for item in self.truncated.iter().flat_map(|list| list.elements()) {
            let item = item?.document()?;
            let (Some(path), Some(length)) = (item.get("field")?, item.get(self.length)?) else {
                return Err(ForeignError::Event(
                    "a truncated array has no path or no length",
                ));
            };
            let length = i32::try_from(length.integer()?);
            let length = length.ok().filter(|length| *length >= 0);
            let length = length.ok_or(ForeignError::Event(
                "the length of a truncated array is out of range",
            ))?;
            arrays.insert(path.string_bytes()?, length);
        }
        Ok(arrays)
    }

    /// Returns `disambiguatedPaths`: the lists of parts by path.
    fn listed_paths(&self) -> Result<BTreeMap<&'e [u8], Document<'e>>, ForeignError> {
        let mut listed = BTreeMap::new();
        for item in self.disambiguated.iter().flat_map(|list| list.elements()) {
            let item = item?;
            listed.entry(item.name).or_insert(item.document()?);
        }
        Ok(listed)
    }
}

/// The information of an event about its paths.
#[derive(Debug)]
struct Paths<'p, 'e> {
    /// The lists of parts by path, from `disambiguatedPaths`.
    listed: BTreeMap<&'e [u8], Document<'e>>,
    /// The truncated arrays.
    arrays: &'p BTreeMap<&'e [u8], i32>,
}

impl<'e> Paths<'_, 'e> {
    /// Returns the parts of a path.
    fn parts(&self, path: &'e [u8]) -> Result<Vec<Part<'e>>, ForeignError> {
        let parts = match self.listed.get(path) {
            Some(listed) => parts_of(*listed)?,
            None => split(path, self.arrays)?,
        };
        if parts.len() > MAX_DEPTH {
            return Err(ForeignError::Event("a path has too many parts"));
        }
        // A name in BSON ends at the first NUL: the rest would be read as another field.
        let has_nul = |part: &Part<'_>| matches!(part, Part::Field(name) if name.contains(&0));
        if parts.iter().any(has_nul) {
            return Err(ForeignError::Event("a path has a NUL character"));
        }
        Ok(parts)
    }
}

/// Returns the parts in an item of `disambiguatedPaths`.
fn parts_of(listed: Document<'_>) -> Result<Vec<Part<'_>>, ForeignError> {
    let parts = listed.elements().map(|part| {
        let part = part?;
        if part.kind == kind::STRING {
            return Ok(Part::Field(part.string_bytes()?));
        }
        let index = u32::try_from(part.integer()?);
        let wrong = |_| ForeignError::Event("an index in disambiguatedPaths is out of range");
        index.map(Part::Index).map_err(wrong)
    });
    parts.collect()
}

/// A part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'e> {
    Field(&'e [u8]),
    Index(u32),
}

/// Splits a path that is not in `disambiguatedPaths`.
fn split<'e>(
    path: &'e [u8],
    arrays: &BTreeMap<&'e [u8], i32>,
) -> Result<Vec<Part<'e>>, ForeignError> {
    let mut parts = Vec::new();
    let mut at = 0_usize;
    for text in path.split(|byte| *byte == b'.') {
        let parent = path.get(..at.saturating_sub(1)).unwrap_or_default();
        at += text.len() + 1;
        let index = std::str::from_utf8(text).ok();
        let index =
            index.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        parts.push(match index {
            Some(index) if !parts.is_empty() => {
                match (arrays.contains_key(parent), index.parse()) {
                    (true, Ok(index)) => Part::Index(index),
                    _ => return Err(ambiguous(path)),
                }
            }
            _ => Part::Field(text),
        });
    }
    Ok(parts)
}

fn ambiguous(path: &[u8]) -> ForeignError {
    ForeignError::Ambiguous(String::from_utf8_lossy(path).into_owned())
}

/// The change of a field or of an element of an array.
#[derive(Debug, Clone, Copy)]
enum Leaf<'e> {
    Updated(Element<'e>),
    Removed,
}

/// The changes inside an embedded document or array, or at the top level.
#[derive(Debug, Default)]
struct Node<'e> {
    /// The changed fields in the order of the event. New fields are appended to the document
    /// in this order.
    fields: Vec<(&'e [u8], Leaf<'e>)>,
    /// The names in `fields`.
    names: BTreeSet<&'e [u8]>,
    items: BTreeMap<u32, Leaf<'e>>,
    nested_fields: BTreeMap<&'e [u8], Node<'e>>,
    nested_items: BTreeMap<u32, Node<'e>>,
    /// The new length of an array.
    length: Option<i32>,
}

impl<'e> Node<'e> {
    fn put(
        &mut self,
        parts: &[Part<'e>],
        leaf: Leaf<'e>,
        path: &'e [u8],
    ) -> Result<(), ForeignError> {
        let Some((last, parents)) = parts.split_last() else {
            return Err(ambiguous(path));
        };
        let node = self.descend(parents, path)?;
        match *last {
            Part::Field(name) => {
                if node.nested_fields.contains_key(name) || !node.names.insert(name) {
                    return Err(ambiguous(path));
                }
                node.fields.push((name, leaf));
            }
            Part::Index(index) => {
                if node.nested_items.contains_key(&index) {
                    return Err(ambiguous(path));
                }
                node.items.insert(index, leaf);
            }
        }
        node.check(path)
    }

    fn truncate(&mut self, length: i32, path: &'e [u8]) -> Result<(), ForeignError> {
        self.length = Some(length);
        self.check(path)
    }

    /// Returns the node at the end of a path, and creates it if necessary.
    fn descend(&mut self, parts: &[Part<'e>], path: &'e [u8]) -> Result<&mut Self, ForeignError> {
        let mut node = self;
        for part in parts {
            node = match *part {
                Part::Field(name) => {
                    if node.names.contains(name) {
                        return Err(ambiguous(path));
                    }
                    node.nested_fields.entry(name).or_default()
                }
                Part::Index(index) => {
                    if node.items.contains_key(&index) {
                        return Err(ambiguous(path));
                    }
                    node.nested_items.entry(index).or_default()
                }
            };
        }
        Ok(node)
    }

    fn is_array(&self) -> bool {
        self.length.is_some() || !self.items.is_empty() || !self.nested_items.is_empty()
    }

    /// Checks that all paths agree on whether the value is an array.
    fn check(&self, path: &[u8]) -> Result<(), ForeignError> {
        let is_document = !self.fields.is_empty() || !self.nested_fields.is_empty();
        match self.is_array() && is_document {
            true => Err(ambiguous(path)),
            false => Ok(()),
        }
    }

    fn write(&self, out: &mut DocumentBuilder<'_>) {
        if self.is_array() {
            self.write_array(out);
        } else {
            self.write_document(out);
        }
    }

    fn write_document(&self, out: &mut DocumentBuilder<'_>) {
        let is_removed = |leaf: &Leaf<'_>| matches!(leaf, Leaf::Removed);
        if self.fields.iter().any(|(_, leaf)| is_removed(leaf)) {
            let mut removed = out.open(b"d", kind::DOCUMENT);
            for (name, _) in self.fields.iter().filter(|(_, leaf)| is_removed(leaf)) {
                removed.element(Element {
                    name,
                    kind: kind::BOOLEAN,
                    value: &[0],
                });
            }
            removed.finish();
        }
        if self.fields.iter().any(|(_, leaf)| !is_removed(leaf)) {
            let mut updated = out.open(b"u", kind::DOCUMENT);
            for (name, leaf) in &self.fields {
                if let Leaf::Updated(value) = leaf {
                    updated.element(Element { name, ..*value });
                }
            }
            updated.finish();
        }
        for (name, node) in &self.nested_fields {
            let name = [b"s", *name].concat();
            let mut nested = out.open(&name, kind::DOCUMENT);
            node.write(&mut nested);
            nested.finish();
        }
    }

    fn write_array(&self, out: &mut DocumentBuilder<'_>) {
        out.boolean("a", true);
        if let Some(length) = self.length {
            out.int32("l", length);
        }
        let mut indexes: Vec<u32> = self.items.keys().copied().collect();
        indexes.extend(self.nested_items.keys());
        indexes.sort_unstable();
        for index in indexes {
            if let Some(node) = self.nested_items.get(&index) {
                let mut nested = out.open(format!("s{index}").as_bytes(), kind::DOCUMENT);
                node.write(&mut nested);
                nested.finish();
                continue;
            }
            let value = match self.items.get(&index) {
                Some(Leaf::Updated(value)) => *value,
                // An element of an array is removed by setting it to null.
                Some(Leaf::Removed) | None => Element {
                    name: b"",
                    kind: kind::NULL,
                    value: &[],
                },
            };
            out.element(Element {
                name: format!("u{index}").as_bytes(),
                ..value
            });
        }
    }
}
