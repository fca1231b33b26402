//! Encoding of change events and keys.

use crate::document::Document;
use crate::entry::{Entry, EntryError, Operation, Update};
use crate::format::FORMAT_VERSION;
use crate::format::description::{write_diff, write_modifiers};
use crate::format::json::{
    EventNamespace, operation_for_readers, operation_type, restores_from_text, write_document_key,
};
use crate::json::{self, Exactness, Mode};
use crate::key::id_of_key;
use crate::namespace::Namespace;
use crate::position::EntryId;

use super::{WIRE_HEADER, WIRE_MAGIC};

/// The number of bytes that Avro needs for the length of a text of 64 to 8191 bytes. Most texts
/// have a length in this range.
const USUAL_LENGTH_BYTES: usize = 2;
/// The index of the type after `null` in a union, in Avro's encoding.
const PRESENT: u8 = 2;
/// The index of `null`.
const ABSENT: u8 = 0;

/// Appends the change event of an entry; `schema` is the id of [`super::VALUE_SCHEMA`].
///
/// # Errors
/// [`EntryError`] if the entry is damaged. `out` then holds a part of the event.
pub fn write_avro_event(
    entry: &Entry<'_>,
    id: EntryId,
    source: &str,
    mode: Mode,
    schema: u32,
    out: &mut Vec<u8>,
) -> Result<(), EntryError> {
    let mut writer = AvroWriter::new(entry, mode, schema, out);
    writer.event(entry, id, source, operation_type(entry)?)?;
    let raw_entry = (!writer.is_exact).then(|| entry.raw.as_bytes());
    writer.end(raw_entry);
    Ok(())
}

/// Appends the change event of an entry for readers that do not replay it: without `rawEntry`, and
/// with a document of a full sync as an insert.
///
/// # Errors
/// [`EntryError`] if the entry is damaged. `out` then holds a part of the event.
pub fn write_avro_reader_event(
    entry: &Entry<'_>,
    id: EntryId,
    source: &str,
    mode: Mode,
    schema: u32,
    out: &mut Vec<u8>,
) -> Result<(), EntryError> {
    let mut writer = AvroWriter::new(entry, mode, schema, out);
    writer.event(entry, id, source, operation_for_readers(entry)?)?;
    writer.end(None);
    Ok(())
}

/// Appends the key of a record; `schema` is the id of [`super::KEY_SCHEMA`]. `key` is the
/// document's own key, as [`crate::key::write_key`] writes it.
pub fn write_avro_key(key: &[u8], schema: u32, out: &mut Vec<u8>) {
    let id = id_of_key(key);
    write_wire_header(schema, out);
    out.extend_from_slice(length(id.len()).as_bytes());
    out.extend_from_slice(id);
}

fn write_wire_header(schema: u32, out: &mut Vec<u8>) {
    let [a, b, c, d] = schema.to_be_bytes();
    let header: [u8; WIRE_HEADER] = [WIRE_MAGIC, a, b, c, d];
    out.extend_from_slice(&header);
}

/// A `long` in Avro's encoding, which is the same for an `int`: zigzag, seven bits per byte, the
/// lowest bits first.
struct Varint {
    bytes: [u8; 10],
    length: usize,
}

impl Varint {
    fn of(number: i64) -> Self {
        let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
        let mut varint = Self {
            bytes: [0; 10],
            length: 0,
        };
        for place in &mut varint.bytes {
            varint.length += 1;
            let [low, ..] = rest.to_le_bytes();
            rest >>= 7;
            if rest == 0 {
                *place = low;
                break;
            }
            *place = low | 0x80;
        }
        varint
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

fn length(bytes: usize) -> Varint {
    Varint::of(i64::try_from(bytes).unwrap_or(i64::MAX))
}

struct AvroWriter<'o> {
    mode: Mode,
    out: &'o mut Vec<u8>,
    /// True if the entry needs no `rawEntry`, because canonical texts would restore every byte.
    is_exact: bool,
}

impl<'o> AvroWriter<'o> {
    fn new(entry: &Entry<'_>, mode: Mode, schema: u32, out: &'o mut Vec<u8>) -> Self {
        write_wire_header(schema, out);
        Self {
            mode,
            out,
            is_exact: restores_from_text(entry),
        }
    }

    /// Writes all fields before `rawEntry`, in the order of the schema.
    fn event(
        &mut self,
        entry: &Entry<'_>,
        id: EntryId,
        source: &str,
        operation: &[u8],
    ) -> Result<(), EntryError> {
        self.bytes(source.as_bytes());
        let ok: Result<(), EntryError> = self.text(|_, out| {
            id.write_ts(out);
            Ok(())
        });
        ok?;
        self.long(i64::from(id.ord));
        self.bytes(operation);
        self.long(i64::from(entry.ts.seconds));
        self.long(i64::from(entry.ts.increment));
        self.optional_long(entry.wall);
        let EventNamespace { ns, to } = EventNamespace::of(entry)?;
        self.namespace(ns);
        match to {
            Some(to) => {
                self.present();
                self.namespace(to);
            }
            None => self.absent(),
        }
        match entry.ui {
            Some(ui) => {
                self.present();
                self.bytes(&ui.hyphenated());
            }
            None => self.absent(),
        }
        self.payload(entry)?;
        self.transaction(entry)?;
        self.optional_long(entry.snapshot);
        Ok(())
    }

