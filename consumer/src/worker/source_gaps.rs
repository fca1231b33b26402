//! Gaps in the stream of a source: entries that its producer has skipped, and recorded as skipped.

use oplog_relay_core::state::{GapRecord, SourceRecord};
use oplog_relay_runtime::kafka::Stored;

/// The key of the record of a source in its state topic.
const SOURCE: &[u8] = b"source";

/// Returns the gaps that the records of a state topic name, if they have the record of the source.
/// Whether the record can be read is checked elsewhere.
pub(super) fn gaps_in(records: &[Stored]) -> Option<Vec<GapRecord>> {
    let is_source = |record: &&Stored| record.key.as_deref() == Some(SOURCE);
    let last = records.iter().rfind(is_source)?;
    let source = last
        .value
        .as_deref()
        .map(serde_json::from_slice::<SourceRecord>);
    Some(source?.ok()?.gaps)
}

/// Warns of the gaps of a source.
pub(super) fn warn_of(source: &str, gaps: &[GapRecord]) {
    for gap in gaps {
        tracing::warn!(
            source,
            after = gap.after,
            through = gap.through,
            reason = gap.reason.text(),
            "the producer never sent the entries between these two times, so they are missing from the \
             topics: compare the target with its source (oplog-consumer verify --repair)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_of_the_source_counts() {
        let stored = |key: &str, value: Option<&str>| Stored {
            offset: 1,
            timestamp_ms: None,
            key: Some(key.as_bytes().to_vec()),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        let gap = r#"{"v":1,"name":"a","gaps":[{"after":"1:1","through":"2:1","at":3,"reason":"operator"}]}"#;
        let with = stored("source", Some(gap));
        let without = stored("source", Some(r#"{"v":1,"name":"a"}"#));
        let other = stored("topic/x", Some("{}"));
        assert_eq!(gaps_in(std::slice::from_ref(&other)), None);
        let found = gaps_in(&[without.clone(), with.clone(), other]).unwrap();
        assert_eq!(found[0].through, "2:1");
        assert_eq!(gaps_in(&[with, without]), Some(Vec::new()));
    }
}
