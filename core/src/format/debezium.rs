//! Debezium's envelope, as its MongoDB connector 3.x writes it: `before`, `after`,
//! `updateDescription`, `source`, `op`, `ts_ms` and `transaction`, with documents as strings of
//! Extended JSON.
//!
//! The envelope has no place for commands and barriers, and an update whose document was not looked
//! up ([`super::looked_up`]) has no `after`. Therefore a topic in this envelope is for readers
//! only. Its records differ from Debezium's own in these points:
//!
//! - The strings are Extended JSON v2 in the topic's [`Mode`], where Debezium writes v1.
//!   Debezium's transforms read both.
//! - `source.sequence` is the identity of the entry, `["<seconds>:<increment>","<ord>"]`: with it a
//!   reader recognizes an entry that it has processed before. Debezium writes null.
//! - Equal numbers have one form in a key, as in all keys ([`crate::key`]): `1.0` and `1` are the
//!   same `_id` in MongoDB, and all its records must be in one partition. A decimal that equals no
//!   double is a `$numberDecimal`, so that it stays exact: a delete has its `_id` only in the key.

use crate::diff::Diff;
use crate::document::{Document, Element, Malformed};
use crate::entry::{Entry, EntryError, Operation, Update};
use crate::format::description::{Lists, Truncated};
use crate::format::origin::Origin;
use crate::json::number::{Number, write_double};
use crate::json::{self, Mode, write_string};
use crate::key::id_of_key;
use crate::namespace::Namespace;
use crate::position::EntryId;

/// The form of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debezium {
    /// The Extended JSON of the documents.
    pub mode: Mode,
    /// True if each key and value has its schema beside it, as with `schemas.enable=true` of Kafka
    /// Connect's `JsonConverter`.
    pub with_schema: bool,
}

/// Appends the envelope of an insert, update or delete. The caller must exclude other entries.
///
/// # Errors
/// [`EntryError`] if the entry is damaged, or is an update that the envelope cannot describe. `out`
/// then holds a part of the text.
pub fn write_debezium(
    entry: &Entry<'_>,
    id: EntryId,
    form: Debezium,
    origin: &Origin<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EntryError> {
    let mut writer = Writer {
        form,
        text: Vec::new(),
        out,
    };
    if form.with_schema {
        writer.put(VALUE_SCHEMA_1);
        write_string(format!("{}.Envelope", origin.topic).as_bytes(), writer.out);
        writer.put(VALUE_SCHEMA_2);
    }
    let is_update = entry.operation == Operation::Update;
    let update = is_update.then(|| entry.update()).transpose()?;
    let looked_up = entry.looked_up;
    let after = match (entry.operation, update) {
        (Operation::Insert, _) => Some(entry.o),
        (_, Some(Update::Replacement(document))) => Some(document),
        (_, Some(_)) => looked_up.and_then(|found| found.current?.document),
        _ => None,
    };
    writer.put("{\"before\":");
    writer.document(looked_up.and_then(|found| found.before.document()))?;
    writer.put(",\"after\":");
    writer.document(after)?;
    writer.put(",\"updateDescription\":");
    writer.update_description(entry, update)?;
    writer.put(",\"source\":");
    writer.source(entry, id, origin)?;
    writer.put(",\"op\":\"");
    writer.put(operation(entry));
    writer.put("\",");
    writer.times(origin.processed_at);
    writer.put(",\"transaction\":null}");
    if form.with_schema {
        writer.put("}");
    }
    Ok(())
}

/// Appends the key of a record: `{"id":"<_id as JSON>"}`. `key` is the document's own key, as
/// [`crate::key::write_key`] writes it for this `_id`.
///
/// # Errors
/// [`Malformed`] if the `_id` is damaged.
pub fn write_debezium_key(
    id: Element<'_>,
    key: &[u8],
    form: Debezium,
    topic: &str,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let own = id_of_key(key);
    let number = number(id, own)?;
    let id = number.as_deref().unwrap_or(own);
    if form.with_schema {
        out.extend_from_slice(KEY_SCHEMA.as_bytes());
        write_string(format!("{topic}.Key").as_bytes(), out);
        out.extend_from_slice(b"},\"payload\":");
    }
    out.extend_from_slice(b"{\"id\":");
    write_string(&spaced(id), out);
    out.push(b'}');
    if form.with_schema {
        out.push(b'}');
    }
    Ok(())
}

/// Returns the text of a number if Debezium's readers would misread the text in the document's own
/// key: they parse digits as a 64-bit integer, and a fraction as a double.
fn number(id: Element<'_>, own: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut text = Vec::new();
    match Number::of(id)? {
        Some(Number::Double(value)) if value.is_finite() => write_double(value, &mut text),
        Some(Number::Decimal(_)) if !own.starts_with(b"{") => {
            text.extend_from_slice(b"{\"$numberDecimal\":");
            write_string(own, &mut text);
            text.push(b'}');
        }
        _ => return Ok(None),
    }
    Ok(Some(text))
}

/// Inserts the space that MongoDB's Java driver writes after each colon of a document. Readers compare
/// keys by their bytes.
fn spaced(json: &[u8]) -> Vec<u8> {
    let mut spaced = Vec::with_capacity(json.len() + 8);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in json {
        spaced.push(*byte);
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => spaced.push(b' '),
            _ => {}
        }
    }
    spaced
}

