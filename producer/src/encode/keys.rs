//! The keys of records.

use std::ops::Range;

use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::Format;
use oplog_relay_core::format::avro::{SchemaIds, write_avro_key};
use oplog_relay_core::format::debezium::write_debezium_key;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::key::{partition_for, write_key};

use super::{Encoder, damaged};
use crate::encode::chunk::{Chunk, TopicIndex};
use crate::error::ProducerError;

/// The key of a record, as a range of the chunk's arena, and its partition.
#[derive(Debug)]
pub(super) struct KeyedRecord {
    pub(super) key: Range<usize>,
    pub(super) partition: i32,
}

impl Encoder {
    /// Appends the key of an entry's document and selects its partition. Both are the same for all
    /// entries of the document.
    #[inline]
    pub(super) fn write_key(
        &self,
        entry: &Entry<'_>,
        topic: TopicIndex,
        partitions: u32,
        chunk: &mut Chunk,
    ) -> Result<KeyedRecord, ProducerError> {
        let start = chunk.arena.len();
        let id = entry.document_id();
        let id = id.map_err(|error| ProducerError::damaged(entry, &error))?;
        write_key(id, &mut chunk.arena).map_err(|error| damaged(entry, &error))?;
        let own_end = chunk.arena.len();
        match self.format {
            Format::Debezium(form) => {
                let key = chunk.arena.split_off(start);
                write_debezium_key(id, &key, form, self.name(topic), &mut chunk.arena)
                    .map_err(|error| damaged(entry, &error))?;
            }
            // This key contains the id of the schema, which may differ between registries. The
            // partition is selected by the document's own key, so that the document stays in its
            // partition.
            Format::Avro(_) | Format::ReaderAvro(_) => {
                let partition = choose(chunk.bytes(&(start..own_end)), partitions);
                let key = chunk.arena.split_off(start);
                write_avro_key(&key, self.schemas(topic).key, &mut chunk.arena);
                let key = start..chunk.arena.len();
                return Ok(KeyedRecord { key, partition });
            }
            Format::Raw
            | Format::Bson
            | Format::Json(_)
            | Format::ReaderJson(_)
            | Format::Oplog(_)
            | Format::Snapshot(_) => {}
        }
        let key = start..chunk.arena.len();
        let partition = choose(chunk.bytes(&key), partitions);
        Ok(KeyedRecord { key, partition })
    }

    /// Returns the origin of the records of a topic.
    #[inline]
    pub(super) fn origin(&self, topic: TopicIndex) -> Origin<'_> {
        Origin {
            topic: self.name(topic),
            source: &self.source,
            processed_at: self.place.processed_at,
            schemas: self.schemas(topic),
        }
    }

    /// Returns the ids of a topic's schemas.
    pub(super) fn schemas(&self, topic: TopicIndex) -> SchemaIds {
        let described = self.described.get(topic.0);
        described.map_or_else(SchemaIds::default, |described| described.schemas)
    }

    fn name(&self, topic: TopicIndex) -> &str {
        let described = self.described.get(topic.0);
        described.map_or("", |described| described.name.as_str())
    }
}

fn choose(key: &[u8], partitions: u32) -> i32 {
    i32::try_from(partition_for(key, partitions)).expect("the hash of a key has 31 bits")
}
