//! Checks of a topic's settings: a topic that would lose or reorder entries is refused.

use oplog_relay_core::format::Format;
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::TopicRecord;
use oplog_relay_runtime::kafka::TopicSettings;

use super::CLOCK_MARGIN_MS;
use crate::prepare::topics::error::TopicError;
use crate::publish::MAX_RECORD_BYTES;

/// Margin for the time that entries wait before they are sent, in milliseconds.
const RETENTION_MARGIN_MS: i64 = 3_600_000;

/// Returns the size of the largest record batch that both a topic and the client accept, in bytes.
#[must_use]
pub fn limit(settings: &TopicSettings) -> usize {
    // If the broker does not report the setting, only the client's limit is known.
    let limit = settings.max_message_bytes.unwrap_or(i64::MAX);
    usize::try_from(limit).map_or(0, |limit| limit.min(MAX_RECORD_BYTES))
}

/// Checks that a topic has as many partitions as when it was first used.
///
/// # Errors
/// [`TopicError::PartitionsChanged`].
pub(super) fn check_partitions(
    name: &str,
    settings: &TopicSettings,
    saved: &TopicRecord,
) -> Result<(), TopicError> {
    if i64::from(saved.partitions) == i64::from(settings.partitions) {
        return Ok(());
    }
    Err(TopicError::PartitionsChanged {
        topic: name.to_owned(),
        saved: saved.partitions,
        now: settings.partitions.into(),
    })
}

/// Checks that a topic of changes is not compacted, and that a topic of latest states has no other
/// cleanup policy than compaction.
fn check_cleanup(name: &str, policy: &str, format: Format) -> Result<(), TopicError> {
    let topic = name.to_owned();
    match format.is_latest_state() {
        true if policy.trim() == "compact" => Ok(()),
        true => Err(TopicError::NotCompacted {
            topic,
            policy: policy.to_owned(),
        }),
        false if !policy.contains("compact") => Ok(()),
        false => Err(TopicError::Compacted { topic }),
    }
}

/// Checks that the settings of a topic keep what is sent to it. `oldest` is the time of the oldest
/// entry that will be sent.
///
/// # Errors
/// The [`TopicError`] of the first setting that is not suitable.
pub(super) fn check_settings(
    name: &str,
    settings: &TopicSettings,
    format: Format,
    oldest: Timestamp,
    now_ms: i64,
) -> Result<(), TopicError> {
    let topic = name.to_owned();
    if let Some(policy) = &settings.cleanup_policy {
        check_cleanup(name, policy, format)?;
    }
    if settings.timestamp_type.as_deref() == Some("LogAppendTime") {
        return Err(TopicError::LogAppendTime { topic });
    }
    if let Some(limit) = settings.timestamp_after_max_ms
        && limit < CLOCK_MARGIN_MS
    {
        return Err(TopicError::FutureRefused { topic, limit });
    }
    let age = now_ms.saturating_sub(i64::from(oldest.seconds) * 1000);
    if let Some(retention) = settings.retention_ms
        // Retention does not apply to a topic that is only compacted.
        && !format.is_latest_state()
        && retention >= 0
        && retention < age.saturating_add(RETENTION_MARGIN_MS)
    {
        return Err(TopicError::Retention {
            topic,
            retention,
            age,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::json::Mode;

    use super::*;
    use crate::prepare::topics::record;

    fn settings() -> TopicSettings {
        TopicSettings {
            partitions: 4,
            replication_factor: 1,
            retention_ms: Some(-1),
            retention_bytes: Some(-1),
            cleanup_policy: Some("delete".to_owned()),
            timestamp_type: Some("CreateTime".to_owned()),
            timestamp_after_max_ms: Some(3_600_000),
            max_message_bytes: Some(1 << 20),
            min_insync_replicas: Some(1),
        }
    }

    fn refusal(settings: &TopicSettings) -> Option<String> {
        refusal_of(settings, Format::Bson)
    }

    fn refusal_of(settings: &TopicSettings, format: Format) -> Option<String> {
        let oldest = Timestamp::new(1_000_000, 0);
        let now = 1_000_000_000 + 7_200_000;
        check_settings("t", settings, format, oldest, now)
            .and_then(|()| check_partitions("t", settings, &record(format, 4)))
            .err()
            .map(|e| e.to_string())
    }

    #[test]
    fn the_latest_states_of_documents_are_compacted_and_nothing_else() {
        let latest = Format::Snapshot(Mode::Relaxed);
        let with = |policy: Option<&str>| TopicSettings {
            cleanup_policy: policy.map(str::to_owned),
            // Retention does not apply to a topic that is only compacted.
            retention_ms: Some(7_200_000),
            ..settings()
        };
        assert_eq!(refusal_of(&with(Some("compact")), latest), None);
        assert_eq!(refusal_of(&with(None), latest), None);
        for policy in ["delete", "compact,delete", "delete,compact"] {
            let refused = refusal_of(&with(Some(policy)), latest).unwrap_or_default();
            assert!(refused.contains("cleanup.policy=compact"), "{refused}");
        }
    }

    #[test]
    fn topics_that_would_lose_or_reorder_entries_are_refused() {
        assert_eq!(refusal(&settings()), None);
        let changed = |change: &dyn Fn(&mut TopicSettings)| {
            let mut settings = settings();
            change(&mut settings);
            refusal(&settings).unwrap_or_default()
        };
        assert!(changed(&|s| s.partitions = 5).contains("partitions"));
        let compacted = Some("compact,delete".to_owned());
        assert!(changed(&|s| s.cleanup_policy.clone_from(&compacted)).contains("compact"));
        let append = Some("LogAppendTime".to_owned());
        assert!(changed(&|s| s.timestamp_type.clone_from(&append)).contains("LogAppendTime"));
        assert!(changed(&|s| s.timestamp_after_max_ms = Some(1000)).contains("after.max"));
        assert!(changed(&|s| s.retention_ms = Some(7_200_000)).contains("retention.ms"));
        let mut long = settings();
        long.retention_ms = Some(86_400_000);
        assert_eq!(refusal(&long), None);
    }

    #[test]
    fn the_limit_of_a_topic_is_at_most_that_of_the_client() {
        let limit_of = |max_message_bytes| {
            limit(&TopicSettings {
                max_message_bytes,
                ..settings()
            })
        };
        assert_eq!(limit_of(Some(65_536)), 65_536);
        assert_eq!(limit_of(Some(i64::from(i32::MAX))), MAX_RECORD_BYTES);
        assert_eq!(limit_of(None), MAX_RECORD_BYTES);
    }
}
