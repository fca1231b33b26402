//! Entries that are made from the records of other programs.

use std::ops::Range;

use crate::document::{Document, DocumentBuilder, Element, Malformed, kind};
use crate::format::Decoded;
use crate::position::{EntryId, Timestamp};

/// The number of ordinals for records with one change. The ordinal of such a change is the offset
/// of its record modulo this number.
const SINGLE: i64 = 1 << 30;
/// The first ordinal of frames with several entries.
const FRAMES: u32 = 1 << 30;
/// The number of ordinals of a frame with several entries. The operations of a transaction have the
/// same timestamp and may be in several frames.
const FRAME: i64 = 1 << 16;
/// The first ordinal of commands.
const COMMANDS: u32 = 1 << 31;
/// The bits of a command's checksum in its ordinal. The highest ordinals have a special meaning
/// ([`crate::barrier::BARRIER_ORD`]).
const CHECKSUM: u32 = (1 << 30) - 1;

/// The entries of one record.
pub(super) struct Output<'o> {
    /// The buffer that holds the record, to which entries are appended.
    pub(super) arena: &'o mut Vec<u8>,
    found: &'o mut Vec<Decoded>,
    offset: i64,
    /// The ordinal of the record's next change.
    next: u32,
}

impl<'o> Output<'o> {
    pub(super) fn new(arena: &'o mut Vec<u8>, found: &'o mut Vec<Decoded>, offset: i64) -> Self {
        Self {
            arena,
            found,
            offset,
            next: within(offset, SINGLE),
        }
    }

    /// Sets the ordinals of a frame with several entries. They are separate from those of records
    /// with a single entry, because a topic may have both.
    pub(super) fn start_frame(&mut self) {
        self.next = FRAMES | within(self.offset.wrapping_mul(FRAME), SINGLE);
    }

    /// Adds the entry that is at this place in the arena.
    pub(super) fn add(&mut self, ts: Timestamp, is_command: bool, range: Range<usize>) {
        let ord = match is_command {
            true => ordinal_of_command(self.arena.get(range.clone()).unwrap_or_default()),
            false => self.next,
        };
        let id = EntryId { ts, ord };
        self.found.push(Decoded { id, range });
        self.next += 1;
    }

    /// Appends an entry and adds it.
    pub(super) fn write(
        &mut self,
        header: &Header<'_>,
        write: impl FnOnce(&mut DocumentBuilder<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let start = self.arena.len();
        let mut entry = DocumentBuilder::start(self.arena);
        header.write(&mut entry);
        write(&mut entry)?;
        entry.finish();
        let range = start..self.arena.len();
        self.add(header.ts, header.op == "c", range);
        Ok(())
    }
}

/// Returns a number modulo a power of two.
fn within(number: i64, count: i64) -> u32 {
    u32::try_from(number.rem_euclid(count)).expect("a number below 2^30 has at most 32 bits")
}

/// Returns the ordinal of a command, a checksum of its `ns` and its `o`. The commands of a
/// transaction have the same timestamp, so their ordinals must differ. A command that is written
/// again must keep its ordinal, although other fields of its entry may differ.
fn ordinal_of_command(entry: &[u8]) -> u32 {
    let parts = Document::new(entry).and_then(|entry| {
        let part = |name| Ok(entry.get(name)?.map_or(&[][..], |element| element.value));
        Ok([part("ns")?, part("o")?])
    });
    // A damaged entry is reported when it is parsed.
    let [ns, o] = parts.unwrap_or([entry, &[]]);
    COMMANDS | (crc32c::crc32c_append(crc32c::crc32c(ns), o) & CHECKSUM)
}

/// The fields of an entry before `o`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'e> {
    /// The timestamp; 0:0 if it is unknown.
    pub(super) ts: Timestamp,
    pub(super) op: &'static str,
    pub(super) db: &'e str,
    pub(super) collection: &'e str,
    /// The UUID of the collection, if the event has it.
    pub(super) ui: Option<Element<'e>>,
    /// The source's wall-clock time in milliseconds since 1970.
    pub(super) wall: Option<i64>,
    pub(super) lsid: Option<Document<'e>>,
    pub(super) txn_number: Option<i64>,
}

impl<'e> Header<'e> {
    /// Returns the header of another operation on the same collection.
    pub(super) fn of(self, op: &'static str) -> Self {
        Self { op, ..self }
    }

    /// Returns the header of a command on the database.
    pub(super) fn of_command(self) -> Self {
        Self {
            op: "c",
            collection: "$cmd",
            ..self
        }
    }

    fn write(&self, entry: &mut DocumentBuilder<'_>) {
        entry
            .raw("ts", kind::TIMESTAMP, &self.ts.to_le_bytes())
            .int32("v", 2)
            .str("op", self.op)
            .str("ns", &format!("{}.{}", self.db, self.collection));
        if let Some(ui) = self.ui {
            entry.raw("ui", ui.kind, ui.value);
        }
        if let Some(wall) = self.wall {
            entry.date("wall", wall);
        }
        if let Some(lsid) = self.lsid {
            entry.document("lsid", lsid);
        }
        if let Some(number) = self.txn_number {
            entry.int64("txnNumber", number);
        }
    }
}

/// Returns a field unless it is missing or null.
pub(super) fn present<'e>(
    document: Document<'e>,
    name: &str,
) -> Result<Option<Element<'e>>, Malformed> {
    let found = document.get(name)?;
    Ok(found.filter(|element| element.kind != kind::NULL))
}

/// Returns an embedded document unless it is missing or null.
pub(super) fn embedded<'e>(
    document: Document<'e>,
    name: &str,
) -> Result<Option<Document<'e>>, Malformed> {
    present(document, name)?
        .map(|element| match element.kind {
            kind::DOCUMENT => element.document(),
            _ => Err(element.wrong_type()),
        })
        .transpose()
}
