//! From the records of a chunk to entries that are whole.

use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::{Decoded, Format, FormatError, decode};

use crate::batch::Located;
use crate::chunk::{Chunk, RecordSlot};
use crate::topics::Topic;

/// The records of a chunk that can be used: those up to the first that is damaged.
#[derive(Debug)]
pub(super) struct Usable {
    /// The record after the last of them.
    pub(super) end: usize,
    /// What is wrong with that one, if it is there.
    pub(super) fault: Option<FormatError>,
}

/// Decodes chunks. Its lists are kept for reuse.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    found: Vec<Decoded>,
    /// For each entry the index of its record.
    records: Vec<usize>,
}

impl Decoder {
    /// Finds the entries in the records from `from` on. What is no BSON yet becomes it, at the end of
    /// the chunk's arena.
    pub(super) fn decode(&mut self, chunk: &mut Chunk, topic: &Topic, from: usize) -> Usable {
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
    ) -> Result<(), FormatError> {
        let Some(slot) = chunk.records.get(index) else {
            return Ok(());
        };
        if let Some(fault) = &slot.fault {
            return Err((**fault).clone());
        }
        if slot.value.is_empty() {
            return Ok(());
        }
        let format = formats(topic, chunk, slot).next().unwrap_or(topic.format);
        let (value, oplog_id) = (slot.value.clone(), slot.oplog_id.clone());
        let Chunk { arena, headers, .. } = chunk;
        let oplog_id = oplog_id.and_then(|range| headers.get(range));
        decode(format, value, oplog_id, arena, &mut self.found)
    }

    /// Reads what was found. Every entry of a record must be one, else none of them counts, and the
    /// records end before it.
    pub(super) fn read<'c>(&self, chunk: &'c Chunk, usable: &mut Usable) -> Vec<Located<'c>> {
        let mut entries = Vec::with_capacity(self.found.len());
        for (decoded, record) in self.found.iter().zip(&self.records) {
            let Some(slot) = chunk.records.get(*record) else {
                break;
            };
            match read_entry(decoded, &chunk.arena) {
                Ok(entry) => entries.push(Located {
                    offset: slot.offset,
                    id: decoded.id,
                    entry,
                }),
                Err(fault) => {
                    let whole = self.records.partition_point(|other| other < record);
                    entries.truncate(whole);
                    *usable = Usable {
                        end: *record,
                        fault: Some(fault),
                    };
                    break;
                }
            }
        }
        entries
    }

    /// The record of an entry.
    pub(super) fn record<'c>(&self, chunk: &'c Chunk, entry: usize) -> Option<&'c RecordSlot> {
        chunk.records.get(*self.records.get(entry)?)
    }
}

/// Damage inside would otherwise surface as a refusal by the target.
fn read_entry<'a>(decoded: &Decoded, arena: &'a [u8]) -> Result<Entry<'a>, FormatError> {
    Ok(Entry::parse_whole(decoded.document(arena)?)?)
}

/// The formats that a record of a topic may be of.
pub(super) fn formats<'c>(
    topic: &'c Topic,
    chunk: &'c Chunk,
    slot: &RecordSlot,
) -> impl Iterator<Item = Format> + 'c {
    let value = chunk.arena.get(slot.value.clone()).unwrap_or_default();
    topic.formats_of(value, slot.oplog_id.is_some())
}
