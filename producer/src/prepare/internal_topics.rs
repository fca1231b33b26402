//! The two internal topics of a source. They are created if they are missing, and refused if they
//! have several partitions, or settings with which Kafka would delete or refuse their records.

use oplog_relay_core::topic::{position_topic, state_topic};
use oplog_relay_runtime::kafka::{Admin, NewTopicShape, TopicSettings};

use crate::error::ProducerError;
use crate::prepare::topics::error::InternalSetting;
use crate::prepare::topics::error::TopicError;
use crate::prepare::topics::{self, CLOCK_MARGIN_MS};
use crate::publish::MAX_RECORD_BYTES;

/// The largest record batch, in bytes, that each internal topic of a source accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InternalLimits {
    /// The limit of the position topic.
    pub position: usize,
    /// The limit of the state topic.
    pub state: usize,
}

/// Creates the internal topics of a source if they are missing, and checks the settings of both. Returns
/// their limits.
///
/// # Errors
/// [`TopicError::Internal`] for a topic that is not suitable; [`ProducerError::KafkaFailure`].
pub async fn ensure_internal_topic(
    admin: &Admin,
    prefix: &str,
    source: &str,
    replication_factor: i32,
) -> Result<InternalLimits, ProducerError> {
    let names = [position_topic(prefix, source), state_topic(prefix, source)];
    for name in &names {
        if admin.partitions(name).await?.is_none() {
            let shape = NewTopicShape {
                name,
                partitions: 1,
                replication_factor,
            };
            let wanted = topics::internal_settings();
            let settings = admin.accepted_settings(shape, &wanted).await?;
            topics::create(admin, name, 1, replication_factor, &settings).await?;
        }
    }
    let found = admin
        .describe_topics(&names.each_ref().map(String::as_str))
        .await?;
    for (name, settings) in &found {
        check(name, settings)?;
    }
    let limit = |name: &String| found.get(name).map_or(MAX_RECORD_BYTES, topics::limit);
    let [position, state] = names.each_ref().map(limit);
    Ok(InternalLimits { position, state })
}

fn check(name: &str, settings: &TopicSettings) -> Result<(), TopicError> {
    let refuse = |setting| {
        let topic = name.to_owned();
        Err(TopicError::Internal { topic, setting })
    };
    if settings.partitions != 1 {
        let partitions = settings.partitions;
        return refuse(InternalSetting::Partitions { partitions });
    }
    let policy = settings.cleanup_policy.as_deref().unwrap_or("compact");
    let deletes = policy.split(',').any(|part| part.trim() == "delete");
    for (limit, value) in [
        ("retention.ms", settings.retention_ms),
        ("retention.bytes", settings.retention_bytes),
    ] {
        if let Some(value) = value.filter(|value| deletes && *value >= 0) {
            return refuse(InternalSetting::Deletes {
                topic: name.to_owned(),
                policy: policy.to_owned(),
                limit,
                value,
            });
        }
    }
    if let Some(limit) = settings
        .timestamp_after_max_ms
        .filter(|limit| *limit < CLOCK_MARGIN_MS)
    {
        return refuse(InternalSetting::FutureRefused { limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_empty_an_internal_topic_are_refused() {
        let ours = || TopicSettings {
            partitions: 1,
            cleanup_policy: Some("compact".to_owned()),
            retention_ms: Some(604_800_000),
            retention_bytes: Some(1 << 30),
            timestamp_after_max_ms: Some(i64::MAX),
            ..TopicSettings::default()
        };
        let refusal = |change: &dyn Fn(&mut TopicSettings)| {
            let mut settings = ours();
            change(&mut settings);
            let refused = check("__cdc.state.rs0", &settings).err();
            refused.map(|error| error.to_string())
        };
        assert_eq!(refusal(&|_| ()), None);
        let delete = |settings: &mut TopicSettings, policy: &str| {
            settings.cleanup_policy = Some(policy.to_owned());
        };
        for policy in ["delete", "compact,delete"] {
            let message = refusal(&|settings| delete(settings, policy)).unwrap();
            assert!(message.contains("retention.ms=604800000"), "{message}");
            let message = refusal(&|settings| {
                delete(settings, policy);
                settings.retention_ms = Some(-1);
            });
            assert!(message.unwrap().contains("retention.bytes="), "{policy}");
            let message = refusal(&|settings| {
                delete(settings, policy);
                (settings.retention_ms, settings.retention_bytes) = (Some(-1), Some(-1));
            });
            assert_eq!(message, None);
        }
        assert!(refusal(&|settings| settings.partitions = 4).is_some());
        assert!(refusal(&|settings| settings.timestamp_after_max_ms = Some(1000)).is_some());
    }
}
