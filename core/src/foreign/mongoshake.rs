//! MongoShake's entries in BSON and JSON.
//!
//! MongoShake sends an entry as it read it. It splits transactions and `applyOps` into operations,
//! and sends each operation as a struct of its own. The struct has all fields, with null for those
//! that the operation does not have, and the version 0. In BSON it is in the field `parsedlog`.

use std::ops::Range;

use crate::document::{Document, DocumentBuilder, Element, Malformed, kind};
use crate::foreign::entry::{Output, embedded};
use crate::foreign::{ForeignError, Writer, go_json};
use crate::json;
use crate::position::Timestamp;

/// The field in which MongoShake sends an operation of a transaction as BSON.
const WRAPPER: &str = "parsedlog";

/// Decodes an entry that is BSON.
pub(super) fn decode_bson(
    value: Range<usize>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let document = Document::new(output.arena.get(value.clone()).unwrap_or_default())?;
    if let Some(inner) = embedded(document, WRAPPER)? {
        let inner = inner.as_bytes().to_vec();
        return write(Document::new(&inner)?, Writer::MongoshakeBson, output);
    }
    let identity = Identity::of(document, Writer::MongoshakeBson)?;
    if is_plain(document)? {
        output.add(identity.ts, identity.is_command, value);
        return Ok(());
    }
    let copy = document.as_bytes().to_vec();
    write(Document::new(&copy)?, Writer::MongoshakeBson, output)
}

/// Decodes an entry that is JSON.
pub(super) fn decode_json(
    value: Range<usize>,
    accepts_lossy: bool,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let writer = Writer::MongoshakeJson;
    let mut parsed = Vec::new();
    json::parse_document(output.arena.get(value).unwrap_or_default(), &mut parsed)?;
    let document = Document::new(&parsed)?;
    let ts = document.get("ts")?;
    if ts.is_none_or(|ts| ts.kind == kind::TIMESTAMP) {
        return write(document, writer, output);
    }
    if !accepts_lossy {
        return Err(ForeignError::Lossy(
            "the record is in MongoShake's default JSON, which loses types: an ObjectId and a date are \
             written as strings, and all numbers alike. With tunnel.json.format = \
             canonical_extended_json, or with tunnel.message = bson, MongoShake keeps them",
        ));
    }
    let entry = go_json::entry(document)?;
    write(Document::new(&entry)?, writer, output)
}

/// The parts of an entry from which its identity is made. A document without them is not an entry.
struct Identity {
    ts: Timestamp,
    is_command: bool,
}

impl Identity {
    fn of(entry: Document<'_>, expected: Writer) -> Result<Self, ForeignError> {
        let get = |name, reason| -> Result<Element<'_>, ForeignError> {
            let found = entry.get(name)?;
            found.ok_or(ForeignError::NotOf { expected, reason })
        };
        let op = get("op", "it has no op")?.string_bytes()?;
        let ns = get("ns", "it has no ns")?.string_bytes()?;
        let ts = get("ts", "it has no ts")?.timestamp()?;
        let is_command = op == b"c" || ns.ends_with(b".system.views");
        Ok(Self { ts, is_command })
    }
}

/// Returns true if the entry has the form in which a server writes it.
fn is_plain(entry: Document<'_>) -> Result<bool, Malformed> {
    for element in entry.elements() {
        if cleaned(element?) != Cleaned::Same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What happens to a field of MongoShake's struct.
#[derive(Debug, PartialEq, Eq)]
enum Cleaned {
    Same,
    Removed,
    /// The version 0 of an operation of a transaction, which becomes 2.
    Version,
}

fn cleaned(element: Element<'_>) -> Cleaned {
    match (element.name, element.kind) {
        (b"v", kind::INT32 | kind::INT64) if element.integer() == Ok(0) => Cleaned::Version,
        // Of the fields that a server writes, only `o2` and `ui` can be null, which means the same
        // as their absence.
        (_, kind::NULL) | (b"uk", _) => Cleaned::Removed,
        (b"lsid" | b"o2", kind) if kind != kind::DOCUMENT => Cleaned::Removed,
        _ => Cleaned::Same,
    }
}

/// Appends an entry in the form in which a server writes it.
fn write(entry: Document<'_>, writer: Writer, output: &mut Output<'_>) -> Result<(), ForeignError> {
    let identity = Identity::of(entry, writer)?;
    let start = output.arena.len();
    let mut out = DocumentBuilder::start(output.arena);
    for element in entry.elements() {
        let element = element?;
        match cleaned(element) {
            Cleaned::Same => drop(out.element(element)),
            Cleaned::Removed => {}
            Cleaned::Version => drop(out.int32("v", 2)),
        }
    }
    out.finish();
    let range = start..output.arena.len();
    output.add(identity.ts, identity.is_command, range);
    Ok(())
}
