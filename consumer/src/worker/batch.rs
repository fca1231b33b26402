//! The input of a sink: entries of one partition, in order.

use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;

use crate::topic_partition::TopicPartition;

/// An entry and its place in the source and in Kafka.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    /// The offset of the record that contains it.
    pub offset: i64,
    /// Its identity in the source.
    pub id: EntryId,
    /// The entry.
    pub entry: Entry<'a>,
}

/// Entries of one partition, in order.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Name of the source that owns the topic.
    pub source: &'a str,
    /// The entries, without the skipped ones.
    pub entries: &'a [Located<'a>],
}

impl Batch<'_> {
    pub(crate) fn partition(&self) -> TopicPartition {
        TopicPartition {
            topic: self.topic.to_owned(),
            partition: self.partition,
        }
    }
}
