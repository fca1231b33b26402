//! The position of a record: its topic, partition and offset.

use std::fmt;

use crate::topic_partition::TopicPartition;

/// The position of a record in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPosition {
    /// The topic and partition.
    pub name: TopicPartition,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TopicPartition { topic, partition } = &self.name;
        write!(
            f,
            "topic {topic}, partition {partition}, offset {}",
            self.offset
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_names_topic_partition_and_offset() {
        let topic = "cdc.a.b".to_owned();
        let position = RecordPosition {
            name: TopicPartition {
                topic,
                partition: 2,
            },
            offset: 7,
        };
        let text = "topic cdc.a.b, partition 2, offset 7";
        assert_eq!(position.to_string(), text);
    }
}
