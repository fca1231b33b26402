//! The way of chunks from the encoder to the publisher and back, bounded in chunks and in bytes.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::encode::chunk::Chunk;
use crate::error::ProducerError;

/// Chunks that wait for the publisher.
const QUEUE_CHUNKS: usize = 2;
/// Bytes in chunks that the publisher has not given back, beyond which the encoder waits. Chunks of
/// usual sizes are far below it. A document of 16 MB can become 100 MB of JSON, and several of them
/// at a time would not fit into the memory that the program promises.
const QUEUE_BYTES: usize = 48 << 20;

/// The encoder's end.
#[derive(Debug)]
pub struct Handover {
    full: SyncSender<Chunk>,
    empty: Receiver<Returned>,
    /// Empty chunks to be filled again.
    spare: Vec<Chunk>,
    /// Bytes of chunks that the publisher has not given back.
    under_way: usize,
}

/// The publisher's end.
#[derive(Debug)]
pub struct Intake {
    pub(crate) full: Receiver<Chunk>,
    empty: Sender<Returned>,
}

/// A chunk on its way back.
#[derive(Debug)]
struct Returned {
    chunk: Chunk,
    /// Bytes that it had.
    bytes: usize,
}

/// Makes both ends.
#[must_use]
pub fn queues() -> (Handover, Intake) {
    let (full, full_end) = sync_channel(QUEUE_CHUNKS);
    // There are never more chunks than the other queue, its ends and one more have room for.
    let (empty_end, empty) = channel();
    let handover = Handover {
        full,
        empty,
        spare: Vec::new(),
        under_way: 0,
    };
    let intake = Intake {
        full: full_end,
        empty: empty_end,
    };
    (handover, intake)
}

impl Handover {
    /// Hands a full chunk to the publisher and leaves an empty one. Waits while too much is under
    /// way.
    ///
    /// # Errors
    /// [`ProducerError::Ended`] when the publisher is gone.
    pub fn hand_over(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        let gone = || ProducerError::Ended("publisher");
        while let Ok(returned) = self.empty.try_recv() {
            self.take_back(returned);
        }
        let next = self.spare.pop().unwrap_or_default();
        let bytes = chunk.arena.len();
        let sent = self.full.send(std::mem::replace(chunk, next));
        sent.map_err(|_| gone())?;
        self.under_way += bytes;
        while self.under_way > QUEUE_BYTES {
            let returned = self.empty.recv().map_err(|_| gone())?;
            self.take_back(returned);
        }
        Ok(())
    }

    fn take_back(&mut self, Returned { chunk, bytes }: Returned) {
        self.under_way = self.under_way.saturating_sub(bytes);
        self.spare.push(chunk);
    }
}

impl Intake {
    /// Empties a chunk that was published and gives it back.
    pub(crate) fn give_back(&self, mut chunk: Chunk) {
        let bytes = chunk.arena.len();
        chunk.clear();
        // An encoder that has ended needs no more chunks.
        drop(self.empty.send(Returned { chunk, bytes }));
    }

    /// The chunks that were handed over, until the other end is gone.
    #[cfg(test)]
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.full.iter()
    }
}
