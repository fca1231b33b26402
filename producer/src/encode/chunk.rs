//! Encoded records on their way from the encoder to the publisher.

use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::Instant;

use oplog_relay_core::position::Position;
use oplog_relay_core::resume::ResumePoint;
use oplog_relay_core::state::History;
use oplog_relay_runtime::clock::TimePoint;

use crate::encode::barrier::BarrierRequest;

/// Number of bytes of an arena that a chunk always keeps. Most chunks need fewer.
const KEPT_BYTES: usize = 4 << 20;
/// Maximum number of bytes of an arena that a chunk keeps if it has just filled at least half of
/// it: frames of large replies need that many again and again. The text of one large document can
/// need many more, but that is rare.
const MOST_KEPT_BYTES: usize = 24 << 20;
/// Number of records for which a chunk keeps room.
const KEPT_RECORDS: usize = 16_384;

/// A topic as numbered by the encoder; [`Chunk::new_topics`] gives the publisher the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicIndex(pub usize);

/// The state topic is the first of all topics.
pub(crate) const STATE_TOPIC: TopicIndex = TopicIndex(0);

/// A topic that is used for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name of the topic.
    pub name: String,
    /// The largest record batch that the topic accepts, in bytes.
    pub max_bytes: usize,
    /// True if the source claims it in this chunk.
    pub is_claimed_here: bool,
    /// True if the topic existed at the start of the session. Otherwise it is empty until the
    /// session writes to it.
    pub existed: bool,
}

/// A record, whose parts are ranges of the chunk's arena.
#[derive(Debug, Clone)]
pub struct EncodedRecord {
    /// The topic.
    pub topic: TopicIndex,
    /// The partition.
    pub partition: i32,
    /// Source time in milliseconds.
    pub timestamp: i64,
    /// The key; `None` for raw frames.
    pub key: Option<Range<usize>>,
    /// The header that the format needs, if it has one.
    pub header: Option<RecordHeader>,
    /// The headers for routers, as a range of [`Chunk::router_headers`].
    pub router_headers: Range<usize>,
    /// The value; empty for a tombstone.
    pub value: Range<usize>,
}

impl EncodedRecord {
    /// Returns the tombstone of the same key, which follows the record. It has no headers for
    /// routers, because they would give it the identity of the record.
    pub(crate) fn tombstone(&self) -> Self {
        Self {
            router_headers: 0..0,
            value: self.value.end..self.value.end,
            ..self.clone()
        }
    }
}

/// A header of a record, whose value is a range of the chunk's arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// The name.
    pub name: &'static str,
    /// The value.
    pub value: Range<usize>,
}

/// The place of a record: a partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The topic.
    pub topic: TopicIndex,
    /// The partition.
    pub partition: i32,
}

/// Consecutive records of the source, and the position that they reach. Chunks are reused.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Keys, headers and values.
    pub arena: Vec<u8>,
    /// The records in order.
    pub records: Vec<EncodedRecord>,
    /// The headers for routers of all records.
    pub router_headers: Vec<RecordHeader>,
    /// A command that follows the records, with its barriers.
    pub barrier: Option<BarrierRequest>,
    /// Topics that are first used here, in the order of their index.
    pub new_topics: Vec<NewTopic>,
    /// The place in the source that the chunk reaches.
    pub reached: Reached,
    /// The report of the source at the end of the chunk.
    pub signal: Signal,
    /// Counts of what was read for the chunk.
    pub counts: Counts,
    /// The times at which the chunk was handed over; `None` if it was not made from a batch.
    pub handed: Option<HandedOver>,
}

/// The times at which a chunk was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Time at which the encoder received the batch.
    pub received: TimePoint,
    /// Time at which the chunk entered the publisher's queue.
    pub encoded: Instant,
}

