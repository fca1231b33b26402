//! A partition of a topic, identified by the topic's name, as in requests to Kafka.

use rdkafka::TopicPartitionList;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The name of the topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: i32,
}

impl TopicPartition {
    /// A placeholder for writes that are planned without a partition, such as those of a repair.
    pub const NONE: &'static Self = &Self {
        topic: String::new(),
        partition: 0,
    };

    /// Returns true if this is the given partition of the given topic.
    pub(crate) fn is(&self, topic: &str, partition: i32) -> bool {
        self.topic == topic && self.partition == partition
    }
}

/// Returns the list of partitions for a request.
pub(crate) fn list<'n>(names: impl IntoIterator<Item = &'n TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for name in names {
        list.add_partition(&name.topic, name.partition);
    }
    list
}
