//! Encoded records on their way from the encoder to the publisher.

use std::ops::Range;

use oplog_relay_core::position::Position;
use oplog_relay_core::state::History;

use crate::encode::barrier::BarrierRequest;

/// Bytes of an arena that stay with a chunk in any case. Most chunks need fewer.
const KEPT_BYTES: usize = 4 << 20;
/// Bytes that stay with a chunk that has just filled them by half: frames of a large reply need as
/// many again and again. The text of one large document needs much more, and is rare.
const MOST_KEPT_BYTES: usize = 24 << 20;
/// Records for which a chunk keeps room.
const KEPT_RECORDS: usize = 16_384;

/// A topic as the encoder numbers it; the publisher learns the names from [`Chunk::new_topics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicIndex(pub usize);

/// A topic that is used for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// The largest record batch that it takes, in bytes.
    pub max_bytes: usize,
    /// Whether the source claims it in this chunk.
    pub is_claimed_here: bool,
    /// Whether it was there when the session began. Of one that was not, nobody has written
    /// anything yet.
    pub existed: bool,
}

/// One record, its parts as ranges of the chunk's arena.
#[derive(Debug, Clone)]
pub struct EncodedRecord {
    /// Where it goes.
    pub topic: TopicIndex,
    /// The partition.
    pub partition: i32,
    /// Source time in milliseconds.
    pub timestamp: i64,
    /// The key; `None` for raw frames.
    pub key: Option<Range<usize>>,
    /// Name and value of the one header, if the format has one.
    pub header: Option<(&'static str, Range<usize>)>,
    /// The value; empty for a tombstone.
    pub value: Range<usize>,
}

/// Records of a stretch of the source, and the position that they reach. Reused.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Keys, headers and values.
    pub arena: Vec<u8>,
    /// The records in order.
    pub records: Vec<EncodedRecord>,
    /// A command that comes after the records, with its barriers.
    pub barrier: Option<BarrierRequest>,
    /// Topics that are first used here, in the order of their index.
    pub new_topics: Vec<NewTopic>,
    /// Everything up to here is in this chunk or before it; `None` if nothing was read.
    pub end: Option<Position>,
    /// The history that transactions after `end` may need.
    pub history: History,
    /// The source had nothing more to give when this chunk ended.
    pub idle: bool,
    /// The source said that there is nothing after this chunk.
    pub caught_up: bool,
    /// The source has ended (a dump).
    pub finished: bool,
    /// Version of the routing table after this chunk.
    pub routing: u32,
    /// Entries read, by `Operation::index`.
    pub entries: [u64; 5],
    /// Entries that the filter dropped.
    pub filtered: u64,
    /// What became of transactions.
    pub transactions: TransactionCounts,
    /// Bytes of the entries read.
    pub source_bytes: u64,
    /// Documents that a full sync read, and their bytes.
    pub copied: (u64, u64),
    /// Entries that a full sync has sent at `end`, those of chunks before this one too.
    pub reads: u32,
    /// `wall` of the last entry, or the milliseconds of its `ts`.
    pub last_wall: i64,
}

/// What became of transactions in a stretch of the source.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TransactionCounts {
    /// Committed, and every operation is in this chunk or before it.
    pub committed: u64,
    /// Aborted after a part of them was logged.
    pub aborted: u64,
    /// Passed over, because their first entries were gone when the stream began.
    pub incomplete: u64,
    /// Operations taken out of `applyOps`, those that the filter dropped too.
    pub operations: u64,
}

impl Chunk {
    /// Forgets everything but the memory, and releases what few chunks need. Several chunks are
    /// under way at a time, and each would keep the largest document that it ever had.
    pub fn clear(&mut self) {
        let is_filled = self.arena.len() >= self.arena.capacity() / 2;
        let kept = if is_filled {
            MOST_KEPT_BYTES
        } else {
            KEPT_BYTES
        };
        let Self {
            arena,
            records,
            new_topics,
            ..
        } = std::mem::take(self);
        *self = Self {
            arena,
            records,
            new_topics,
            ..Self::default()
        };
        self.arena.clear();
        self.arena.shrink_to(kept);
        self.records.clear();
        self.records.shrink_to(KEPT_RECORDS);
        self.new_topics.clear();
    }

    /// Whether publishing it would do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.end.is_none() && !self.idle && !self.finished
    }

    /// Whether it has nothing for Kafka but its position.
    #[must_use]
    pub const fn is_without_records(&self) -> bool {
        self.records.is_empty() && self.barrier.is_none()
    }

    /// The bytes of a part.
    #[must_use]
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.arena.get(range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that a chunk keeps after it had so many.
    fn kept(chunk: &mut Chunk, bytes: usize) -> usize {
        chunk.arena.resize(bytes, 1);
        chunk.clear();
        chunk.arena.capacity()
    }

    #[test]
    fn memory_is_kept_while_it_is_used_and_only_up_to_a_bound() {
        let mut chunk = Chunk::default();
        let usual = 16 << 20;
        assert!((usual..=MOST_KEPT_BYTES).contains(&kept(&mut chunk, usual)));
        let buffer = chunk.arena.as_ptr();
        assert!(kept(&mut chunk, usual) >= usual);
        assert_eq!(chunk.arena.as_ptr(), buffer);
        assert_eq!(kept(&mut chunk, 100 << 20), MOST_KEPT_BYTES);
        assert_eq!(kept(&mut chunk, 1 << 20), KEPT_BYTES);
        assert_eq!(kept(&mut chunk, 1 << 20), KEPT_BYTES);
    }
}
