//! Records of the state topic: routes, topics and the source, written ahead of the first record that
//! depends on them.

use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::state::{Order, TopicRecord};
use serde::Serialize;

use crate::encode::barrier::BarrierTopic;
use crate::encode::chunk::{Chunk, EncodedRecord, NewTopic, STATE_TOPIC, TopicIndex};
use crate::encode::{DescribedTopic, Encoder, KnownTopic};
use crate::error::ProducerError;
use crate::prepare::route::{NewRoute, RouteChange, Target};

impl Encoder {
    /// Saves routes that have changed, and removes those that have ended.
    pub(super) fn save_routes(
        &self,
        changes: &[RouteChange],
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        for change in changes {
            let key = format!("route/{}", change.name);
            match &change.record {
                Some(record) => write_state_record(&key, record, self.place.stamp, chunk)?,
                None => write_state(&key, &[], self.place.stamp, chunk),
            }
        }
        Ok(())
    }

    /// Makes sure that the topic of a new route exists, and saves both in the state topic, ahead of the
    /// first record that depends on them.
    pub(super) fn learn(
        &mut self,
        entry: &Entry<'_>,
        new: &NewRoute,
        chunk: &mut Chunk,
    ) -> Result<Target, ProducerError> {
        let KnownTopic {
            index: topic,
            partitions,
        } = self.topic(&new.record.topic, chunk)?;
        let target = match (entry.operation, new.record.order) {
            (Operation::Command, _) => Target::First(topic),
            (_, Order::Id) => Target::Keyed { topic, partitions },
            // All documents go to partition 0, as if the topic had one partition.
            (_, Order::Collection) => Target::Keyed {
                topic,
                partitions: 1,
            },
        };
        if self.router.add(entry, new, target) {
            let key = format!("route/{}", new.name);
            write_state_record(&key, &new.record, self.place.stamp, chunk)?;
        }
        Ok(target)
    }

    /// Returns a topic and its number of partitions. A topic that is used for the first time is
    /// created if it does not exist, and saved.
    pub(super) fn topic(
        &mut self,
        name: &str,
        chunk: &mut Chunk,
    ) -> Result<KnownTopic, ProducerError> {
        if let Some(known) = self.indexes.get(name) {
            return Ok(*known);
        }
        self.open_state(chunk)?;
        let saved = self.router.state().topics.get(name).cloned();
        let record = self.topics.ensure(name, saved.as_ref(), self.format)?;
        let schemas = self.topics.schemas(name)?;
        let topic = DescribedTopic {
            name: name.to_owned(),
            schemas,
        };
        let known = self.index(topic, record.partitions, saved.is_none(), chunk);
        if saved.as_ref() != Some(&record) {
            self.router
                .state_mut()
                .topics
                .insert(name.to_owned(), record.clone());
            write_topic(name, &record, self.place.stamp, chunk)?;
        }
        Ok(known)
    }

    /// Returns a topic in which a command has barriers.
    pub(super) fn barrier_topic(
        &mut self,
        name: &str,
        chunk: &mut Chunk,
    ) -> Result<BarrierTopic, ProducerError> {
        let KnownTopic { index, partitions } = self.topic(name, chunk)?;
        Ok(BarrierTopic {
            topic: index,
            partitions,
            schemas: self.schemas(index),
        })
    }

    /// Adds the state topic as the first topic, and the source's record if it has to be saved.
    pub(super) fn open_state(&mut self, chunk: &mut Chunk) -> Result<(), ProducerError> {
        if self.indexes.is_empty() {
            let state_topic = self.topics.state_topic().to_owned();
            let topic = DescribedTopic {
                name: state_topic,
                schemas: SchemaIds::default(),
            };
            self.index(topic, 1, false, chunk);
        }
        match self.unsaved.identity.take() {
            Some(identity) => write_state_record("source", &identity, self.place.stamp, chunk),
            None => Ok(()),
        }
    }

    /// Gives a topic the next index.
    fn index(
        &mut self,
        topic: DescribedTopic,
        partitions: u32,
        is_claimed_here: bool,
        chunk: &mut Chunk,
    ) -> KnownTopic {
        let known = KnownTopic {
            index: TopicIndex(self.indexes.len()),
            partitions,
        };
        let name = topic.name.clone();
        self.indexes.insert(name.clone(), known);
        self.described.push(topic);
        let max_bytes = self.topics.max_bytes(&name);
        self.frames.add_topic(partitions, max_bytes);
        chunk.new_topics.push(NewTopic {
            max_bytes,
            is_claimed_here,
            existed: self.topics.existed(&name),
            name,
        });
        known
    }
}

/// Writes the record of a topic.
pub(super) fn write_topic(
    name: &str,
    record: &TopicRecord,
    timestamp: i64,
    chunk: &mut Chunk,
) -> Result<(), ProducerError> {
    write_state_record(&format!("topic/{name}"), record, timestamp, chunk)
}

fn write_state_record(
    key: &str,
    record: &impl Serialize,
    timestamp: i64,
    chunk: &mut Chunk,
) -> Result<(), ProducerError> {
    let value =
        serde_json::to_vec(record).expect("a record of the state has only what JSON can express");
    write_state(key, &value, timestamp, chunk);
    Ok(())
}

/// Writes a key of the state topic; an empty value deletes it.
pub(crate) fn write_state(key: &str, value: &[u8], timestamp: i64, chunk: &mut Chunk) {
    let start = chunk.arena.len();
    chunk.arena.extend_from_slice(key.as_bytes());
    let middle = chunk.arena.len();
    chunk.arena.extend_from_slice(value);
    let end = chunk.arena.len();
    chunk.records.push(EncodedRecord {
        topic: STATE_TOPIC,
        partition: 0,
        timestamp,
        key: Some(start..middle),
        header: None,
        router_headers: 0..0,
        value: middle..end,
    });
}
