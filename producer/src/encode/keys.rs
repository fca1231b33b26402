//! The keys of records.

use std::ops::Range;

use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::Format;
use oplog_relay_core::format::debezium::{Origin, write_debezium_key};
use oplog_relay_core::key::write_key;

use super::{Encoder, damaged};
use crate::encode::chunk::{Chunk, TopicIndex};
use crate::error::ProducerError;

impl Encoder {
    /// Appends the key of an entry's document, which is the same for all entries of the document.
    #[inline]
    pub(super) fn write_key(
        &self,
        entry: &Entry<'_>,
        topic: TopicIndex,
        chunk: &mut Chunk,
    ) -> Result<Range<usize>, ProducerError> {
        let start = chunk.arena.len();
        let id = entry.document_id();
        let id = id.map_err(|error| ProducerError::damaged(entry, &error))?;
        write_key(id, &mut chunk.arena).map_err(|error| damaged(entry, &error))?;
        if let Format::Debezium(form) = self.format {
            let key = chunk.arena.split_off(start);
            write_debezium_key(id, &key, form, self.name(topic), &mut chunk.arena)
                .map_err(|error| damaged(entry, &error))?;
        }
        Ok(start..chunk.arena.len())
    }

    /// Returns where and when the records of a topic are encoded.
    #[inline]
    pub(super) fn origin(&self, topic: TopicIndex) -> Origin<'_> {
        Origin {
            topic: self.name(topic),
            source: &self.source,
            processed_at: self.place.processed_at,
        }
    }

    fn name(&self, topic: TopicIndex) -> &str {
        self.names.get(topic.0).map_or("", String::as_str)
    }
}
