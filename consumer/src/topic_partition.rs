//! A partition of a topic by its name, as requests to Kafka name it.

use rdkafka::TopicPartitionList;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

/// Makes a list of partitions for requests.
pub(crate) fn list<'n>(names: impl IntoIterator<Item = &'n TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for name in names {
        list.add_partition(&name.topic, name.partition);
    }
    list
}
