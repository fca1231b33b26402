//! First records of new partitions. A partition gets no second record before the first one is
//! delivered (`known_partitions` explains why), but the first records of several partitions are
//! sent together.

use std::time::Instant;

use super::Publisher;
use crate::encode::chunk::{Chunk, EncodedRecord};
use crate::error::ProducerError;

impl Publisher {
    /// Sends the records of a chunk, in order per partition. Before it waits for a first record, it
    /// also sends the chunk's first records to other new partitions; otherwise each of many partitions
    /// would need its own wait.
    pub(crate) fn send_records(&mut self, chunk: &Chunk) -> Result<(), ProducerError> {
        // Indexes of records that were sent ahead of earlier records of the chunk.
        let mut early = Vec::new();
        for (index, record) in chunk.records.iter().enumerate() {
            if !early.is_empty() && early.binary_search(&index).is_ok() {
                continue;
            }
            if !self.admits(record) {
                self.send_first_records(chunk, index, &mut early)?;
                self.admit(record)?;
            }
            self.send_record(chunk, record)?;
        }
        Ok(())
    }

    #[cold]
    fn send_first_records(
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

    /// Waits if a record would be the second one to a partition in which the broker has no state of
    /// this producer. The record counts as sent afterwards.
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
