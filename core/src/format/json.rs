//! The change event: an event in the shape of MongoDB's change streams, exact enough to replay.
//!
//! MongoDB's own fields and documents are Extended JSON v2 in the topic's mode. The fields `_id`,
//! `txnIndex`, `txnCount` and `formatVersion` are plain values in both modes. `updateDescription`
//! is only for readers, because it does not preserve the order of fields. `rawUpdateDescription` is
//! the entry's own `o`, so that no part of an update is lost. `rawEntry` contains the entry's BSON
//! as base64 in these cases: the canonical text would not parse back to the same bytes; an object
//! has the same field name twice (most JSON readers keep one of the two); the entry is a command or
//! a noop; the entry writes a bucket of a time series (`isTimeseries`) or has `b`, as an upsert
//! does. A replay prefers `rawEntry`.
//!
//! An update whose document was looked up on the source ([`super::looked_up`]) also has
//! `fullDocument` and `fullDocumentLookup`. Both are for readers; a replay ignores them.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::command::is_command;
use crate::document::{Document, DocumentBuilder, Element, Malformed, kind};
use crate::entry::{Entry, EntryError, Operation, Update};
use crate::format::description::{write_diff, write_modifiers};
use crate::format::looked_up::{CurrentDocument, DocumentBefore};
use crate::format::{Decoded, FORMAT_VERSION, FormatError, LARGE_TEXT};
use crate::json::{self, Exactness, Mode};
use crate::namespace::Namespace;
use crate::position::{EntryId, Timestamp};

/// Appends the change event of an entry.
///
/// # Errors
/// [`EntryError`] if the entry is damaged. `out` then holds a part of the event.
pub fn write_change_event(
    entry: &Entry<'_>,
    source: &str,
    ord: u32,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<(), EntryError> {
    let mut event = EventWriter::new(entry, mode, out);
    event.write(entry, source, ord, operation_type(entry)?)?;
    if !event.exact {
        event.name("rawEntry");
        event.out.push(b'"');
        append_base64(entry.raw.as_bytes(), event.out);
        event.out.push(b'"');
    }
    event.end();
    Ok(())
}

/// Appends the change event of an entry without `rawEntry`, for readers that do not replay it. A
/// document of a full sync is an `insert`, because readers know only the operations of MongoDB's
/// change streams.
///
/// # Errors
/// [`EntryError`] if the entry is damaged. `out` then holds a part of the event.
pub fn write_reader_event(
    entry: &Entry<'_>,
    source: &str,
    ord: u32,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<(), EntryError> {
    let mut event = EventWriter::new(entry, mode, out);
    event.write(entry, source, ord, operation_for_readers(entry)?)?;
    event.end();
    Ok(())
}

pub(super) fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = bytes.len().div_ceil(3) * 4;
    out.resize(start + length, 0);
    let written = out
        .get_mut(start..)
        .and_then(|text| STANDARD.encode_slice(bytes, text).ok())
        .unwrap_or_default();
    out.truncate(start + written);
}

struct EventWriter<'o> {
    mode: Mode,
    out: &'o mut Vec<u8>,
    exact: bool,
}

impl<'o> EventWriter<'o> {
    fn new(entry: &Entry<'_>, mode: Mode, out: &'o mut Vec<u8>) -> Self {
        Self {
            mode,
            out,
            exact: restores_from_text(entry),
        }
    }

    /// Writes all fields before `rawEntry`.
    fn write(
        &mut self,
        entry: &Entry<'_>,
        source: &str,
        ord: u32,
        operation: &[u8],
    ) -> Result<(), EntryError> {
        self.identity(entry, source, ord, operation)?;
        self.payload(entry)?;
        self.transaction(entry)?;
        if let Some(captured) = entry.snapshot {
            self.text(",\"snapshot\":{\"capturedAt\":");
            self.value(kind::DATE, &captured.to_le_bytes())?;
            self.out.push(b'}');
        }
        Ok(())
    }

    fn end(&mut self) {
        self.name("formatVersion");
        self.number(FORMAT_VERSION);
        self.out.push(b'}');
    }

