//! Decoding of change events.

use std::ops::Range;

use crate::collection_uuid::CollectionUuid;
use crate::document::{Document, DocumentBuilder, kind};
use crate::format::json::Event;
use crate::format::{Decoded, FormatError};
use crate::json;

use super::{WIRE_HEADER, WIRE_MAGIC};

/// Returns the id of the schema of a record in the wire format; `None` if the record is in another
/// format.
#[must_use]
pub fn schema_id(value: &[u8]) -> Option<u32> {
    let (magic, rest) = value.split_first()?;
    let id = rest.first_chunk::<4>()?;
    (*magic == WIRE_MAGIC).then(|| u32::from_be_bytes(*id))
}

/// Returns the `_id` in a key that was written with [`super::KEY_SCHEMA`], as Extended JSON; `None`
/// if the key is in another format.
#[must_use]
pub fn id_in_key(key: &[u8]) -> Option<&str> {
    schema_id(key)?;
    let mut reader = AvroReader {
        rest: key.get(WIRE_HEADER..)?,
    };
    reader.text().ok()
}

/// Decodes an event that was written with [`super::VALUE_SCHEMA`], and appends its entry to the
/// arena.
pub(in crate::format) fn decode(
    value: Range<usize>,
    arena: &mut Vec<u8>,
) -> Result<Decoded, FormatError> {
    let bytes = arena.get(value.clone()).unwrap_or_default();
    let body = bytes.get(WIRE_HEADER..).unwrap_or_default();
    let mut fields = Vec::new();
    let raw_entry = AvroReader { rest: body }.event(&mut fields)?;
    let event = Event::read(Document::new(&fields)?)?;
    let id = event.id;
    let start = arena.len();
    match raw_entry {
        Some(from_end) => {
            let end = value.end - from_end.after;
            arena.extend_from_within(end - from_end.length..end);
        }
        None => event.write_entry(arena)?,
    }
    let range = start..arena.len();
    Document::new(arena.get(range.clone()).unwrap_or_default())?;
    Ok(Decoded { id, range })
}

/// The place of `rawEntry` in a record.
struct RawEntry {
    length: usize,
    /// The number of bytes after it.
    after: usize,
}

struct AvroReader<'b> {
    rest: &'b [u8],
}

impl<'b> AvroReader<'b> {
    /// Reads all fields in the order of the schema. Appends them as a BSON document with the fields
    /// of the JSON event, in which the strings of Extended JSON are parsed. Returns the place of
    /// `rawEntry`.
    fn event(mut self, out: &mut Vec<u8>) -> Result<Option<RawEntry>, FormatError> {
        let mut event = DocumentBuilder::start(out);
        self.identity(&mut event)?;
        self.collection(&mut event)?;
        for name in [
            "documentKey",
            "fullDocument",
            "updateDescription",
            "rawUpdateDescription",
            "operationDescription",
            "lsid",
        ] {
            self.document(name, &mut event)?;
        }
        self.transaction(&mut event)?;
        if let Some(captured) = self.optional(Self::long)? {
            event.nested("snapshot", kind::DOCUMENT, |snapshot| {
                snapshot.date("capturedAt", captured);
            });
        }
        event.finish();
        let raw_entry = self.optional(Self::bytes)?;
        let after = self.rest.len();
        self.long()?;
        if !self.rest.is_empty() {
            return Err(FormatError::Avro("it is longer than its schema says"));
        }
        Ok(raw_entry.map(|raw| RawEntry {
            length: raw.len(),
            after,
        }))
    }

    fn identity(&mut self, event: &mut DocumentBuilder<'_>) -> Result<(), FormatError> {
        let (source, ts, ord) = (self.text()?, self.text()?, self.long()?);
        event.nested("_id", kind::DOCUMENT, |id| {
            id.str("source", source).str("ts", ts).int64("ord", ord);
        });
        event.str("operationType", self.text()?);
        // The seconds and the increment are in `_id` as well.
        self.long()?;
        self.long()?;
        if let Some(wall) = self.optional(Self::long)? {
            event.date("wallTime", wall);
        }
        Ok(())
    }

    fn collection(&mut self, event: &mut DocumentBuilder<'_>) -> Result<(), FormatError> {
        let (db, collection) = (self.text()?, self.optional(Self::text)?);
        event.nested("ns", kind::DOCUMENT, |ns| {
            ns.str("db", db).str("coll", collection.unwrap_or_default());
        });
        // The new name of a rename is also in `rawEntry`, which every command has.
        if self.is_present()? {
            self.text()?;
            self.optional(Self::text)?;
        }
        if let Some(uuid) = self.optional(Self::text)? {
            let uuid: CollectionUuid = uuid
                .parse()
                .map_err(|_| FormatError::Avro("its collectionUUID is not a UUID"))?;
            event.raw("collectionUUID", kind::BINARY, &uuid.binary());
        }
        Ok(())
    }

    fn transaction(&mut self, event: &mut DocumentBuilder<'_>) -> Result<(), FormatError> {
        if let Some(number) = self.optional(Self::long)? {
            event.int64("txnNumber", number);
        }
        for name in ["txnIndex", "txnCount"] {
            if let Some(number) = self.optional(Self::long)? {
                let number = i32::try_from(number);
                event.int32(
                    name,
                    number.map_err(|_| FormatError::Avro("a number is too large"))?,
                );
            }
        }
        Ok(())
    }

    /// Reads an optional text and appends the document that it holds.
    fn document(&mut self, name: &str, event: &mut DocumentBuilder<'_>) -> Result<(), FormatError> {
        // `updateDescription` is for readers; the update cannot be restored from it.
        let Some(text) = self
            .optional(Self::bytes)?
            .filter(|_| name != "updateDescription")
        else {
            return Ok(());
        };
        let mut document = Vec::new();
        json::parse_document(text, &mut document)?;
        event.document(name, Document::new(&document)?);
        Ok(())
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Option<T>, FormatError> {
        self.is_present()?.then(|| read(self)).transpose()
    }

    /// Reads the index of a type in a union of null and another type.
    fn is_present(&mut self) -> Result<bool, FormatError> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FormatError::Avro("a union has no such type")),
        }
    }

    fn text(&mut self) -> Result<&'b str, FormatError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| FormatError::Avro("a string is not UTF-8"))
    }

    fn bytes(&mut self) -> Result<&'b [u8], FormatError> {
        let length = usize::try_from(self.long()?);
        let length = length.map_err(|_| FormatError::Avro("a length is negative"))?;
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(FormatError::Avro("it ends within a field"))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn long(&mut self) -> Result<i64, FormatError> {
        let mut bits = 0_u64;
        for shift in (0..64_u32).step_by(7) {
            let (byte, rest) = self
                .rest
                .split_first()
                .ok_or(FormatError::Avro("it ends within a field"))?;
            self.rest = rest;
            // Only one bit is left for the tenth byte.
            if shift == 63 && *byte > 1 {
                break;
            }
            bits |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -((bits & 1).cast_signed()));
            }
        }
        Err(FormatError::Avro("a number has more than 64 bits"))
    }
}
