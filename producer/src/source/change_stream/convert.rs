//! Converts each event to the oplog entry of the same effect.
//!
//! | event | entry |
//! | --- | --- |
//! | `insert` | `i` with the document |
//! | `replace` | `u` with the document, and the whole document key in `o2` |
//! | `update` | `u` with `$set` and `$unset`, or with a diff if arrays are truncated or paths are given part by part |
//! | `delete` | `d` with the whole document key |
//! | `drop`, `rename`, `dropDatabase`, `create`, `createIndexes`, `dropIndexes`, `modify` | `c` with the command of the same effect |
//! | other commands | `c` with the name of the event, which the replay ignores or stops at |
//! | `invalidate` | `n`: the events before it say what happened |
//!
//! If the paths of an update have two meanings, neither is assumed. [`Conversion::Ambiguous`] makes
//! the reader look up the whole document, which is sent as a replacement.

use std::collections::BTreeSet;

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::foreign::{Description, ForeignError};
use oplog_relay_core::position::Timestamp;

use super::event::Event;
use crate::error::ProducerError;

/// The result of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// The entry was appended.
    Entry,
    /// The event is an update whose paths have two meanings; nothing was appended.
    Ambiguous,
}

/// Converts events to entries.
#[derive(Debug, Clone, Copy)]
pub struct Converter {
    /// True if entries name the collection's UUID. In a sharded cluster they do not, because
    /// resharding or moving a collection gives it another UUID, and no event names both.
    pub has_uuids: bool,
}