    fn identity(
        &mut self,
        entry: &Entry<'_>,
        source: &str,
        ord: u32,
        operation: &[u8],
    ) -> Result<(), EntryError> {
        let id = EntryId { ts: entry.ts, ord };
        self.text("{\"_id\":{\"source\":");
        json::write_string(source.as_bytes(), self.out);
        self.text(",\"ts\":\"");
        id.write_ts(self.out);
        self.text("\",\"ord\":");
        self.number(ord);
        self.text("},\"operationType\":");
        json::write_string(operation, self.out);
        self.name("clusterTime");
        self.value(kind::TIMESTAMP, &entry.ts.to_le_bytes())?;
        if let Some(wall) = entry.wall {
            self.name("wallTime");
            self.value(kind::DATE, &wall.to_le_bytes())?;
        }
        self.namespace(entry)?;
        if let Some(ui) = entry.ui {
            self.name("collectionUUID");
            self.value(kind::BINARY, &ui.binary())?;
        }
        Ok(())
    }

    fn namespace(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        let EventNamespace { ns, to } = EventNamespace::of(entry)?;
        self.name("ns");
        self.namespace_value(ns);
        if let Some(to) = to {
            self.name("to");
            self.namespace_value(to);
        }
        Ok(())
    }

    fn namespace_value(&mut self, Namespace { db, collection }: Namespace<'_>) {
        self.text("{\"db\":");
        json::write_string(db.as_bytes(), self.out);
        if !collection.is_empty() {
            self.text(",\"coll\":");
            json::write_string(collection.as_bytes(), self.out);
        }
        self.out.push(b'}');
    }

    fn payload(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        match entry.operation {
            Operation::Insert => {
                self.document_key(entry)?;
                self.document("fullDocument", entry.o)
            }
            Operation::Delete => {
                self.document_key(entry)?;
                self.document_before(entry)
            }
            Operation::Update => {
                self.document_key(entry)?;
                self.document_before(entry)?;
                match entry.update()? {
                    Update::Replacement(document) => self.document("fullDocument", document),
                    Update::Modifiers(modifiers) => {
                        self.looked_up(entry)?;
                        self.modifiers(modifiers)?;
                        self.document("rawUpdateDescription", modifiers)
                    }
                    Update::Diff(diff) => {
                        self.looked_up(entry)?;
                        self.diff(diff)?;
                        self.document("rawUpdateDescription", entry.o)
                    }
                }
            }
            Operation::Command => self.document("operationDescription", entry.o),
            Operation::Noop => Ok(()),
        }
    }

    /// Writes the document of an update as the source has it now, if it was looked up. A replay
    /// does not read it, so a loss in its text does not require `rawEntry`.
    fn looked_up(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        let Some(CurrentDocument { document, at }) = entry.looked_up.and_then(|all| all.current)
        else {
            return Ok(());
        };
        self.name("fullDocument");
        match document {
            Some(document) => drop(json::write_document(document, self.mode, self.out)?),
            None => self.text("null"),
        }
        if let Some(at) = at {
            self.text(",\"fullDocumentLookup\":{\"operationTime\":");
            self.value(kind::TIMESTAMP, &at.to_le_bytes())?;
            self.out.push(b'}');
        }
        Ok(())
    }

    /// Writes the document before the change, if it was looked up. A replay does not read it either.
    fn document_before(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        let before = entry
            .looked_up
            .map_or(DocumentBefore::NotLookedUp, |all| all.before);
        let document = match before {
            DocumentBefore::NotLookedUp => return Ok(()),
            DocumentBefore::Missing => None,
            DocumentBefore::Document(document) => Some(document),
        };
        self.name("fullDocumentBeforeChange");
        match document {
            Some(document) => drop(json::write_document(document, self.mode, self.out)?),
            None => self.text("null"),
        }
        Ok(())
    }

    fn document_key(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        self.name("documentKey");
        let exactness = write_document_key(entry, self.mode, self.out)?;
        self.note(exactness);
        Ok(())
    }

    fn modifiers(&mut self, modifiers: Document<'_>) -> Result<(), EntryError> {
        self.name("updateDescription");
        write_modifiers(modifiers, self.mode, self.out)?;
        Ok(())
    }

    /// Writes the `updateDescription` of a diff. A damaged diff has none: a reader that applies the
    /// event finds the fault in `rawUpdateDescription`.
    fn diff(&mut self, diff: Document<'_>) -> Result<(), EntryError> {
        let start = self.out.len();
        self.name("updateDescription");
        match write_diff(diff, self.mode, self.out)? {
            Some(exactness) => self.note(exactness),
            None => self.out.truncate(start),
        }
        Ok(())
    }

