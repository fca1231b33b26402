//! Documents split into fields, to be changed.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};

use super::failure::Failure;
use super::path::Part;

/// A field or an array's element, with its value as bytes.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: Vec<u8>,
    pub(super) kind: u8,
    pub(super) value: Vec<u8>,
}

impl Field {
    /// Returns an array's element whose value is null.
    pub(super) fn null(index: usize) -> Field {
        Field {
            name: index.to_string().into_bytes(),
            kind: kind::NULL,
            value: Vec::new(),
        }
    }

    /// Returns the document or array that it contains.
    pub(super) fn document(&self) -> Option<Document<'_>> {
        self.element().document().ok()
    }

    /// Returns the field as an element of a document.
    pub(super) fn element(&self) -> Element<'_> {
        Element {
            name: &self.name,
            kind: self.kind,
            value: &self.value,
        }
    }
}

/// Parses a part of a path as an array index.
pub(super) fn index(part: Part<'_>) -> Option<usize> {
    let digits = part.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(part)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// Splits a document into its fields.
pub(super) fn split(document: Document<'_>) -> Result<Vec<Field>, Malformed> {
    let fields = document.elements().map(|element| {
        let element = element?;
        Ok(Field {
            name: element.name.to_vec(),
            kind: element.kind,
            value: element.value.to_vec(),
        })
    });
    fields.collect()
}

/// Joins fields into a document.
pub(super) fn join(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    for field in fields {
        builder.element(field.element());
    }
    builder.finish();
    out
}

/// Returns the document as a server stores it: `_id` first, and unless `keep_empty_ts` the time in
/// place of a top-level `Timestamp(0,0)`, except in `_id`.
pub(super) fn stored(
    document: Document<'_>,
    id: Element<'_>,
    keep_empty_ts: bool,
    now: [u8; 8],
) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    builder.element(Element { name: b"_id", ..id });
    let mut seen = false;
    for element in document.elements() {
        let element = element?;
        let is_id = element.name == b"_id" && !std::mem::replace(&mut seen, true);
        let is_empty_ts = element.kind == kind::TIMESTAMP && element.value == [0; 8];
        if is_id {
            continue;
        }
        let value = if is_empty_ts && !keep_empty_ts {
            &now[..]
        } else {
            element.value
        };
        builder.element(Element { value, ..element });
    }
    builder.finish();
    Ok(out)
}
