//! Decoding of a chunk's records into checked entries.

use oplog_relay_core::barrier::{BARRIER_ORD, Barrier};
use oplog_relay_core::command::scope;
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::foreign::{self, Record};
use oplog_relay_core::format::{Decoded, Format, FormatError, decode};

use crate::record_fault::RecordFault;
use crate::worker::batch::Located;
use crate::worker::chunk::{Chunk, RecordSlot};
use crate::worker::topics::Topic;

/// The records of a chunk before the first damaged one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usable {
    /// The index after the last of these records.
    pub(crate) end: usize,
    /// The fault of the record at `end`, if it is damaged.
    pub(crate) fault: Option<RecordFault>,
}

/// The entries of records, up to the first damaged one.
pub(crate) struct Readable<'c> {
    /// The entries.
    pub(crate) entries: Vec<Located<'c>>,
    /// The end of the records to which they belong.
    pub(crate) usable: Usable,
}

/// Decodes chunks. Its buffers are reused.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    found: Vec<Decoded>,
    /// The index of the record of each entry.
    records: Vec<usize>,
}

impl Decoder {
    /// Finds the entries in the records from `from` on, up to the first record that is damaged.
    /// Entries in formats other than `bson` and `raw` are converted to BSON, which is appended to
    /// the chunk's arena.
    pub(crate) fn decode(&mut self, chunk: &mut Chunk, topic: &Topic, from: usize) -> Usable {
        self.found.clear();
        self.records.clear();
        for index in from..chunk.records.len() {
            let first = self.found.len();
            if let Err(fault) = self.decode_record(chunk, index, topic) {
                self.found.truncate(first);
                return Usable {
                    end: index,
                    fault: Some(fault),
                };
            }
            self.records.resize(self.found.len(), index);
        }
        Usable {
            end: chunk.records.len(),
            fault: None,
        }
    }

    fn decode_record(
        &mut self,
        chunk: &mut Chunk,
        index: usize,
        topic: &Topic,
    ) -> Result<(), RecordFault> {
        let Some(slot) = chunk.records.get(index) else {
            return Ok(());
        };
        if let Some(fault) = &slot.fault {
            return Err((**fault).clone().into());
        }
        if slot.value.is_empty() {
            return Ok(());
        }
        let format = formats(topic, chunk, slot).next().unwrap_or(topic.format);
        let (value, oplog_id) = (slot.value.clone(), slot.oplog_id.clone());
        let offset = slot.offset;
        let Chunk { arena, headers, .. } = chunk;
        let oplog_id = oplog_id.and_then(|range| headers.get(range));
        if let Some(foreign) = &topic.foreign {
            let key = oplog_id;
            let record = Record { value, key, offset };
            foreign::decode(foreign.rules, &record, arena, &mut self.found)?;
            return Ok(());
        }
        decode(format, value, oplog_id, arena, &mut self.found)?;
        Ok(())
    }

    /// Returns the command in a damaged record, as far as it can be read; `None` if it has no command.
    pub(crate) fn command_of<'c>(&self, chunk: &'c Chunk, record: usize) -> Option<Located<'c>> {
        let at = self.records.iter().position(|other| *other == record)?;
        let found = self.found.get(at)?;
        let entry = Entry::parse(found.document(&chunk.arena).ok()?).ok()?;
        let is_command = entry.operation == Operation::Command && found.id.ord != BARRIER_ORD;
        is_command.then_some(Located {
            offset: chunk.records.get(record)?.offset,
            id: found.id,
            entry,
        })
    }

    /// Reads the entries that were found in the records from `from` on. If one entry of a record is
    /// damaged, all entries of that record are excluded, and the usable records end before it.
    pub(crate) fn read<'c>(&self, chunk: &'c Chunk, from: usize, decoded: &Usable) -> Readable<'c> {
        let first = self.records.partition_point(|record| *record < from);
        let mut entries = Vec::with_capacity(self.found.len().saturating_sub(first));
        for (found, record) in self.found.iter().zip(&self.records).skip(first) {
            let Some(slot) = chunk.records.get(*record) else {
                break;
            };
            match read_entry(found, &chunk.arena) {
                Ok(entry) => entries.push(Located {
                    offset: slot.offset,
                    id: found.id,
                    entry,
                }),
                Err(fault) => {
                    let whole = self.records.partition_point(|other| other < record);
                    entries.truncate(whole.saturating_sub(first));
                    let fault = Some(fault.into());
                    return Readable {
                        entries,
                        usable: Usable {
                            end: *record,
                            fault,
                        },
                    };
                }
            }
        }
        let usable = decoded.clone();
        Readable { entries, usable }
    }
}

/// Parses and checks a whole entry. Damage inside it would otherwise surface as a refusal by the
/// target, and a damaged barrier or command would be found where it can no longer become a dead letter.
fn read_entry<'a>(decoded: &Decoded, arena: &'a [u8]) -> Result<Entry<'a>, FormatError> {
    let document = decoded.document(arena)?;
    let whole = Entry::parse_whole(document).and_then(|entry| {
        if matches!(entry.operation, Operation::Command | Operation::Noop) {
            Barrier::read(&entry)?;
        }
        if entry.operation == Operation::Command {
            scope(&entry)?;
        }
        Ok(entry)
    });
    whole.map_err(|source| {
        let ns = document.get("ns").ok().flatten();
        match (ns.and_then(|ns| ns.str().ok()), &source) {
            (Some(ns), EntryError::Malformed(_)) => FormatError::Inside {
                id: decoded.id,
                ns: ns.to_owned(),
                source,
            },
            _ => FormatError::Entry(source),
        }
    })
}