    fn transaction(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        if let Some(lsid) = entry.lsid {
            self.document("lsid", lsid)?;
        }
        if let Some(number) = entry.txn_number {
            self.name("txnNumber");
            self.value(kind::INT64, &number.to_le_bytes())?;
        }
        if let Some(place) = entry.txn {
            self.name("txnIndex");
            self.number(place.index);
            self.name("txnCount");
            self.number(place.count);
        }
        Ok(())
    }

    fn document(&mut self, name: &str, document: Document<'_>) -> Result<(), EntryError> {
        self.name(name);
        let exactness = json::write_document(document, self.mode, self.out)?;
        self.note(exactness);
        Ok(())
    }

    fn value(&mut self, kind: u8, value: &[u8]) -> Result<(), Malformed> {
        json::write_value(
            Element {
                name: b"",
                kind,
                value,
            },
            self.mode,
            self.out,
        )
        .map(drop)
    }

    fn note(&mut self, exactness: Exactness) {
        self.exact &= exactness == Exactness::Exact;
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.text(name);
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u32) {
        self.out
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// The namespaces in the change event of an entry.
pub(super) struct EventNamespace<'e> {
    pub(super) ns: Namespace<'e>,
    /// The new name in a rename.
    pub(super) to: Option<Namespace<'e>>,
}

impl<'e> EventNamespace<'e> {
    pub(super) fn of(entry: &Entry<'e>) -> Result<Self, EntryError> {
        let Namespace { db, mut collection } = entry.namespace();
        let mut to = None;
        if entry.operation == Operation::Command {
            let command = entry.command()?;
            collection = command.str().unwrap_or_default();
            if command.name == b"renameCollection" {
                collection = collection.split_once('.').unwrap_or_default().1;
                let new_name = entry.o.get("to")?.and_then(|to| to.str().ok());
                to = new_name.filter(|to| to.contains('.')).map(Namespace::split);
            }
        }
        let ns = Namespace { db, collection };
        Ok(Self { ns, to })
    }
}

/// Returns true if the entry can be restored from the fields of its event, provided that their
/// texts are exact. Otherwise the event needs `rawEntry` in any case.
pub(super) fn restores_from_text(entry: &Entry<'_>) -> bool {
    !(is_command(entry)
        || entry.operation == Operation::Noop
        || entry.is_upsert
        || entry.is_timeseries)
}

/// Appends the `documentKey`. It is the `o2` of an insert or update that has one, because `o2`
/// includes the shard key; otherwise only the `_id`, because the `o` of a delete may be the whole
/// old document.
pub(super) fn write_document_key(
    entry: &Entry<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<Exactness, EntryError> {
    let id = entry.document_id()?;
    if let Some(o2) = entry.o2.filter(|_| entry.operation != Operation::Delete) {
        return Ok(json::write_document(o2, mode, out)?);
    }
    out.extend_from_slice(b"{\"_id\":");
    let exactness = json::write_value(id, mode, out)?;
    out.push(b'}');
    Ok(exactness)
}

/// Returns the `operationType` for readers. They know only the operations of MongoDB's change
/// streams, so a document of a full sync is an insert.
pub(super) fn operation_for_readers<'e>(entry: &Entry<'e>) -> Result<&'e [u8], EntryError> {
    Ok(match operation_type(entry)? {
        b"read" => b"insert",
        operation => operation,
    })
}

/// Returns the `operationType` of an entry's change event: `insert`, `update`, `replace`, `delete`,
/// `read`, `noop`, or a command's name in MongoDB's change streams.
///
/// # Errors
/// [`EntryError`] if the entry is damaged.
pub fn operation_type<'e>(entry: &Entry<'e>) -> Result<&'e [u8], EntryError> {
    Ok(match entry.operation {
        Operation::Insert if entry.snapshot.is_some() => b"read",
        Operation::Insert => b"insert",
        Operation::Delete => b"delete",
        Operation::Noop => b"noop",
        Operation::Update => match entry.update()? {
            Update::Replacement(_) => b"replace",
            Update::Modifiers(_) | Update::Diff(_) => b"update",
        },
        Operation::Command => match entry.command()?.name {
            b"renameCollection" => b"rename",
            b"collMod" => b"modify",
            b"commitIndexBuild" => b"createIndexes",
            b"deleteIndex" | b"deleteIndexes" | b"dropIndex" => b"dropIndexes",
            name => name,
        },
    })
}

