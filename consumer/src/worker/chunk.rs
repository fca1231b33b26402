//! Records on their way from the poll thread to a partition's worker, without an allocation for each
//! record: all values are in one buffer, and the buffers are reused.

use std::ops::Range;

use oplog_relay_core::format::FormatError;
use oplog_relay_runtime::clock::TimePoint;

/// The place of one record in its [`Chunk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSlot {
    /// The offset of the record; for a record in fragments, that of the first fragment.
    pub offset: i64,
    /// The offset of the last fragment; for other records, the offset of the record.
    pub last: i64,
    /// The timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// The place of the value in [`Chunk::arena`]; empty for a tombstone, which has no entry.
    pub value: Range<usize>,
    /// The place of the `oplog-id` header in [`Chunk::headers`], if the record has one. In a topic
    /// of another program it is the place of the key.
    pub oplog_id: Option<Range<usize>>,
    /// The fault of a record that cannot be an entry, for example a fragment without the others.
    pub fault: Option<Box<FormatError>>,
}

/// Consecutive records of one partition.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The values, one after the other. Decoding may append converted values.
    pub arena: Vec<u8>,
    /// The header values, or the keys, one after the other.
    pub headers: Vec<u8>,
    /// The records in order.
    pub records: Vec<RecordSlot>,
    /// Time at which the first record was taken from the Kafka client; `None` while there is none.
    pub taken: Option<TimePoint>,
    /// The cost of the records in memory, in bytes.
    cost: usize,
}

/// Size to which a larger buffer is shrunk after use.
const KEPT_BYTES: usize = 4 << 20;
/// Cost of a record in addition to its bytes.
const RECORD_COST: usize = size_of::<RecordSlot>();

impl Chunk {
    /// Appends a record and returns its cost in memory.
    pub fn push(
        &mut self,
        offset: i64,
        timestamp: i64,
        value: Option<&[u8]>,
        oplog_id: Option<&[u8]>,
    ) -> usize {
        self.taken.get_or_insert_with(TimePoint::now);
        let value = append(&mut self.arena, value.unwrap_or_default());
        let oplog_id = oplog_id.map(|id| append(&mut self.headers, id));
        let cost = value.len() + oplog_id.as_ref().map_or(0, Range::len) + RECORD_COST;
        self.records.push(RecordSlot {
            offset,
            last: offset,
            timestamp,
            value,
            oplog_id,
            fault: None,
        });
        self.cost += cost;
        cost
    }

    /// Appends a fragment to the record that was appended last, and returns its cost.
    pub fn extend(&mut self, offset: i64, value: &[u8]) -> usize {
        let end = append(&mut self.arena, value).end;
        if let Some(slot) = self.records.last_mut() {
            slot.value.end = end;
            slot.last = offset;
        }
        self.cost += value.len();
        value.len()
    }

    /// Removes the record that was appended last. Returns its cost.
    pub fn take_back(&mut self) -> usize {
        let Some(slot) = self.records.pop() else {
            return 0;
        };
        self.arena.truncate(slot.value.start);
        let mut cost = slot.value.len() + RECORD_COST;
        if let Some(id) = slot.oplog_id {
            self.headers.truncate(id.start);
            cost += id.len();
        }
        self.cost -= cost;
        cost
    }

    /// Marks the record that was appended last as one that cannot be an entry.
    pub fn mark_faulty(&mut self, fault: FormatError) {
        if let Some(slot) = self.records.last_mut() {
            slot.fault = Some(Box::new(fault));
        }
    }

    /// Returns the cost of the records in memory, in bytes: the sum of what [`Chunk::push`] and
    /// [`Chunk::extend`] returned, less what [`Chunk::take_back`] returned.
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.cost
    }

    /// Returns true if the chunk has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the `oplog-id` header of a record; in a topic of another program, its key.
    #[must_use]
    pub fn oplog_id(&self, slot: &RecordSlot) -> Option<&[u8]> {
        slot.oplog_id
            .clone()
            .and_then(|range| self.headers.get(range))
    }

    /// Returns the last offset of the record that starts at an offset.
    #[must_use]
    pub fn last_offset(&self, offset: i64) -> i64 {
        let found = self
            .records
            .binary_search_by_key(&offset, |slot| slot.offset);
        let slot = found.ok().and_then(|index| self.records.get(index));
        slot.map_or(offset, |slot| slot.last)
    }

    /// Empties the chunk for reuse. A buffer that a large record has enlarged is shrunk.
    pub fn clear(&mut self) {
        for buffer in [&mut self.arena, &mut self.headers] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        self.records.clear();
        self.taken = None;
        self.cost = 0;
    }
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    start..buffer.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_and_their_cost_adds_up() {
        let mut chunk = Chunk::default();
        let mut cost = chunk.push(5, 1, Some(b"one"), Some(b"rs0/1:1/0"));
        cost += chunk.push(6, 2, None, None);
        cost += chunk.push(8, 3, Some(b"three"), Some(b""));
        assert_eq!(chunk.cost(), cost);
        let [first, second, third] = &chunk.records[..] else {
            panic!()
        };
        assert_eq!(&chunk.arena[first.value.clone()], b"one");
        assert_eq!(chunk.oplog_id(first), Some(&b"rs0/1:1/0"[..]));
        assert!(second.value.is_empty());
        assert_eq!(chunk.oplog_id(second), None);
        assert_eq!(&chunk.arena[third.value.clone()], b"three");
        assert_eq!(chunk.oplog_id(third), Some(&b""[..]));
    }

    #[test]
    fn fragments_become_one_record_and_can_be_taken_back() {
        let mut chunk = Chunk::default();
        chunk.push(4, 1, Some(b"one"), Some(b"rs0/1:1/0"));
        let before = (chunk.cost(), chunk.arena.clone(), chunk.headers.clone());
        let mut cost = chunk.push(5, 1, Some(b"tw"), Some(b"rs0/1:2/0"));
        cost += chunk.extend(6, b"o, ");
        cost += chunk.extend(7, b"three");
        let slot = &chunk.records[1];
        assert_eq!((slot.offset, slot.last), (5, 7));
        assert_eq!(&chunk.arena[slot.value.clone()], b"two, three");
        assert_eq!(chunk.cost(), before.0 + cost);
        assert_eq!(chunk.take_back(), cost);
        assert_eq!((chunk.cost(), chunk.arena, chunk.headers), before);
    }

    #[test]
    fn a_large_buffer_is_shrunk() {
        let mut chunk = Chunk::default();
        chunk.push(0, 0, Some(&vec![0; KEPT_BYTES + 1]), None);
        chunk.clear();
        assert!(chunk.is_empty() && chunk.arena.capacity() <= KEPT_BYTES);
    }
}