/// The place in the source that a chunk reaches.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Position up to which everything is in this chunk or before it; `None` if nothing was read.
    pub position: Option<Position>,
    /// The history that transactions after the position may need.
    pub history: History,
    /// Version of the routing table after this chunk.
    pub routing: u32,
    /// Number of entries that a full sync has sent at the position, including those of earlier chunks.
    pub reads: u32,
    /// `wall` of the last entry, or the milliseconds of its `ts`; 0 if unknown.
    pub wall: i64,
    /// The point at which a change stream continues after the position.
    pub resume: Option<Arc<ResumePoint>>,
}

/// The report of the source at the end of a chunk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// More entries may follow immediately.
    #[default]
    More,
    /// The source had nothing more to send.
    Idle,
    /// Everything that a majority of the source's members has is in this chunk or before it.
    CaughtUp,
    /// The source has ended (a dump).
    Finished,
}

impl Signal {
    /// Returns true if the source had nothing more to send, but may continue.
    #[must_use]
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Idle | Self::CaughtUp)
    }

    /// Returns true if nothing that exists in the source follows.
    #[must_use]
    pub const fn is_caught_up(self) -> bool {
        matches!(self, Self::CaughtUp | Self::Finished)
    }
}

/// Counts of what was read for a chunk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Number of entries read, by `Operation::index`.
    pub entries: [u64; 5],
    /// Number of entries and operations without a record, except noops: excluded by the filter, not
    /// for readers, or index builds that a full sync sends later.
    pub filtered: u64,
    /// Number of transactions by outcome.
    pub transactions: TransactionCounts,
    /// Number of bytes of the entries read.
    pub source_bytes: u64,
    /// Number of documents that a full sync read.
    pub copied_documents: u64,
    /// Number of bytes of these documents.
    pub copied_bytes: u64,
    /// Number of updates whose document was looked up and found.
    pub looked_up: u64,
    /// Number of updates whose document was looked up and was gone.
    pub gone: u64,
    /// Number of changes whose document before the change was looked up and found.
    pub found_before: u64,
    /// Number of changes whose document before the change was looked up and was missing.
    pub missing_before: u64,
}

/// Number of transactions by outcome, in a part of the source.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TransactionCounts {
    /// Committed transactions whose operations are all in this chunk or before it.
    pub committed: u64,
    /// Transactions that an `abortTransaction` ended after a part of them was logged. If an election
    /// or a later transaction of the session ended a transaction without such an entry, it is not
    /// counted.
    pub aborted: u64,
    /// Transactions that were skipped, because they began before the stream or in a gap, and their
    /// first entries are gone.
    pub incomplete: u64,
    /// Operations of `applyOps` entries, including those that have no record.
    pub operations: u64,
}

impl AddAssign for TransactionCounts {
    fn add_assign(&mut self, other: Self) {
        // All fields are named, so a new one does not compile until it is added.
        let Self {
            committed,
            aborted,
            incomplete,
            operations,
        } = other;
        self.committed += committed;
        self.aborted += aborted;
        self.incomplete += incomplete;
        self.operations += operations;
    }
}

impl Chunk {
    /// Removes the contents but keeps their memory, up to a bound. Several chunks are in flight at
    /// a time, and each would otherwise retain the size of its largest document.
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
            router_headers,
            new_topics,
            ..
        } = std::mem::take(self);
        *self = Self {
            arena,
            records,
            router_headers,
            new_topics,
            ..Self::default()
        };
        self.arena.clear();
        self.arena.shrink_to(kept);
        self.records.clear();
        self.records.shrink_to(KEPT_RECORDS);
        self.router_headers.clear();
        self.router_headers.shrink_to(KEPT_RECORDS);
        self.new_topics.clear();
    }

    /// Returns true if publishing the chunk would have no effect.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.reached.position.is_none() && self.signal == Signal::More
    }

    /// Returns true if the chunk contains nothing for Kafka except its position.
    #[must_use]
    pub const fn is_without_records(&self) -> bool {
        self.records.is_empty() && self.barrier.is_none()
    }

    /// Returns the bytes of a part.
    #[must_use]
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.arena.get(range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of bytes that a chunk keeps after it contained `bytes`.
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
