//! The settings of the topics that the producer creates.

use oplog_relay_core::format::Format;
use oplog_relay_runtime::kafka::{
    Admin, KafkaFailure, MAX_MESSAGE_BYTES, NewTopicShape, TopicSetting, WantedSetting,
};

use crate::publish::MAX_RECORD_BYTES;

/// Settings that `--topic-config` cannot change, with the reasons.
const OWNED: &[(&str, &str)] = &[
    (
        "cleanup.policy",
        "it follows from --topic-mode, and another policy would delete records that are needed",
    ),
    (
        "message.timestamp.type",
        "record timestamps are the times of the source, by which offsets can be reset",
    ),
];
/// Limits of one batch that managed clusters allow if they do not allow [`MAX_RECORD_BYTES`], in
/// bytes and in order of preference.
const SMALLER_LIMITS: [usize; 2] = [20 << 20, 8 << 20];
/// Segment sizes of internal topics, in order of preference. Small segments are quick to read; managed
/// clusters allow no size below the second one.
const SEGMENT_BYTES: [usize; 2] = [4 << 20, 50 << 20];

/// The settings of data topics that a session creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataTopicSettings {
    /// The settings.
    pub settings: Vec<TopicSetting>,
    /// The largest record batch that such a topic accepts, in bytes.
    pub max_bytes: usize,
}

impl DataTopicSettings {
    /// Determines the settings that the cluster accepts; `given` are the operator's. `default_limit` is
    /// the largest batch of a topic that is created without an explicit limit.
    ///
    /// # Errors
    /// The errors of [`Admin::accepted_settings`].
    pub async fn accepted(
        admin: &Admin,
        shape: NewTopicShape<'_>,
        given: &[TopicSetting],
        format: Format,
        default_limit: usize,
    ) -> Result<Self, KafkaFailure> {
        let wanted = WantedSetting::with_given(data_settings(format), given);
        let settings = admin.accepted_settings(shape, &wanted).await?;
        let own_limit = settings
            .iter()
            .find(|setting| setting.name == MAX_MESSAGE_BYTES)
            .and_then(|setting| setting.value.parse().ok());
        Ok(Self {
            max_bytes: own_limit.unwrap_or(default_limit).min(MAX_RECORD_BYTES),
            settings,
        })
    }
}

/// Returns the settings of topics that contain entries. Retention by time uses the timestamp of a
/// record, which is the time of the source: a limit would delete old entries on arrival.
fn data_settings(format: Format) -> Vec<WantedSetting> {
    let policy = match format.is_latest_state() {
        true => "compact",
        false => "delete",
    };
    let limits = [MAX_RECORD_BYTES].into_iter().chain(SMALLER_LIMITS);
    vec![
        WantedSetting::needed("cleanup.policy", policy),
        WantedSetting::needed("retention.ms", "-1"),
        // A cluster's log.retention.bytes would delete entries that no consumer has read.
        WantedSetting::preferred("retention.bytes", [-1]),
        WantedSetting::preferred(MAX_MESSAGE_BYTES, limits),
        WantedSetting::needed("message.timestamp.type", "CreateTime"),
        any_time_ahead(),
    ]
}

/// Returns the settings of the position and state topics: the last record of each key is kept.
#[must_use]
pub fn internal_settings() -> Vec<WantedSetting> {
    vec![
        WantedSetting::needed("cleanup.policy", "compact"),
        WantedSetting::preferred("segment.bytes", SEGMENT_BYTES),
        WantedSetting::needed("message.timestamp.type", "CreateTime"),
        any_time_ahead(),
    ]
}

/// Returns the setting that allows timestamps of any time after the broker's clock. Brokers before
/// Kafka 3.6 do not know the setting and accept such timestamps.
fn any_time_ahead() -> WantedSetting {
    WantedSetting::preferred("message.timestamp.after.max.ms", [i64::MAX])
}

/// Parses `name=value` of `--topic-config`.
///
/// # Errors
/// Fails if the text has no name or no `=`, or if the program owns the setting.
pub fn parse_topic_setting(text: &str) -> Result<TopicSetting, String> {
    let (name, value) = text
        .split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| !name.is_empty())
        .ok_or("expected name=value")?;
    match OWNED.iter().find(|(owned, _)| *owned == name) {
        Some((_, why)) => Err(format!("{name} cannot be set: {why}")),
        None => Ok(TopicSetting {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_the_data_depends_on_cannot_be_set() {
        for setting in ["cleanup.policy=compact", "message.timestamp.type=x"] {
            let error = parse_topic_setting(setting).unwrap_err();
            assert!(error.contains("cannot be set"), "{error}");
        }
        assert!(parse_topic_setting("retention.bytes").is_err());
        assert!(parse_topic_setting("=1").is_err());
        let setting = parse_topic_setting("retention.bytes = 1000").unwrap();
        assert_eq!(setting.to_string(), "retention.bytes=1000");
    }
}
