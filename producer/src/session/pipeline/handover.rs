//! The queues of chunks from the encoder to the publisher and back, bounded in chunks and in bytes.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::encode::chunk::Chunk;
use crate::error::ProducerError;

/// Maximum number of chunks that wait for the publisher.
const QUEUE_CHUNKS: usize = 2;
/// Number of bytes in chunks that the publisher has not returned, beyond which the encoder waits.
/// Chunks of usual sizes are far below it. A document of 16 MB can become 100 MB of JSON, and several
/// of them at once would take too much memory.
const QUEUE_BYTES: usize = 48 << 20;

/// The encoder's end of the queues.
#[derive(Debug)]
pub struct Handover {
    full: SyncSender<Chunk>,
    empty: Receiver<Returned>,
    /// Empty chunks for reuse.
    spare: Vec<Chunk>,
    /// Number of bytes in chunks that the publisher has not returned.
    unreturned_bytes: usize,
}

/// The publisher's end of the queues.
#[derive(Debug)]
pub struct Intake {
    pub(crate) full: Receiver<Chunk>,
    empty: Sender<Returned>,
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
    pub fn hand_over(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        let gone = || ProducerError::Ended("the publisher ended");
        while let Ok(returned) = self.empty.try_recv() {
            self.take_back(returned);
        }
        let next = self.spare.pop().unwrap_or_default();
        let bytes = chunk.arena.len();
        let sent = self.full.send(std::mem::replace(chunk, next));
        sent.map_err(|_| gone())?;
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
        self.full.iter()
    }
}
