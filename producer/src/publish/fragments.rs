//! Records that are larger than their topic accepts: they are split into fragments, if that is
//! configured.
//!
//! Two kinds of records must stay whole. A barrier takes exactly one offset, because the offset of the
//! command after it is counted from it. Of the fragments of a record in the state topic, which is
//! compacted, Kafka would keep only the last one.

use std::ops::Range;

use oplog_relay_core::format::fragment::cut;

use super::delivery::cannot_be_split;
use super::headers::headers_of;
use super::{Oversize, Publisher, RECORD_OVERHEAD, unknown_topic};
use crate::encode::chunk::{Chunk, EncodedRecord, STATE_TOPIC};
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;

/// Minimum number of bytes that a topic must leave for a value so that records can be split. The
/// fragments of a large record would otherwise be too many.
const LEAST_ROOM: usize = 1024;

impl Publisher {
    /// Sends a record that [`Publisher::admit`] admitted, whole or in fragments.
    #[inline]
    pub(super) fn send_record(
        &mut self,
        chunk: &Chunk,
        record: &EncodedRecord,
    ) -> Result<(), ProducerError> {
        if self.oversize == Oversize::Split && record.topic != STATE_TOPIC {
            let room = self.room(chunk, record)?;
            if record.value.len() > room {
                return self.send_fragments(chunk, record, room);
            }
        }
        self.send_part(chunk, record, &record.value, None)
    }

    /// Returns an error if barriers would be split.
    pub(super) fn check_whole(
        &self,
        chunk: &Chunk,
        barriers: &[EncodedRecord],
    ) -> Result<(), ProducerError> {
        if self.oversize == Oversize::Stop {
            return Ok(());
        }
        for barrier in barriers {
            if barrier.value.len() > self.room(chunk, barrier)? {
                let found = self.topics.get(barrier.topic.0);
                let topic = found.ok_or_else(unknown_topic)?;
                let place = format!("{}[{}]", topic.name, barrier.partition);
                return Err(cannot_be_split(
                    &place,
                    barrier.value.len(),
                    topic.max_bytes,
                ));
            }
        }
        Ok(())
    }

    /// Returns the number of bytes that a record's value may have in its topic. Compression could
    /// allow a larger value, but its result is known too late.
    fn room(&self, chunk: &Chunk, record: &EncodedRecord) -> Result<usize, ProducerError> {
        let found = self.topics.get(record.topic.0);
        let topic = found.ok_or_else(unknown_topic)?;
        let key = record.key.as_ref().map_or(0, Range::len);
        let headers =
            headers_of(chunk, record).map(|header| header.name.len() + header.value.len());
        let room = topic
            .max_bytes
            .saturating_sub(key + headers.sum::<usize>() + RECORD_OVERHEAD);
        if room >= LEAST_ROOM || record.value.len() <= room {
            return Ok(room);
        }
        let key = record.key.as_ref().map(|key| chunk.bytes(key));
        let key = String::from_utf8_lossy(key.unwrap_or_default());
        Err(EntryFault::NoRoom {
            topic: topic.name.clone(),
            limit: topic.max_bytes,
            key: shorten(&key).to_owned(),
        }
        .into())
    }

    #[cold]
    fn send_fragments(
        &mut self,
        chunk: &Chunk,
        record: &EncodedRecord,
        room: usize,
    ) -> Result<(), ProducerError> {
        for (index, part) in cut(record.value.clone(), room).enumerate() {
            if index > 0 {
                self.admit(record)?;
            }
            self.send_part(chunk, record, &part.value, Some(part.fragment))?;
        }
        Ok(())
    }
}

/// Returns the start of a text, for messages.
fn shorten(text: &str) -> &str {
    const SHOWN: usize = 100;
    let end = (0..=SHOWN.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}
