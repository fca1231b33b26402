//! The end offsets that a session saves for its topics. They reveal a topic that was deleted and
//! created again.
//!
//! Kafka gives each topic an id, but this version of the client library does not expose it to safe
//! code. The end offsets serve instead: an end offset never decreases, and the first record of a
//! topic is committed together with its claim.

use std::collections::BTreeMap;

use oplog_relay_core::state::{State, TopicRecord};
use oplog_relay_runtime::kafka::TopicSettings;

use crate::error::ProducerError;
use crate::prepare::topics::error::TopicError;

/// Warns of saved topics from which Kafka deletes entries by size.
pub fn warn_of_retention(state: &State, existing: &BTreeMap<String, TopicSettings>) {
    for name in state.topics.keys() {
        let settings = existing.get(name);
        let Some(limit) = settings.and_then(|settings| settings.retention_bytes) else {
            continue;
        };
        if limit >= 0 {
            tracing::warn!(
                topic = name,
                retention_bytes = limit,
                "Kafka deletes the oldest entries of each partition of this topic beyond \
                 retention.bytes, whether a consumer has read them or not"
            );
        }
    }
}

/// Compares the current end offsets of the saved topics with those that were saved before. Returns the
/// topic records whose offsets have changed and have to be saved.
///
/// # Errors
/// [`TopicError`] for a topic that cannot be the one that this source wrote to.
pub fn note_ends(
    state: &State,
    ends: &BTreeMap<String, Vec<i64>>,
) -> Result<BTreeMap<String, TopicRecord>, ProducerError> {
    let mut noted = BTreeMap::new();
    for (name, saved) in &state.topics {
        let Some(ends) = ends.get(name) else {
            continue;
        };
        check_ends(name, saved, ends)?;
        if saved.ends != *ends {
            let record = TopicRecord {
                ends: ends.clone(),
                ..saved.clone()
            };
            noted.insert(name.clone(), record);
        }
    }
    Ok(noted)
}

fn check_ends(name: &str, saved: &TopicRecord, ends: &[i64]) -> Result<(), TopicError> {
    let went_back = |(_, (before, now)): &(usize, (&i64, &i64))| now < before;
    let mut compared = saved.ends.iter().zip(ends).enumerate();
    if let Some((partition, (before, now))) = compared.find(went_back) {
        return Err(TopicError::EndWentBack {
            topic: name.to_owned(),
            partition,
            before: *before,
            now: *now,
        });
    }
    // The first record of a topic is in one Kafka transaction with its claim, so a claimed topic is not
    // empty.
    if ends.iter().all(|end| *end == 0) {
        let topic = name.to_owned();
        return Err(TopicError::Recreated { topic });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::format::Format;

    use super::*;
    use crate::prepare::topics::record;

    #[test]
    fn a_topic_that_was_created_again_is_detected_by_its_end_offsets() {
        let state = |ends: &[i64]| {
            let mut saved = record(Format::Bson, 2);
            saved.ends = ends.to_vec();
            State {
                topics: BTreeMap::from([("t".to_owned(), saved)]),
                ..State::default()
            }
        };
        let note = |saved: &[i64], ends: &[i64]| {
            let ends = BTreeMap::from([("t".to_owned(), ends.to_vec())]);
            note_ends(&state(saved), &ends).map(|noted| noted.get("t").cloned())
        };
        // The state of an earlier version has no ends.
        assert_eq!(note(&[], &[7, 0]).unwrap().unwrap().ends, [7, 0]);
        assert_eq!(note(&[7, 0], &[9, 0]).unwrap().unwrap().ends, [9, 0]);
        assert_eq!(note(&[7, 0], &[7, 0]).unwrap(), None);
        for (saved, ends) in [([7, 3], [9, 2]), ([7, 0], [0, 0])] {
            let message = note(&saved, &ends).unwrap_err().to_string();
            assert!(message.contains("created again"), "{message}");
        }
        assert!(note(&[], &[0, 0]).is_err());
    }
}
