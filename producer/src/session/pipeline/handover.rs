//! The queues of chunks from the encoder to the publisher and back, bounded in chunks and in bytes.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::encode::chunk::Chunk;
use crate::error::ProducerError;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::queue::QueuedBytes;

/// Maximum number of chunks that wait for the publisher.
const QUEUE_CHUNKS: usize = 2;
/// Number of bytes in chunks that the publisher has not returned, beyond which the encoder waits.
/// Chunks of usual sizes are far below it. A document of 16 MB can become 100 MB of JSON, and several
/// of them at once would take too much memory.
const QUEUE_BYTES: usize = 48 << 20;

/// The encoder's end of the queues.
#[derive(Debug)]
pub struct Handover {
    full: SyncSender<QueuedChunk>,
    empty: Receiver<Returned>,
    /// Empty chunks for reuse.
    spare: Vec<Chunk>,
    /// Number of bytes in chunks that the publisher has not returned.
    unreturned_bytes: usize,
}

/// The publisher's end of the queues.
#[derive(Debug)]
pub struct Intake {
    pub(super) full: Receiver<QueuedChunk>,
    empty: Sender<Returned>,
}

/// A chunk that waits for the publisher.
#[derive(Debug)]
pub(super) struct QueuedChunk {
    pub(super) chunk: Chunk,
    /// Counts the chunk until the publisher takes it, or until it is dropped with a session that failed.
    pub(super) bytes: QueuedBytes,
}

/// A chunk that the publisher returns.
#[derive(Debug)]
struct Returned {
    chunk: Chunk,
    /// Number of bytes that it contained.
    bytes: usize,
}

/// Both ends of the queues.
#[derive(Debug)]
pub struct Queues {
    /// The end of the encoder.
    pub handover: Handover,
    /// The end of the publisher.
    pub intake: Intake,
}

/// Creates both ends.
#[must_use]
pub fn queues() -> Queues {
    let (full, full_end) = sync_channel(QUEUE_CHUNKS);
    // This queue needs no bound: the number of chunks is limited by the other queue.
    let (empty_end, empty) = channel();
    let handover = Handover {
        full,
        empty,
        spare: Vec::new(),
        unreturned_bytes: 0,
    };
    let intake = Intake {
        full: full_end,
        empty: empty_end,
    };
    Queues { handover, intake }
}

impl Handover {
    /// Hands a full chunk to the publisher and leaves an empty one in its place. Waits while the
    /// queue is full, and then while more than `QUEUE_BYTES` bytes have not been returned.
    ///
    /// # Errors
    /// [`ProducerError::Ended`] if the publisher has ended.
    pub fn hand_over(&mut self, chunk: &mut Chunk, metrics: &Metrics) -> Result<(), ProducerError> {
        let gone = || ProducerError::Ended("the publisher ended");
        while let Ok(returned) = self.empty.try_recv() {
            self.take_back(returned);
        }
        let next = self.spare.pop().unwrap_or_default();
        let bytes = chunk.arena.len();
        let queued = QueuedChunk {
            chunk: std::mem::replace(chunk, next),
            bytes: metrics.queued(bytes),
        };
        self.full.send(queued).map_err(|_| gone())?;
        self.unreturned_bytes += bytes;
        while self.unreturned_bytes > QUEUE_BYTES {
            let returned = self.empty.recv().map_err(|_| gone())?;
            self.take_back(returned);
        }
        Ok(())
    }

    fn take_back(&mut self, Returned { chunk, bytes }: Returned) {
        self.unreturned_bytes = self.unreturned_bytes.saturating_sub(bytes);
        self.spare.push(chunk);
    }
}

impl Intake {
    /// Empties a chunk that was published and returns it to the encoder.
    pub(crate) fn give_back(&self, mut chunk: Chunk) {
        let bytes = chunk.arena.len();
        chunk.clear();
        // An encoder that has ended needs no more chunks.
        drop(self.empty.send(Returned { chunk, bytes }));
    }

    /// Returns the chunks that were handed over, until the encoder's end is dropped.
    #[cfg(test)]
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.full.iter().map(|queued| queued.chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_until_the_publisher_takes_them_or_a_session_that_failed_drops_them() {
        let metrics = Metrics::new().unwrap();
        let waiting = || {
            let families = metrics.registry.gather();
            let mut found = families
                .iter()
                .filter(|family| family.name() == "oplog_producer_queue_bytes");
            found.next().unwrap().get_metric()[0]
                .get_gauge()
                .get_value()
        };
        let chunk = || Chunk {
            arena: vec![0; 7],
            ..Chunk::default()
        };
        let Queues {
            mut handover,
            intake,
        } = queues();
        handover.hand_over(&mut chunk(), &metrics).unwrap();
        handover.hand_over(&mut chunk(), &metrics).unwrap();
        assert!((waiting() - 14.0).abs() < 0.1, "{}", waiting());
        drop(intake.full.recv().unwrap());
        assert!((waiting() - 7.0).abs() < 0.1, "{}", waiting());
        drop(intake);
        let refused = handover.hand_over(&mut chunk(), &metrics);
        assert!(matches!(refused, Err(ProducerError::Ended(_))));
        drop(handover);
        assert!(waiting().abs() < 0.1, "{}", waiting());
    }
}
