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

impl RecordPosition {
    /// Returns the position as the origin of a write.
    pub(crate) const fn origin(&self) -> Origin<'_> {
        Origin {
            partition: &self.name,
            offset: self.offset,
        }
    }
}

/// The position of the record from which a write was planned. An entry is identified by it, because
/// the entries of other programs may have the same identity in several partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The topic and partition.
    pub partition: &'a TopicPartition,
    /// The offset.
    pub offset: i64,
}

impl Origin<'static> {
    /// The origin of a write that belongs to no record.
    pub const NONE: Self = Self {
        partition: TopicPartition::NONE,
        offset: -1,
    };
}

impl Origin<'_> {
    pub(crate) fn position(&self) -> RecordPosition {
        RecordPosition {
            name: self.partition.clone(),
            offset: self.offset,
        }
    }
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
