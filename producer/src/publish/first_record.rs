//! The first records to partitions that do not know this producer: together, but alone in each.

use std::time::Instant;

use super::Publisher;
use crate::encode::chunk::{Chunk, EncodedRecord};
use crate::error::ProducerError;

impl Publisher {
    /// Sends the records of a chunk, in order per partition. Before a first record is waited for, the
    /// chunk's first records to other new partitions are sent too: with many partitions each would
    /// be waited for otherwise.
    pub(crate) fn send_records(&mut self, chunk: &Chunk) -> Result<(), ProducerError> {
        // Indexes of records that were sent before their turn.
        let mut early = Vec::new();
        for (index, record) in chunk.records.iter().enumerate() {
            if !early.is_empty() && early.binary_search(&index).is_ok() {
                continue;
            }
            if !self.admits(record) {
                self.send_firsts(chunk, index, &mut early)?;
                self.admit(record)?;
            }
            self.send_record(chunk, record)?;
        }
        Ok(())
    }

    #[cold]
    fn send_firsts(
        &mut self,
        chunk: &Chunk,
        from: usize,
        early: &mut Vec<usize>,
    ) -> Result<(), ProducerError> {
        for (index, record) in chunk.records.iter().enumerate().skip(from) {
            if self.known.is_new(record.topic, record.partition) && self.admits(record) {
                self.send_record(chunk, record)?;
                early.push(index);
            }
        }
        early.sort_unstable();
        Ok(())
    }

    /// Waits where a record would be the second one to a partition that does not know this producer.
    /// Then it counts as sent.
    pub(crate) fn admit(&mut self, record: &EncodedRecord) -> Result<(), ProducerError> {
        while !self.admits(record) {
            self.drain()?;
        }
        Ok(())
    }

    #[inline]
    fn admits(&mut self, record: &EncodedRecord) -> bool {
        let began = self.begun.unwrap_or_else(Instant::now);
        self.known.admits(record.topic, record.partition, began)
    }
}
