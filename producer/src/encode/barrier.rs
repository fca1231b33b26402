//! A command for the publisher, which alone knows the offsets that the command contains.

use std::ops::Range;

use oplog_relay_core::barrier::{BARRIER_ORD, Barrier};
use oplog_relay_core::command::namespaces;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::Format;
use oplog_relay_core::format::debezium::Origin;
use oplog_relay_core::position::EntryId;

use crate::encode::chunk::{Chunk, EncodedRecord, TopicIndex};
use crate::encode::record::write_single;
use crate::error::ProducerError;

/// A command that is published with its barriers.
#[derive(Debug, Clone)]
pub struct BarrierRequest {
    /// Identity of the command.
    pub id: EntryId,
    /// The entry's bytes, in the arena of its chunk.
    pub entry: Range<usize>,
    /// True if the entry was built from a transaction's operation.
    pub built: bool,
    /// The topics of the command and their numbers of partitions; partition 0 of the first one leads.
    pub topics: Vec<(TopicIndex, u32)>,
    /// True if later writes of the collection all go to one partition; not set for a change of the
    /// routing table, which affects many collections.
    pub ordered: bool,
    /// True if the partitions do not wait for the command.
    pub passable: bool,
    /// Source time of all of its records, in milliseconds.
    pub timestamp: i64,
    /// Format of the values.
    pub format: Format,
}

impl BarrierRequest {
    /// Encodes barriers and command into `out`. `entry` is the command's entry, `ends` the next offset
    /// of each partition of each topic, in the order of [`BarrierRequest::topics`], and `names` the
    /// topics' names.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the entry is damaged.
    pub fn write(
        &self,
        entry: &[u8],
        source: &str,
        names: &[&str],
        ends: &[Vec<i64>],
        out: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let entry = Document::new(entry).map_err(ProducerError::undecodable)?;
        let entry = Entry::parse(entry)?;
        let barrier = Barrier {
            command: self.id,
            ordered: self.ordered,
            passable: self.passable,
            leader_topic: names.first().copied().unwrap_or_default().to_owned(),
            leader_offset: ends
                .first()
                .and_then(|ends| ends.first())
                .copied()
                .unwrap_or_default(),
            namespaces: Some(namespaces(&entry)?),
            partitions: names
                .iter()
                .zip(ends)
                .map(|(name, ends)| ((*name).to_owned(), ends.clone()))
                .collect(),
        };
        let mut noop = Vec::new();
        barrier.write_noop(&entry, &mut noop);
        let mut command = Vec::new();
        barrier
            .write_command(&entry, &mut command)
            .map_err(ProducerError::undecodable)?;
        let barrier_id = EntryId {
            ord: BARRIER_ORD,
            ..self.id
        };
        // No format with barriers records when it was written.
        let origin = Origin {
            topic: "",
            source,
            processed_at: 0,
        };
        for (topic, partitions) in &self.topics {
            for partition in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
                self.push(*topic, partition, (&noop, barrier_id), &origin, out)?;
            }
        }
        // The command comes last: in a new topic it waits for the delivery of the barriers.
        let leader = self.topics.first();
        leader.map_or(Ok(()), |(topic, _)| {
            self.push(*topic, 0, (&command, self.id), &origin, out)
        })
    }

    fn push(
        &self,
        topic: TopicIndex,
        partition: i32,
        (entry, id): (&[u8], EntryId),
        origin: &Origin<'_>,
        out: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let entry = Document::new(entry).map_err(ProducerError::undecodable)?;
        let entry = Entry::parse(entry)?;
        let (header, value) =
            write_single(self.format, &entry, id, self.built, origin, &mut out.arena)?;
        out.records.push(EncodedRecord {
            topic,
            partition,
            timestamp: self.timestamp,
            key: None,
            header,
            value,
        });
        Ok(())
    }
}
