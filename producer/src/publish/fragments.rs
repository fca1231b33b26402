//! Records that are larger than their topic accepts: they are split into fragments, if that is
//! configured.
//!
//! Two kinds of records must stay whole. A barrier takes exactly one offset, because the offset of the
//! command after it is counted from it; it is never larger than the room without which no record is
//! split. Of the fragments of a record in the state topic, which is compacted, Kafka would keep only the
//! last one, so such a record is always sent whole.

use std::ops::Range;

use oplog_relay_core::format::fragment::cut;

use super::headers::headers_of;
use super::{Oversize, Publisher, RECORD_OVERHEAD, unknown_topic};
use crate::encode::chunk::{Chunk, EncodedRecord, STATE_TOPIC};
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;

/// Minimum number of bytes that a topic must leave for a value so that records can be split. A
/// barrier must not be split, so there has to be room for a whole one.
const LEAST_ROOM: usize = 2048;

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

#[cfg(test)]
mod tests {
    use bson::doc;
    use oplog_relay_core::barrier::Barrier;
    use oplog_relay_core::document::Document;
    use oplog_relay_core::entry::Entry;
    use oplog_relay_core::position::{EntryId, Timestamp};

    use super::*;

    /// The longest names: 63 bytes for a database, 255 for a namespace, 249 for a topic.
    #[test]
    fn the_largest_barrier_fits_where_records_can_be_split() {
        let database = "d".repeat(63);
        let longest = |letter: &str| format!("{database}.{}", letter.repeat(255 - 64));
        let (from, to) = (longest("a"), longest("b"));
        let entry = doc! {
            "ts": bson::Timestamp { time: 1, increment: 1 }, "t": i64::MAX, "v": 2, "op": "c",
            "ns": format!("{database}.$cmd"), "wall": bson::DateTime::now(),
            "o": { "renameCollection": &from, "to": &to },
        };
        let entry = entry.to_vec().unwrap();
        let entry = Entry::parse(Document::new(&entry).unwrap()).unwrap();
        let id = EntryId {
            ts: Timestamp::new(1, 1),
            ord: u32::MAX,
        };
        let barrier = Barrier {
            command: id,
            ordered: true,
            passable: true,
            leader_topic: "t".repeat(249),
            leader_offset: i64::MAX,
            namespaces: Some(vec![from, to]),
            partitions: vec![],
        };
        let mut value = Vec::new();
        barrier.write_noop(&entry, &mut value);
        assert!(value.len() <= LEAST_ROOM, "{} bytes", value.len());
    }
}
