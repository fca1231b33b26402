//! A command for the publisher, which alone knows the offsets that the command contains.

use std::ops::Range;

use oplog_relay_core::barrier::{BARRIER_ORD, Barrier, TopicBarriers};
use oplog_relay_core::command::namespaces;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::Format;
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::position::EntryId;

use crate::encode::chunk::{Chunk, Destination, EncodedRecord, TopicIndex};
use crate::encode::record::{Written, write_single};
use crate::encode::router_headers::{About, RouterHeaders};
use crate::error::ProducerError;

/// A command that is published with its barriers.
#[derive(Debug, Clone)]
pub struct BarrierRequest {
    /// Identity of the command.
    pub id: EntryId,
    /// The entry's bytes, in the arena of its chunk.
    pub entry: Range<usize>,
    /// True if the entry was built from an operation of a transaction, or by the producer.
    pub built: bool,
    /// The topics of the command; the command is sent to partition 0 of the first topic.
    pub topics: Vec<BarrierTopic>,
    /// True if later writes of the collection all go to one partition; not set for a change of the
    /// routing table, which affects many collections.
    pub ordered: bool,
    /// True if only the leader's partition waits until the command has run.
    pub passable: bool,
    /// Source time of all of its records, in milliseconds.
    pub timestamp: i64,
    /// Format of the values.
    pub format: Format,
    /// The headers for routers.
    pub router_headers: RouterHeaders,
}

/// A topic of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierTopic {
    /// The topic.
    pub topic: TopicIndex,
    /// Its number of partitions.
    pub partitions: u32,
    /// The ids of its schemas.
    pub schemas: SchemaIds,
}

impl BarrierRequest {
    /// Encodes the barriers and the command into `out`. `entry` is the command's entry, `ends` the
    /// next offset of each partition of each topic, in the order of [`BarrierRequest::topics`], and
    /// `names` the topics' names.
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
        let leader = *names.first().expect("a command has at least one topic");
        let leader_offset = *(ends.first().and_then(|ends| ends.first()))
            .expect("a topic has at least one partition");
        let barrier = Barrier {
            command: self.id,
            ordered: self.ordered,
            passable: self.passable,
            leader_topic: leader.to_owned(),
            leader_offset,
            namespaces: Some(namespaces(&entry)?),
            partitions: names
                .iter()
                .zip(ends)
                .map(|(name, ends)| TopicBarriers::new(*name, ends.clone()))
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
        // No format with barriers contains the time of processing.
        let origin = |schemas| Origin {
            topic: "",
            source,
            processed_at: 0,
            schemas,
        };
        for BarrierTopic {
            topic,
            partitions,
            schemas,
        } in &self.topics
        {
            let origin = origin(*schemas);
            for partition in
                0..i32::try_from(*partitions).expect("Kafka numbers partitions with 31 bits")
            {
                let to = Destination {
                    topic: *topic,
                    partition,
                };
                self.push(to, &noop, barrier_id, &origin, out)?;
            }
        }
        // The command comes last: in a new topic it waits until the barrier before it in partition
        // 0 is delivered, and the barriers of the other partitions need not wait for that.
        let leader = (self.topics.first()).expect("a command has at least one topic");
        let to = Destination {
            topic: leader.topic,
            partition: 0,
        };
        self.push(to, &command, self.id, &origin(leader.schemas), out)
    }

    fn push(
        &self,
        to: Destination,
        entry: &[u8],
        id: EntryId,
        origin: &Origin<'_>,
        out: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let entry = Document::new(entry).map_err(ProducerError::undecodable)?;
        let entry = Entry::parse(entry)?;
        let Written { header, value } =
            write_single(self.format, &entry, id, self.built, origin, &mut out.arena)?;
        let about = About {
            entry: &entry,
            id,
            key: None,
            format: self.format,
            source: origin.source,
        };
        let router_headers = self.router_headers.write(&about, out)?;
        out.records.push(EncodedRecord {
            topic: to.topic,
            partition: to.partition,
            timestamp: self.timestamp,
            key: None,
            header,
            router_headers,
            value,
        });
        Ok(())
    }
}