/// Decodes a change event and appends its entry to the arena.
pub(super) fn decode(value: Range<usize>, arena: &mut Vec<u8>) -> Result<Decoded, FormatError> {
    let mut scratch = Vec::new();
    json::parse_document(arena.get(value).unwrap_or_default(), &mut scratch)?;
    let event = Event::read(Document::new(&scratch)?)?;
    let start = arena.len();
    if scratch.len() > LARGE_TEXT {
        // A growing buffer doubles its capacity: it would take 200 MB for a record of 100 MB whose
        // entry needs 16 MB.
        arena.reserve_exact(scratch.len());
    }
    if let Some(raw) = event.raw_entry {
        STANDARD
            .decode_vec(raw, arena)
            .map_err(|_| FormatError::Event("rawEntry is not base64"))?;
    } else {
        event.write_entry(arena)?;
    }
    let range = start..arena.len();
    Document::new(arena.get(range.clone()).unwrap_or_default())?;
    let id = event.id;
    Ok(Decoded { id, range })
}

/// The fields of a change event from which an entry is built.
pub(super) struct Event<'e> {
    pub(super) id: EntryId,
    operation: &'e str,
    ns: (&'e str, &'e str),
    raw_entry: Option<&'e [u8]>,
    fields: Document<'e>,
}

impl<'e> Event<'e> {
    pub(super) fn read(fields: Document<'e>) -> Result<Self, FormatError> {
        let missing = FormatError::Event;
        let id = fields
            .get("_id")?
            .ok_or(missing("it has no _id"))?
            .document()?;
        let ts = id.get("ts")?.ok_or(missing("its _id has no ts"))?.str()?;
        let ts: Timestamp = ts
            .parse()
            .map_err(|_| missing("its _id.ts is not a timestamp"))?;
        let ord = id
            .get("ord")?
            .ok_or(missing("its _id has no ord"))?
            .integer()?;
        let ord = u32::try_from(ord).map_err(|_| missing("its _id.ord is out of range"))?;
        let operation = fields
            .get("operationType")?
            .ok_or(missing("it has no operationType"))?;
        let ns = fields
            .get("ns")?
            .ok_or(missing("it has no ns"))?
            .document()?;
        let part = |name| -> Result<&'e str, FormatError> {
            Ok(ns
                .get(name)?
                .map(Element::str)
                .transpose()?
                .unwrap_or_default())
        };
        Ok(Self {
            id: EntryId { ts, ord },
            operation: operation.str()?,
            ns: (part("db")?, part("coll")?),
            raw_entry: fields
                .get("rawEntry")?
                .map(Element::string_bytes)
                .transpose()?,
            fields,
        })
    }

    /// Appends the entry that the fields describe. The caller must prefer `rawEntry` if the event
    /// has it.
    pub(super) fn write_entry(&self, arena: &mut Vec<u8>) -> Result<(), FormatError> {
        let (op, o) = match self.operation {
            // Topics for readers have documents of a full sync as inserts.
            "insert" if self.fields.get("snapshot")?.is_some() => ("r", "fullDocument"),
            "insert" => ("i", "fullDocument"),
            "read" => ("r", "fullDocument"),
            "replace" => ("u", "fullDocument"),
            "update" => ("u", "rawUpdateDescription"),
            "delete" => ("d", "documentKey"),
            _ => return Err(FormatError::Event("its operationType needs a rawEntry")),
        };
        let o = self
            .fields
            .get(o)?
            .ok_or(FormatError::Event("it has no document"))?;
        let mut entry = DocumentBuilder::start(arena);
        entry.raw("ts", kind::TIMESTAMP, &self.id.ts.to_le_bytes());
        entry
            .int32("v", 2)
            .str("op", op)
            .str("ns", &format!("{}.{}", self.ns.0, self.ns.1));
        let mut copy = |name, field| -> Result<(), FormatError> {
            if let Some(element) = self.fields.get(field)? {
                entry.raw(name, element.kind, element.value);
            }
            Ok(())
        };
        copy("ui", "collectionUUID")?;
        copy("wall", "wallTime")?;
        copy("lsid", "lsid")?;
        copy("txnNumber", "txnNumber")?;
        copy("snapshot", "snapshot")?;
        entry.raw("o", o.kind, o.value);
        if !matches!(op, "d" | "r")
            && let Some(key) = self.fields.get("documentKey")?
        {
            entry.raw("o2", key.kind, key.value);
        }
        if let (Some(index), Some(count)) =
            (self.fields.get("txnIndex")?, self.fields.get("txnCount")?)
        {
            entry.nested("txn", kind::DOCUMENT, |txn| {
                txn.raw("index", index.kind, index.value)
                    .raw("count", count.kind, count.value);
            });
        }
        entry.finish();
        Ok(())
    }
}
