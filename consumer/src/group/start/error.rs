//! The reasons why a group cannot start, or cannot continue, at its offsets.

use oplog_relay_runtime::config::Start;
use oplog_relay_runtime::exit::ExitCode;

use super::remainder::{Remainder, describe, shown};
use crate::topic_partition::TopicPartition;

/// The causes of lost records, and the remedies.
const REMEDIES: &str = "(retention, a size limit, or the topic was created again). To continue, copy the \
    source to the target again and start a new --group with --start now; or, if the missing entries do \
    not matter, stop all members and reset the group to one time with `kafka-consumer-groups \
    --reset-offsets --to-datetime` for all topics that it reads";

/// The reason why a group cannot start, or cannot continue, at its offsets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The records after the committed offset of a partition were removed.
    #[error(
        "topic {}, partition {}: group {group} has committed offset {committed}, but the log now \
         begins at {low}: the records in between were removed {REMEDIES}",
        name.topic, name.partition
    )]
    Removed {
        /// The group.
        group: String,
        /// The partition.
        name: TopicPartition,
        /// The offset that the group has committed.
        committed: i64,
        /// The first offset that still exists.
        low: i64,
    },
    /// The group has no committed offset for a partition whose first records were removed.
    #[error(
        "topic {}, partition {}: group {group} has no committed offset, but the log begins at {low}: \
         the group's offset expired, or records were removed before it read them {REMEDIES}",
        name.topic, name.partition
    )]
    Unread {
        /// The group.
        group: String,
        /// The partition.
        name: TopicPartition,
        /// The first offset that still exists.
        low: i64,
    },
    /// Records were removed while the group was reading, and it is not known from which partition.
    #[error(
        "Kafka no longer has the next records of a partition of group {group}: they were removed \
         while the group was reading the partition"
    )]
    RemovedWhileRead {
        /// The group.
        group: String,
    },
    /// A group without committed offsets has run before.
    #[error(
        "group {group} has no committed offsets for the topics {topics}, but it is not new: {traces}. \
         Either Kafka removed its offsets some time after its last member left \
         (offsets.retention.minutes, 7 days by default), or a user deleted them. Starting at \
         --start {start} could skip entries. To continue where the group stopped, set its offsets to a \
         time shortly before that (`kafka-consumer-groups --reset-offsets --to-datetime` for all of \
         these topics; applying entries again is harmless). To start at --start anyway, use \
         --start-again once"
    )]
    NotNew {
        /// The group.
        group: String,
        /// The topics that the group reads, as the operator named them.
        topics: String,
        /// The evidence of the earlier run.
        traces: Traces,
        /// The configured start.
        start: Start,
    },
    /// Kafka has removed records with which a new group has to start.
    #[error(
        "group {group} is new, but Kafka no longer has all records from --start on (retention, a \
         size limit, or deleted records): {}. A target that is filled from the remaining records \
         would be incomplete. To continue, do one of the following: begin with --start now, and then \
         copy the collections again with `oplog-producer full-sync`; or restore a backup of the \
         source that was taken at {second} or later into the target, and begin with --start at the \
         time of the backup; or, if the missing documents do not matter, use --allow-missing-records, \
         with which all partitions begin at {second}",
        describe(missing), second = shown(*whole_since)
    )]
    Incomplete {
        /// The group.
        group: String,
        /// The partitions without their first records.
        missing: Vec<Remainder>,
        /// The first source second from which every partition has all of its records.
        whole_since: i64,
    },
    /// Kafka has removed records of another program with which a new group has to start.
    #[error(
        "group {group} is new, but Kafka no longer has all records from --start on (retention, a size \
         limit, or deleted records): {}. A target that is filled from the remaining records would be \
         incomplete, unless it already has the documents. To continue, copy the source into the target \
         with another program (mongodump and mongorestore) and begin with --start at a time before \
         the copy; or, if the target has the documents or they do not matter, use \
         --allow-missing-records, with which all partitions begin at {}",
        describe(missing), shown(*whole_since)
    )]
    ForeignIncomplete {
        /// The group.
        group: String,
        /// The partitions without their first records.
        missing: Vec<Remainder>,
        /// The first source second from which every partition has all of its records.
        whole_since: i64,
    },
}

/// The evidence that a group has written to its destination, as a clause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Traces {
    /// The catalog of the target has records of the group.
    #[error("the catalog of the target (oplog_relay.catalog) has records of it")]
    Catalog,
    /// The output file has lines.
    #[error("the file {file} already has lines (give a new group a file of its own)")]
    Lines {
        /// The path of the file.
        file: String,
    },
}

impl StartError {
    /// Returns the error for a partition whose next records were removed.
    #[must_use]
    pub fn lost(group: &str, name: &TopicPartition, committed: Option<i64>, low: i64) -> Self {
        let (group, name) = (group.to_owned(), name.clone());
        match committed {
            Some(committed) => Self::Removed {
                group,
                name,
                committed,
                low,
            },
            None => Self::Unread { group, name, low },
        }
    }

    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::OffsetsLost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(topic: &str, partition: i32) -> TopicPartition {
        let topic = topic.to_owned();
        TopicPartition { topic, partition }
    }

    #[test]
    fn a_lost_offset_is_reported_with_its_partition_and_the_remedy() {
        let error = StartError::lost("g", &name("cdc.a.b", 3), Some(5), 9);
        let text = error.to_string();
        for part in [
            "cdc.a.b",
            "partition 3",
            "offset 5",
            "begins at 9",
            "--reset-offsets",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let unread = StartError::lost("g", &name("cdc.a.b", 3), None, 9);
        assert!(unread.to_string().contains("has no committed offset"));
    }

    #[test]
    fn a_refusal_names_partitions_times_and_remedies() {
        let missing = (0..10).map(|partition| Remainder {
            name: name("cdc.shop.a", partition),
            low: 350,
            second: Some(1_700_000_000),
        });
        let error = StartError::Incomplete {
            group: "g".to_owned(),
            missing: missing.collect(),
            whole_since: 1_700_000_001,
        };
        let text = error.to_string();
        for part in [
            "group g",
            "topic cdc.shop.a, partition 7 begins at offset 350, 2023-11-14T22:13:20Z",
            "and 2 more partitions",
            "--allow-missing-records",
            "begin at 2023-11-14T22:13:21Z",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