    /// Writes the last fields.
    fn end(&mut self, raw_entry: Option<&[u8]>) {
        match raw_entry {
            Some(raw_entry) => {
                self.present();
                self.bytes(raw_entry);
            }
            None => self.absent(),
        }
        self.long(i64::from(FORMAT_VERSION));
    }

    fn namespace(&mut self, ns: Namespace<'_>) {
        self.bytes(ns.db.as_bytes());
        if ns.collection.is_empty() {
            self.absent();
        } else {
            self.present();
            self.bytes(ns.collection.as_bytes());
        }
    }

    /// Writes `documentKey`, `fullDocument`, `updateDescription`, `rawUpdateDescription` and
    /// `operationDescription`.
    fn payload(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        let (mut full, mut raw_update, mut command) = (None, None, None);
        let mut update = None;
        match entry.operation {
            Operation::Insert => full = Some(entry.o),
            Operation::Update => match entry.update()? {
                Update::Replacement(document) => full = Some(document),
                Update::Modifiers(modifiers) => {
                    update = Some(Update::Modifiers(modifiers));
                    raw_update = Some(modifiers);
                }
                Update::Diff(diff) => {
                    update = Some(Update::Diff(diff));
                    raw_update = Some(entry.o);
                }
            },
            Operation::Command => command = Some(entry.o),
            Operation::Delete | Operation::Noop => {}
        }
        match entry.operation {
            Operation::Command | Operation::Noop => self.absent(),
            Operation::Insert | Operation::Update | Operation::Delete => {
                self.present();
                self.text(|mode, out| write_document_key(entry, mode, out))
                    .map(|exactness| self.note(exactness))?;
            }
        }
        self.document(full)?;
        self.description(update)?;
        self.document(raw_update)?;
        self.document(command)
    }

    /// Writes the description of an update. A damaged diff has none: a reader that applies the
    /// event finds the fault in `rawUpdateDescription`.
    fn description(&mut self, update: Option<Update<'_>>) -> Result<(), EntryError> {
        let place = self.out.len();
        self.present();
        let written = match update {
            Some(Update::Modifiers(modifiers)) => self
                .text(|mode, out| write_modifiers(modifiers, mode, out))
                .map(|()| Some(Exactness::Exact))?,
            Some(Update::Diff(diff)) => self.text(|mode, out| write_diff(diff, mode, out))?,
            None | Some(Update::Replacement(_)) => None,
        };
        match written {
            Some(exactness) => self.note(exactness),
            None => {
                self.out.truncate(place);
                self.absent();
            }
        }
        Ok(())
    }

    fn transaction(&mut self, entry: &Entry<'_>) -> Result<(), EntryError> {
        self.document(entry.lsid)?;
        self.optional_long(entry.txn_number);
        self.optional_long(entry.txn.map(|place| i64::from(place.index)));
        self.optional_long(entry.txn.map(|place| i64::from(place.count)));
        Ok(())
    }

    fn document(&mut self, document: Option<Document<'_>>) -> Result<(), EntryError> {
        let Some(document) = document else {
            self.absent();
            return Ok(());
        };
        self.present();
        let exactness = self.text(|mode, out| json::write_document(document, mode, out))?;
        self.note(exactness);
        Ok(())
    }

    /// Writes a text whose length is known only after it has been written.
    fn text<T, E>(
        &mut self,
        write: impl FnOnce(Mode, &mut Vec<u8>) -> Result<T, E>,
    ) -> Result<T, E> {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; USUAL_LENGTH_BYTES]);
        let written = write(self.mode, self.out)?;
        let text = start + USUAL_LENGTH_BYTES;
        let end = self.out.len();
        let length = length(end - text);
        // A text whose length takes another number of bytes is moved.
        let moved = start + length.length;
        if moved > text {
            self.out.resize(end + (moved - text), 0);
        }
        if moved != text {
            self.out.copy_within(text..end, moved);
            self.out.truncate(moved + (end - text));
        }
        if let Some(place) = self.out.get_mut(start..moved) {
            place.copy_from_slice(length.as_bytes());
        }
        Ok(written)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(length(bytes.len()).as_bytes());
        self.out.extend_from_slice(bytes);
    }

    fn optional_long(&mut self, number: Option<i64>) {
        match number {
            Some(number) => {
                self.present();
                self.long(number);
            }
            None => self.absent(),
        }
    }

    fn long(&mut self, number: i64) {
        self.out.extend_from_slice(Varint::of(number).as_bytes());
    }

    fn present(&mut self) {
        self.out.push(PRESENT);
    }

    fn absent(&mut self) {
        self.out.push(ABSENT);
    }

    fn note(&mut self, exactness: Exactness) {
        self.is_exact &= exactness == Exactness::Exact;
    }
}
