//! A topic as the cluster describes it.

use std::collections::BTreeMap;

use rdkafka::admin::ConfigResource;
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaRespErr;

use super::error::{KafkaFailure, with_right};

/// The settings of a topic. A field is `None` if the broker does not report it. Older brokers do
/// not report all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicSettings {
    /// The number of partitions.
    pub partitions: i32,
    /// The number of replicas of the first partition.
    pub replication_factor: usize,
    /// `retention.ms`; −1 means no limit.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; −1 means no limit.
    pub retention_bytes: Option<i64>,
    /// `cleanup.policy`.
    pub cleanup_policy: Option<String>,
    /// `message.timestamp.type`.
    pub timestamp_type: Option<String>,
    /// `message.timestamp.after.max.ms`, since Kafka 3.6.
    pub timestamp_after_max_ms: Option<i64>,
    /// `max.message.bytes`.
    pub max_message_bytes: Option<i64>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<i64>,
}

impl TopicSettings {
    pub(super) fn new(topic: TopicMetadata, resource: &ConfigResource) -> Self {
        let entries = resource.entry_map();
        let text = |name: &str| entries.get(name).and_then(|entry| entry.value.clone());
        let number = |name: &str| text(name).and_then(|value| value.parse().ok());
        Self {
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            cleanup_policy: text("cleanup.policy"),
            timestamp_type: text("message.timestamp.type"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            max_message_bytes: number("max.message.bytes"),
            min_insync_replicas: number("min.insync.replicas"),
        }
    }
}

/// The metadata of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct TopicMetadata {
    pub(super) partitions: i32,
    /// The number of partitions with a leader.
    pub(super) led: i32,
    pub(super) replication_factor: usize,
}

/// Returns the topics that exist. A topic without leaders has fewer `led` partitions or no
/// partitions at all.
pub(super) fn collect(
    metadata: &Metadata,
) -> Result<BTreeMap<String, TopicMetadata>, KafkaFailure> {
    let mut topics = BTreeMap::new();
    for topic in metadata.topics() {
        match topic.error() {
            None | Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => {
                topics.insert(topic.name().to_owned(), topic_metadata(topic));
            }
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            ) => {}
            Some(error) => {
                let name = topic.name();
                let source = KafkaError::MetadataFetch(error.into());
                let action = format!("reading the metadata of topic {name}");
                let action = with_right(action, &source, &format!("Describe on topic {name}"));
                return Err(KafkaFailure::Refused { action, source });
            }
        }
    }
    Ok(topics)
}

fn topic_metadata(topic: &MetadataTopic) -> TopicMetadata {
    let partitions = topic.partitions();
    let led = partitions
        .iter()
        .filter(|partition| partition.leader() >= 0)
        .count();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    TopicMetadata {
        partitions: count(partitions.len()),
        led: count(led),
        replication_factor: partitions
            .first()
            .map_or(0, |partition| partition.replicas().len()),
    }
}