const fn operation(entry: &Entry<'_>) -> &'static str {
    match entry.operation {
        Operation::Insert if entry.snapshot.is_some() => "r",
        Operation::Insert => "c",
        Operation::Update => "u",
        Operation::Delete | Operation::Command | Operation::Noop => "d",
    }
}

/// Returns the error for an update that the event cannot describe completely.
fn indescribable(entry: &Entry<'_>, part: &str) -> EntryError {
    EntryError::Indescribable {
        ts: entry.ts,
        ns: entry.ns.to_owned(),
        part: part.to_owned(),
    }
}

struct Writer<'o> {
    form: Debezium,
    /// The text of a document before it is written as a JSON string.
    text: Vec<u8>,
    out: &'o mut Vec<u8>,
}

impl Writer<'_> {
    fn update_description(
        &mut self,
        entry: &Entry<'_>,
        update: Option<Update<'_>>,
    ) -> Result<(), EntryError> {
        let lists = match update {
            None | Some(Update::Replacement(_)) => {
                self.put("null");
                return Ok(());
            }
            Some(Update::Modifiers(modifiers)) => self.modifiers(entry, modifiers)?,
            Some(Update::Diff(diff)) => match Diff::parse(diff) {
                Ok(diff) => Lists::of(&diff, self.form.mode, Truncated::Size)?,
                Err(_) => return Err(indescribable(entry, "its diff")),
            },
        };
        self.put("{\"removedFields\":");
        self.list(&lists.removed);
        self.put(",\"updatedFields\":");
        self.text.clear();
        self.text.push(b'{');
        self.text.extend_from_slice(&lists.updated);
        self.text.push(b'}');
        write_string(&self.text, self.out);
        self.put(",\"truncatedArrays\":");
        self.list(&lists.truncated);
        self.put("}");
        Ok(())
    }

    /// Returns the lists of the fields of `$set` and `$unset`. Other operators, which a user's own
    /// `applyOps` may have, are an error.
    fn modifiers(&self, entry: &Entry<'_>, modifiers: Document<'_>) -> Result<Lists, EntryError> {
        let mut lists = Lists::empty(self.form.mode, Truncated::Size);
        for operator in modifiers.elements() {
            let operator = operator?;
            for field in match operator.name {
                b"$set" | b"$unset" => operator.document()?.elements(),
                b"$v" => continue,
                other => return Err(indescribable(entry, &String::from_utf8_lossy(other))),
            } {
                let field = field?;
                match operator.name {
                    b"$set" => lists.set(field)?,
                    _ => lists.unset(field.name),
                }
            }
        }
        Ok(lists)
    }

    fn source(
        &mut self,
        entry: &Entry<'_>,
        id: EntryId,
        origin: &Origin<'_>,
    ) -> Result<(), EntryError> {
        let millis = entry
            .wall
            .unwrap_or_else(|| i64::from(entry.ts.seconds) * 1000);
        let Namespace { db, collection } = entry.namespace();
        self.put("{\"version\":\"");
        self.put(env!("CARGO_PKG_VERSION"));
        self.put("\",\"connector\":\"mongodb\",\"name\":");
        write_string(origin.source.as_bytes(), self.out);
        self.put(",\"snapshot\":");
        self.put(match entry.snapshot {
            Some(_) => "\"true\"",
            None => "\"false\"",
        });
        self.put(",\"db\":");
        write_string(db.as_bytes(), self.out);
        self.put(",\"sequence\":");
        let sequence = format!("[\"{}\",\"{}\"]", id.ts, id.ord);
        write_string(sequence.as_bytes(), self.out);
        self.put(",");
        self.times(millis);
        self.put(",\"collection\":");
        write_string(collection.as_bytes(), self.out);
        self.put(",\"ord\":");
        self.integer(entry.ts.increment);
        self.put(",\"lsid\":");
        self.document(entry.lsid)?;
        self.put(",\"txnNumber\":");
        self.optional(entry.txn_number);
        self.put(",\"wallTime\":");
        self.optional(entry.wall);
        self.put("}");
        Ok(())
    }

    /// Writes a time in the three units of Debezium.
    fn times(&mut self, millis: i64) {
        self.put("\"ts_ms\":");
        self.integer(millis);
        self.put(",\"ts_us\":");
        self.integer(millis.saturating_mul(1000));
        self.put(",\"ts_ns\":");
        self.integer(millis.saturating_mul(1_000_000));
    }

    /// Writes a document as a string, or null.
    fn document(&mut self, document: Option<Document<'_>>) -> Result<(), EntryError> {
        let Some(document) = document else {
            self.put("null");
            return Ok(());
        };
        self.text.clear();
        // The string is for readers, so a loss in it needs no exact copy beside it.
        json::write_document(document, self.form.mode, &mut self.text).map(drop)?;
        write_string(&self.text, self.out);
        Ok(())
    }

    fn list(&mut self, list: &[u8]) {
        if list.is_empty() {
            self.put("null");
            return;
        }
        self.put("[");
        self.out.extend_from_slice(list);
        self.put("]");
    }

    fn optional(&mut self, number: Option<i64>) {
        match number {
            Some(number) => self.integer(number),
            None => self.put("null"),
        }
    }

    fn integer(&mut self, number: impl itoa::Integer) {
        self.out
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

const KEY_SCHEMA: &str = "{\"schema\":{\"type\":\"struct\",\"fields\":[\
    {\"type\":\"string\",\"optional\":false,\"field\":\"id\"}],\"optional\":false,\"name\":";
/// The schema of a value up to its name, and from there to the payload.
const VALUE_SCHEMA_1: &str = concat!(
    "{\"schema\":{\"type\":\"struct\",\"fields\":[",
    "{\"type\":\"string\",\"optional\":true,\"name\":\"io.debezium.data.Json\",\"version\":1,\
     \"field\":\"before\"},",
    "{\"type\":\"string\",\"optional\":true,\"name\":\"io.debezium.data.Json\",\"version\":1,\
     \"field\":\"after\"},",
    "{\"type\":\"struct\",\"fields\":[\
     {\"type\":\"array\",\"items\":{\"type\":\"string\",\"optional\":false},\"optional\":true,\
     \"field\":\"removedFields\"},\
     {\"type\":\"string\",\"optional\":true,\"name\":\"io.debezium.data.Json\",\"version\":1,\
     \"field\":\"updatedFields\"},\
     {\"type\":\"array\",\"items\":{\"type\":\"struct\",\"fields\":[\
     {\"type\":\"string\",\"optional\":false,\"field\":\"field\"},\
     {\"type\":\"int32\",\"optional\":false,\"field\":\"size\"}],\"optional\":false,\
     \"name\":\"io.debezium.connector.mongodb.changestream.truncatedarray\",\"version\":1},\
     \"optional\":true,\"field\":\"truncatedArrays\"}],\"optional\":true,\
     \"name\":\"io.debezium.connector.mongodb.changestream.updatedescription\",\"version\":1,\
     \"field\":\"updateDescription\"},",
    "{\"type\":\"struct\",\"fields\":[\
     {\"type\":\"string\",\"optional\":false,\"field\":\"version\"},\
     {\"type\":\"string\",\"optional\":false,\"field\":\"connector\"},\
     {\"type\":\"string\",\"optional\":false,\"field\":\"name\"},\
     {\"type\":\"int64\",\"optional\":false,\"field\":\"ts_ms\"},\
     {\"type\":\"string\",\"optional\":true,\"name\":\"io.debezium.data.Enum\",\"version\":1,\
     \"parameters\":{\"allowed\":\"true,first,first_in_data_collection,last_in_data_collection,last,\
     false,incremental\"},\"default\":\"false\",\"field\":\"snapshot\"},\
     {\"type\":\"string\",\"optional\":false,\"field\":\"db\"},\
     {\"type\":\"string\",\"optional\":true,\"field\":\"sequence\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"ts_us\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"ts_ns\"},\
     {\"type\":\"string\",\"optional\":false,\"field\":\"collection\"},\
     {\"type\":\"int32\",\"optional\":false,\"field\":\"ord\"},\
     {\"type\":\"string\",\"optional\":true,\"field\":\"lsid\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"txnNumber\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"wallTime\"}],\"optional\":false,\
     \"name\":\"io.debezium.connector.mongo.Source\",\"field\":\"source\"},",
    "{\"type\":\"string\",\"optional\":true,\"field\":\"op\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"ts_ms\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"ts_us\"},\
     {\"type\":\"int64\",\"optional\":true,\"field\":\"ts_ns\"},",
    "{\"type\":\"struct\",\"fields\":[\
     {\"type\":\"string\",\"optional\":false,\"field\":\"id\"},\
     {\"type\":\"int64\",\"optional\":false,\"field\":\"total_order\"},\
     {\"type\":\"int64\",\"optional\":false,\"field\":\"data_collection_order\"}],\"optional\":true,\
     \"name\":\"event.block\",\"version\":1,\"field\":\"transaction\"}",
    "],\"optional\":false,\"name\":",
);
const VALUE_SCHEMA_2: &str = "},\"payload\":";
