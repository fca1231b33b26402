//! A partition of a topic by name, as in requests to Kafka.

use rdkafka::TopicPartitionList;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The name of the topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: i32,
}

impl TopicPartition {
    /// Returns true if this is the partition of this topic with this number.
    pub(crate) fn is(&self, topic: &str, partition: i32) -> bool {
        self.topic == topic && self.partition == partition
    }
}

/// Makes the list of partitions for a request.
pub(crate) fn list<'n>(names: impl IntoIterator<Item = &'n TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for name in names {
        list.add_partition(&name.topic, name.partition);
    }
    list
}