/// Returns the formats that a record of a topic may have.
pub(crate) fn formats<'c>(
    topic: &'c Topic,
    chunk: &'c Chunk,
    slot: &RecordSlot,
) -> impl Iterator<Item = Format> + 'c {
    let value = chunk.arena.get(slot.value.clone()).unwrap_or_default();
    topic.formats_of(value, slot.oplog_id.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::document::{Document, DocumentBuilder, kind};
    use oplog_relay_core::format::raw::Frame;
    use oplog_relay_core::position::{EntryId, Timestamp};

    fn entry(op: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut entry = DocumentBuilder::start(&mut bytes);
        entry.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 7, 0, 0, 0]);
        entry.str("op", op).str("ns", "a.b");
        entry.nested("o", kind::DOCUMENT, |o| {
            o.int32("_id", 1);
        });
        entry.finish();
        bytes
    }

    fn topic(format: Format) -> Topic {
        Topic {
            source: "rs0".to_owned(),
            format,
            earlier: Vec::new(),
            foreign: None,
        }
    }

    /// Returns the offsets of the entries from a record on, and the end of the usable records.
    fn read(decoder: &Decoder, chunk: &Chunk, from: usize, decoded: &Usable) -> (Vec<i64>, usize) {
        let Readable { entries, usable } = decoder.read(chunk, from, decoded);
        let offsets = entries.iter().map(|located| located.offset).collect();
        (offsets, usable.end)
    }

    #[test]
    fn usable_records_end_before_a_damaged_one_and_continue_after_it() {
        let mut chunk = Chunk::default();
        for (offset, op) in (0..).zip(["d", "xi", "d", "d", "xi"]) {
            chunk.push(offset, 0, Some(&entry(op)), Some(b"rs0/7:1/0"));
        }
        chunk.push(5, 0, Some(&entry("d")), None);
        chunk.push(6, 0, Some(&entry("d")), Some(b"rs0/7:2/0"));
        let mut decoder = Decoder::default();
        let topic = topic(Format::Bson);
        let decoded = decoder.decode(&mut chunk, &topic, 0);
        assert_eq!(decoded.end, 5, "the record without a header");
        assert_eq!(read(&decoder, &chunk, 0, &decoded), (vec![0], 1));
        assert_eq!(read(&decoder, &chunk, 2, &decoded), (vec![2, 3], 4));
        assert_eq!(read(&decoder, &chunk, 5, &decoded), (vec![], 5));
        let decoded = decoder.decode(&mut chunk, &topic, 6);
        assert_eq!(read(&decoder, &chunk, 6, &decoded), (vec![6], 7));
    }

    #[test]
    fn no_entry_of_a_frame_is_used_if_one_is_damaged() {
        let id = EntryId {
            ts: Timestamp::new(7, 1),
            ord: 0,
        };
        let mut chunk = Chunk::default();
        for (offset, ops) in (0..).zip([["d", "i"], ["d", "xi"], ["xi", "d"]]) {
            let mut frame = Frame::default();
            for op in ops {
                frame.push(id, Document::new(&entry(op)).unwrap(), false);
            }
            let mut value = Vec::new();
            frame.finish(&mut value);
            chunk.push(offset, 0, Some(&value), None);
        }
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(&mut chunk, &topic(Format::Raw), 0);
        assert_eq!(
            decoded,
            Usable {
                end: 3,
                fault: None
            }
        );
        assert_eq!(read(&decoder, &chunk, 0, &decoded), (vec![0, 0], 1));
        assert_eq!(read(&decoder, &chunk, 2, &decoded), (vec![], 2));
        assert_eq!(read(&decoder, &chunk, 3, &decoded), (vec![], 3));
    }

    #[test]
    fn a_damaged_barrier_is_a_fault_of_its_record_and_its_command_is_known() {
        let with_barrier = |op: &str| {
            let mut bytes = Vec::new();
            let mut entry = DocumentBuilder::start(&mut bytes);
            entry.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 7, 0, 0, 0]);
            entry.str("op", op).str("ns", "a.$cmd");
            entry.nested("o", kind::DOCUMENT, |o| {
                o.str("drop", "b");
            });
            entry.int32(oplog_relay_core::barrier::FIELD, 5);
            entry.finish();
            bytes
        };
        let mut chunk = Chunk::default();
        chunk.push(0, 0, Some(&entry("d")), Some(b"rs0/7:1/0"));
        chunk.push(1, 0, Some(&with_barrier("n")), Some(b"rs0/7:1/4294967295"));
        chunk.push(2, 0, Some(&with_barrier("c")), Some(b"rs0/7:1/0"));
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(&mut chunk, &topic(Format::Bson), 0);
        let usable = decoder.read(&chunk, 0, &decoded).usable;
        assert_eq!(usable.end, 1);
        let text = crate::error::text_of(&usable.fault.unwrap());
        assert!(text.contains("7:1") && text.contains("a.$cmd"), "{text}");
        assert!(decoder.command_of(&chunk, 1).is_none());
        let usable = decoder.read(&chunk, 2, &decoded).usable;
        assert_eq!(usable.end, 2);
        let command = decoder.command_of(&chunk, 2).unwrap();
        assert_eq!((command.offset, command.id.ord), (2, 0));
    }
}
