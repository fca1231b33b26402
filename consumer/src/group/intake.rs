//! From librdkafka's queue into chunks, and from chunks to workers, within a byte budget.

use oplog_relay_core::format::ID_HEADER;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};

use super::context::GroupContext;
use crate::chunk::Chunk;
use crate::metrics::Metrics;

/// Empty chunks that are kept for reuse.
const KEPT_CHUNKS: usize = 64;

/// A chunk of this size is closed: it is what a worker applies and acknowledges at once. Less with
/// many partitions, so that those waiting at barriers hold no more than half of the budget.
const CHUNK_BYTES: usize = 2 << 20;
const LEAST_CHUNK_BYTES: usize = 64 << 10;
/// Chunks that a waiting worker may hold, twice.
const SHARES: usize = 4;

/// Counts the bytes in flight and keeps empty chunks.
#[derive(Debug)]
pub(super) struct Intake {
    budget: usize,
    used: usize,
    /// Of these, what workers hold at barriers: others must get through for them to go on.
    held: usize,
    empty: Vec<Chunk>,
}

impl Intake {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            used: 0,
            held: 0,
            empty: Vec::new(),
        }
    }

    /// Bytes taken and not yet released.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    pub(super) const fn is_over(&self) -> bool {
        self.used.saturating_sub(self.held) >= self.budget
    }

    pub(super) const fn is_under_half(&self) -> bool {
        self.used.saturating_sub(self.held) <= self.budget / 2
    }

    /// Workers at barriers hold that much.
    pub(super) const fn hold(&mut self, bytes: usize) {
        self.held = bytes;
    }

    /// A chunk was applied, or thrown away.
    pub(super) fn release(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Keeps an empty chunk.
    pub(super) fn recycle(&mut self, chunk: Chunk) {
        if self.empty.len() < KEPT_CHUNKS {
            self.empty.push(chunk);
        }
    }

    /// An empty chunk.
    pub(super) fn chunk(&mut self) -> Chunk {
        self.empty.pop().unwrap_or_default()
    }

    /// Copies a record into its partition's chunk.
    pub(super) fn take(
        &mut self,
        consumer: &BaseConsumer<GroupContext>,
        record: &BorrowedMessage<'_>,
        metrics: &Metrics,
    ) {
        let oplog_id = record.headers().and_then(|headers| {
            headers
                .iter()
                .find(|header| header.key == ID_HEADER)
                .and_then(|header| header.value)
        });
        let timestamp = record.timestamp().to_millis().unwrap_or_default();
        let payload = record.payload();
        metrics
            .bytes
            .inc_by(u64::try_from(payload.map_or(0, <[u8]>::len)).unwrap_or_default());
        let mut partitions = consumer.context().partitions();
        let share = self.budget / (SHARES * partitions.len().max(1));
        let full = share.clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES);
        // A record of a partition that was just taken away: its next owner reads it.
        let Some(partition) = partitions.find(record.topic(), record.partition()) else {
            return;
        };
        if !partition.takes(record.offset()) {
            return;
        }
        let chunk = partition.filling(full, || self.chunk());
        self.used += chunk.push(record.offset(), timestamp, payload, oplog_id);
        partition.tracker.hand(record.offset());
    }

    /// Hands chunks to those workers that have room.
    pub(super) fn hand_on(&mut self, consumer: &BaseConsumer<GroupContext>) {
        for partition in consumer.context().partitions().iter_mut() {
            partition.hand_on();
        }
    }
}
