//! The reasons why a topic must not be written to.

use oplog_relay_core::format::Format;
use oplog_relay_core::state::OrderRule;
use oplog_relay_runtime::exit::ExitCode;

/// The remedy for records that Kafka has lost.
const REMEDY: &str = "Entries are missing that a restart cannot restore. Start again under another \
    --topic-prefix with a new copy of the data";

/// The reason why a topic must not be written to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The saved routes were made by another rule.
    #[error(
        "the saved routes of this source were made with --order {saved}, for example that of {ns} to \
         topic {topic}; with --order {rule} later entries would overtake earlier ones in other partitions. \
         Give --order {saved}, or change to --order {rule} behind barriers with --change-routing, or start \
         under another --topic-prefix"
    )]
    OtherOrder {
        /// The rule of the saved route.
        saved: OrderRule,
        /// The configured rule.
        rule: OrderRule,
        /// Namespace of the route.
        ns: String,
        /// Topic of the route.
        topic: String,
    },
    /// Another source owns the topic.
    #[error(
        "topic {topic} belongs to source {owner:?}: two sources cannot share a topic. Give this source its \
         own --topic-prefix, or exclude the namespace"
    )]
    OtherOwner {
        /// The topic.
        topic: String,
        /// The source that owns it.
        owner: String,
    },
    /// A partition ends at a lower offset than at the start of the last session.
    #[error(
        "partition {partition} of topic {topic} ends at offset {now}, but ended at {before} at the start of \
         the last session: the topic was deleted and created again, or records that Kafka had \
         acknowledged were lost. {REMEDY}"
    )]
    EndWentBack {
        /// The topic.
        topic: String,
        /// The partition.
        partition: usize,
        /// Its end offset at the start of the last session.
        before: i64,
        /// Its end offset now.
        now: i64,
    },
    /// A topic is empty although this source has written to it.
    #[error(
        "topic {topic} never held a record, although this source has written to it: it was deleted and \
         created again. {REMEDY}"
    )]
    Recreated {
        /// The topic.
        topic: String,
    },
    /// A topic of the routing table does not exist.
    #[error(
        "topic {topic} is in the routing table but not in the cluster: it was deleted, and a restart \
         cannot restore its entries. Start under another --topic-prefix"
    )]
    Deleted {
        /// The topic.
        topic: String,
    },
    /// The topic has records for other readers than the configured format.
    #[error(
        "topic {topic} contains {saved}, but --format is {format}: at least one of them is for readers \
         only, and a topic cannot lose its barriers, change its keys, or switch between changes and \
         latest states of documents. Start under another --topic-prefix"
    )]
    OtherAudience {
        /// The topic.
        topic: String,
        /// Its format.
        saved: Format,
        /// The configured format.
        format: Format,
    },
    /// The topic has another format.
    #[error(
        "topic {topic} contains {saved}, but --format is {format}; give the former, or change to the latter \
         with --change-routing, or start under another --topic-prefix"
    )]
    OtherFormat {
        /// The topic.
        topic: String,
        /// Its format.
        saved: Format,
        /// The configured format.
        format: Format,
    },
    /// The number of partitions of the topic has changed.
    #[error(
        "topic {topic} had {saved} partitions and has {now} now: entries of one document would lose their \
         order. Start under another --topic-prefix"
    )]
    PartitionsChanged {
        /// The topic.
        topic: String,
        /// The number of partitions when it was first used.
        saved: u32,
        /// The number of partitions now.
        now: i64,
    },
    /// A topic of latest states is not only compacted.
    #[error(
        "topic {topic} has cleanup.policy={policy}: the topics of --topic-mode snapshot must keep the last \
         record of each document. Set cleanup.policy=compact"
    )]
    NotCompacted {
        /// The topic.
        topic: String,
        /// Its cleanup.policy.
        policy: String,
    },
    /// A topic of changes is compacted.
    #[error(
        "topic {topic} has cleanup.policy=compact: compaction would delete updates. Set \
         cleanup.policy=delete, or give --topic-mode snapshot under another --topic-prefix"
    )]
    Compacted {
        /// The topic.
        topic: String,
    },
    /// The broker replaces the times of records.
    #[error(
        "topic {topic} has message.timestamp.type=LogAppendTime: source times would be lost. Set \
         message.timestamp.type=CreateTime"
    )]
    LogAppendTime {
        /// The topic.
        topic: String,
    },
    /// The broker refuses records whose time is slightly ahead of its clock.
    #[error(
        "topic {topic} has message.timestamp.after.max.ms={limit}: entries of a source whose clock is \
         slightly ahead would be refused. Set it to 3600000 or more"
    )]
    FutureRefused {
        /// The topic.
        topic: String,
        /// The limit in milliseconds.
        limit: i64,
    },
    /// Kafka would delete the oldest entries.
    #[error(
        "topic {topic} has retention.ms={retention}, but the oldest entry to be sent is {age} ms old: Kafka \
         would delete it soon after arrival. Set retention.ms=-1, and limit the topic with retention.bytes"
    )]
    Retention {
        /// The topic.
        topic: String,
        /// Its retention.ms.
        retention: i64,
        /// The age of the oldest entry in milliseconds.
        age: i64,
    },
    /// An internal topic has a setting with which it would lose records.
    #[error(
        "topic {topic} {setting}. It contains the state that this source needs after a restart"
    )]
    Internal {
        /// The topic.
        topic: String,
        /// The setting, with the remedy.
        setting: InternalSetting,
    },
}

/// A setting with which an internal topic would lose records, as a predicate, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InternalSetting {
    /// It has several partitions.
    #[error(
        "has {partitions} partitions and must have one: create it again with one partition, or delete it if \
         nothing was ever produced under this --topic-prefix"
    )]
    Partitions {
        /// The number of partitions.
        partitions: i32,
    },
    /// Kafka deletes its records.
    #[error(
        "has cleanup.policy={policy} and {limit}={value}, so Kafka would delete its records. Set \
         cleanup.policy=compact (kafka-configs --alter --entity-type topics --entity-name {topic} \
         --add-config cleanup.policy=compact)"
    )]
    Deletes {
        /// The topic.
        topic: String,
        /// Its cleanup.policy.
        policy: String,
        /// The setting that limits it.
        limit: &'static str,
        /// The value of that setting.
        value: i64,
    },
    /// The broker refuses records whose time is slightly ahead of its clock.
    #[error(
        "has message.timestamp.after.max.ms={limit}, so records of a source whose clock is slightly ahead \
         would be refused. Set it to 3600000 or more"
    )]
    FutureRefused {
        /// The limit in milliseconds.
        limit: i64,
    },
}

impl TopicError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