impl Converter {
    /// Appends the entry of an event.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the event is damaged, or if a field is missing.
    pub fn convert(
        self,
        event: &Event<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Conversion, ProducerError> {
        let start = out.len();
        let converted = match event.operation {
            "insert" | "replace" | "update" | "delete" => self.change(event, out),
            "invalidate" => self.noop(event, out).map(|()| Conversion::Entry),
            _ => self.command(event, out).map(|()| Conversion::Entry),
        };
        if !matches!(converted, Ok(Conversion::Entry)) {
            out.truncate(start);
        }
        converted
    }

    /// Appends an entry without an effect. It stands for an event that repeats another one, so that
    /// the ordinals of the events after it remain the same.
    ///
    /// # Errors
    /// None; the result has the type of the other conversions.
    pub fn noop(self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), ProducerError> {
        let written = self.write(event, "n", &event.ns(), out, |entry| {
            entry.nested("o", kind::DOCUMENT, |o| {
                o.str("msg", event.operation);
            });
            Ok(())
        });
        written.map_err(|error| event.refused(&error.to_string()))
    }

    /// Appends a replacement by a document that was looked up at `at`. The field `lookedUp` says that
    /// the document may be newer than the event.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the event has no document key.
    pub fn looked_up(
        self,
        event: &Event<'_>,
        document: Document<'_>,
        at: Option<Timestamp>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProducerError> {
        let key = key_of(event)?;
        let written = self.write(event, "u", &event.ns(), out, |entry| {
            entry.document("o", document).document("o2", key);
            entry.nested("lookedUp", kind::DOCUMENT, |looked_up| {
                if let Some(at) = at {
                    looked_up.raw("at", kind::TIMESTAMP, &at.to_le_bytes());
                }
            });
            Ok(())
        });
        written.map_err(|error| event.refused(&error.to_string()))
    }

    fn change(self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<Conversion, ProducerError> {
        let key = key_of(event)?;
        let whole = || {
            let whole = event.whole;
            whole.ok_or_else(|| event.refused("it has no fullDocument"))
        };
        let update;
        let (op, o) = match event.operation {
            "insert" => ("i", whole()?),
            "replace" => ("u", whole()?),
            // A shard's delete means the document with this shard key. The entry keeps the whole
            // document key, because another shard may have a document with the same `_id`.
            "delete" => ("d", key),
            _ => match update_of(event)? {
                Some(described) => {
                    update = described;
                    (
                        "u",
                        Document::new(&update).map_err(ProducerError::undecodable)?,
                    )
                }
                None => return Ok(Conversion::Ambiguous),
            },
        };
        let written = self.write(event, op, &event.ns(), out, |entry| {
            entry.document("o", o);
            if op == "u" {
                entry.document("o2", key);
            }
            Ok(())
        });
        let written = written.map(|()| Conversion::Entry);
        written.map_err(|error| event.refused(&error.to_string()))
    }

    fn command(self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), ProducerError> {
        if event.db.is_empty() {
            return Err(event.refused("it has no namespace"));
        }
        // A name in BSON ends at the first NUL.
        if event.operation.contains('\0') {
            return Err(event.refused("its operationType has a NUL character"));
        }
        let ns = format!("{}.$cmd", event.db);
        let written = self.write(event, "c", &ns, out, |entry| {
            let mut o = entry.open(b"o", kind::DOCUMENT);
            write_command(event, &mut o)?;
            o.finish();
            Ok(())
        });
        written.map_err(|error| event.refused(&error.to_string()))
    }

    fn write(
        self,
        event: &Event<'_>,
        op: &str,
        ns: &str,
        out: &mut Vec<u8>,
        fields: impl FnOnce(&mut DocumentBuilder<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut entry = DocumentBuilder::start(out);
        entry
            .raw("ts", kind::TIMESTAMP, &event.time.to_le_bytes())
            .int32("v", 2)
            .str("op", op)
            .str("ns", ns);
        if let Some(ui) = event.ui.filter(|_| self.has_uuids) {
            entry.raw("ui", ui.kind, ui.value);
        }
        fields(&mut entry)?;
        if let Some(wall) = event.wall {
            entry.date("wall", wall);
        }
        if let Some(lsid) = event.lsid {
            entry.document("lsid", lsid);
        }
        if let Some(number) = event.txn_number {
            entry.int64("txnNumber", number);
        }
        entry.finish();
        Ok(())
    }
}

fn key_of<'e>(event: &Event<'e>) -> Result<Document<'e>, ProducerError> {
    if event.db.is_empty() || event.collection.is_empty() {
        return Err(event.refused("it has no namespace"));
    }
    let key = event.key;
    key.ok_or_else(|| event.refused("it has no documentKey"))
}

/// Returns the `o` of an update; `None` if its paths have two meanings.
fn update_of(event: &Event<'_>) -> Result<Option<Vec<u8>>, ProducerError> {
    let Some(description) = event.update else {
        return Err(event.refused("it has no updateDescription"));
    };
    let described = |error: Malformed| event.refused(&error.to_string());
    let list = |name| -> Result<Option<Document<'_>>, Malformed> {
        let found = description.get(name)?;
        let found = found.filter(|found| found.kind != kind::NULL);
        found.map(Element::document).transpose()
    };
    let description = Description {
        updated: list("updatedFields").map_err(described)?,
        removed: list("removedFields").map_err(described)?,
        truncated: list("truncatedArrays").map_err(described)?,
        length: "newSize",
        disambiguated: list("disambiguatedPaths").map_err(described)?,
    };
    if description.disambiguated.is_none_or(Document::is_empty)
        && has_conflict(&description).map_err(described)?
    {
        return Ok(None);
    }
    match description.update() {
        Ok(update) => Ok(Some(update)),
        Err(ForeignError::Ambiguous(_)) => Ok(None),
        Err(error) => Err(event.refused(&error.to_string())),
    }
}

/// Returns true if a path is listed twice, or lies below another listed path. No single update does
/// that, so one of the names contains a dot: with a field `a.b` beside a field `a`, both have the
/// path `a.b`.
fn has_conflict(description: &Description<'_>) -> Result<bool, Malformed> {
    let mut paths = BTreeSet::new();
    let mut is_repeated = false;
    for field in description.updated.iter().flat_map(|list| list.elements()) {
        is_repeated |= !paths.insert(field?.name);
    }
    for path in description.removed.iter().flat_map(|list| list.elements()) {
        is_repeated |= !paths.insert(path?.string_bytes()?);
    }
    let is_below_another = |path: &&[u8]| {
        let dots = path.iter().enumerate().filter(|(_, byte)| **byte == b'.');
        let mut parents = dots.map(|(end, _)| path.get(..end).unwrap_or_default());
        parents.any(|parent| paths.contains(parent))
    };
    Ok(is_repeated || (paths.len() > 1 && paths.iter().any(is_below_another)))
}

/// Writes the fields of a command.
fn write_command(event: &Event<'_>, o: &mut DocumentBuilder<'_>) -> Result<(), Malformed> {
    let description = event.description.unwrap_or(Document::EMPTY);
    match event.operation {
        "rename" => {
            let to = event.to.ok_or(Malformed::Missing("to"))?;
            o.str("renameCollection", &event.ns())
                .str("to", &format!("{}.{}", to.db, to.collection));
            match description.get("dropTarget")? {
                // It is the UUID of the collection that the rename has dropped.
                Some(dropped) => drop(o.element(dropped)),
                // Without expanded events it is unknown whether the rename has dropped a
                // collection. The rename has succeeded, so no other collection of that name
                // remains.
                None if event.description.is_none() => drop(o.boolean("dropTarget", true)),
                None => {}
            }
        }
        "drop" => drop(o.str("drop", event.collection)),
        "dropDatabase" => drop(o.int32("dropDatabase", 1)),
        // The event lists its indexes as `commitIndexBuild` does.
        "createIndexes" => write_options("commitIndexBuild", event.collection, description, o)?,
        "dropIndexes" => {
            o.str("dropIndexes", event.collection);
            let indexes = description.get("indexes")?;
            let indexes = indexes.ok_or(Malformed::Missing("indexes"))?.document()?;
            let mut names = Vec::new();
            for index in indexes.elements() {
                names.push(index?.document()?);
            }
            match names.as_slice() {
                [one] => drop(o.raw("index", kind::STRING, name_of(*one)?.value)),
                several => {
                    let mut list = o.open(b"index", kind::ARRAY);
                    for (place, index) in several.iter().enumerate() {
                        list.raw(&place.to_string(), kind::STRING, name_of(*index)?.value);
                    }
                    list.finish();
                }
            }
        }
        "modify" => write_options("collMod", event.collection, description, o)?,
        other => write_options(other, event.collection, description, o)?,
    }
    Ok(())
}

fn name_of(index: Document<'_>) -> Result<Element<'_>, Malformed> {
    index.get("name")?.ok_or(Malformed::Missing("name"))
}

/// Writes a command whose options are the fields of the event's `operationDescription`.
fn write_options(
    name: &str,
    collection: &str,
    options: Document<'_>,
    o: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    o.str(name, collection);
    for option in options.elements() {
        o.element(option?);
    }
    Ok(())
}
