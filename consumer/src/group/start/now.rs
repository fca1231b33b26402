//! The start "now": the positions that the producers have saved.
//!
//! The end offsets of the partitions are not a consistent cut, because they are read one after the
//! other, and a barrier may be written between two reads. A saved position is a consistent cut: it is
//! read before the end offsets, so all entries up to it are in the topics. The group starts at the first
//! records of the position's second and skips the entries up to the position, which is recorded in the
//! metadata of its first commit.
//!
//! Kafka acknowledges a commit before it writes the transaction's markers, so a position that was just
//! saved may not be readable yet. The positions are therefore read only after the transactions that
//! were open at start have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use oplog_relay_core::barrier::BARRIER_ORD;
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_core::state::{PositionRecord, State};
use oplog_relay_core::topic::{position_topic, source_of_state_topic, state_topic};
use oplog_relay_runtime::kafka::Reader;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use super::{LogRange, REQUEST, StartPoint, at_seconds, log_ranges, persist, written};
use crate::config::GroupConfig;
use crate::error::ConsumerError;
use crate::saved_state_error::SavedStateError;
use crate::topic_partition::TopicPartition;

/// Time limit of the wait for open transactions. A running producer writes the position right
/// before it commits. A transaction may stay open for longer if its producer was killed, or if it
/// wrote to the state topic while the producer was catching up. The previous position is a
/// consistent cut too.
const OPEN_TRANSACTION: Duration = Duration::from_secs(5);

/// Returns the start point of each partition.
pub(crate) fn cut<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    config: &GroupConfig,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Result<Vec<StartPoint>, ConsumerError> {
    let positions = positions(consumer, config, shutdown)?;
    // The ends are read after the positions.
    let ends = log_ranges(consumer, &config.input, shutdown)?;
    let end = |partition: &LogRange| {
        let now = ends.iter().find(|end| end.name == partition.name);
        now.map_or(partition.end, |end| end.end)
    };
    let after = |partition: &LogRange| positions.get(&partition.name.topic).copied();
    let seconds = ranges
        .iter()
        .map(|partition| after(partition).map(|id| i64::from(id.ts.seconds)));
    let found = at_seconds(consumer, seconds, ranges, shutdown)?;
    let cut = ranges.iter().zip(found);
    Ok(cut
        .map(|(partition, found)| StartPoint {
            offset: found.unwrap_or_else(|| end(partition)),
            after: after(partition),
        })
        .collect())
}

/// Returns, for each topic, an id that follows all entries that its producer has saved as complete.
fn positions<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    config: &GroupConfig,
    shutdown: &Shutdown,
) -> Result<BTreeMap<String, EntryId>, ConsumerError> {
    let mut found = BTreeMap::new();
    // Other programs save no positions, so the group starts at the ends of their topics.
    let Some(prefix) = config.input.prefix() else {
        return Ok(found);
    };
    let metadata = persist("listing topics", shutdown, || {
        consumer.fetch_metadata(None, REQUEST)
    })?;
    let names: BTreeSet<&str> = metadata
        .topics()
        .iter()
        .map(rdkafka::metadata::MetadataTopic::name)
        .collect();
    let sources: Vec<&str> = names
        .iter()
        .filter_map(|name| source_of_state_topic(prefix, name))
        .collect();
    let internal = sources
        .iter()
        .flat_map(|source| [position_topic(prefix, source), state_topic(prefix, source)])
        .filter(|topic| names.contains(topic.as_str()));
    wait_for_open_transactions(consumer, config, internal, shutdown)?;
    let reader = Reader::new(&config.kafka);
    for source in sources {
        let (positions, states) = (position_topic(prefix, source), state_topic(prefix, source));
        let last = reader.read_last_committed_blocking(&positions)?;
        let Some(position) = last.and_then(|stored| position(stored.value.as_deref()?)) else {
            continue;
        };
        let mut state = State::default();
        for record in reader.read_all_blocking(&states)? {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
            let applied = state.apply(&key, record.value.as_deref());
            applied.map_err(|source| SavedStateError::State {
                topic: states.clone(),
                offset: record.offset,
                source,
            })?;
        }
        found.extend(state.topics.into_keys().map(|topic| (topic, position)));
    }
    Ok(found)
}

/// Waits until the transactions that are open in these topics have ended, but at most for
/// [`OPEN_TRANSACTION`]. Each topic has one partition.
fn wait_for_open_transactions<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    config: &GroupConfig,
    topics: impl Iterator<Item = String>,
    shutdown: &Shutdown,
) -> Result<(), ConsumerError> {
    let whole = topics.map(|topic| LogRange {
        name: TopicPartition {
            topic,
            partition: 0,
        },
        low: 0,
        end: 0,
    });
    let written = written(&config.kafka, whole.collect(), shutdown)?;
    let deadline = Instant::now() + OPEN_TRANSACTION;
    for range in written {
        wait_until_stable(consumer, &range, deadline, shutdown)?;
    }
    Ok(())
}

/// Waits until a `read_committed` reader can read a partition up to the end of `written`, but not longer
/// than until the deadline.
fn wait_until_stable<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    written: &LogRange,
    deadline: Instant,
    shutdown: &Shutdown,
) -> Result<(), ConsumerError> {
    let TopicPartition { topic, partition } = &written.name;
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    let doing = format!("reading the end of topic {topic}");
    loop {
        let (_, stable) = persist(&doing, shutdown, || {
            consumer.fetch_watermarks(topic, *partition, REQUEST)
        })?;
        if stable >= written.end {
            return Ok(());
        }
        if Instant::now() >= deadline {
            tracing::warn!(
                topic,
                "a transaction is still open, so the group starts at the position that was saved before it"
            );
            return Ok(());
        }
        if backoff.attempts() == 0 {
            tracing::info!(
                topic,
                "waiting for the transaction that is open in this topic"
            );
        }
        if !backoff.sleep_blocking(shutdown) {
            return Err(ConsumerError::interrupted(shutdown));
        }
    }
}

/// Returns an id that follows all entries that are complete at a saved position. If the position is
/// inside a transaction, the group reads the whole transaction, so that it misses no operation.
fn position(record: &[u8]) -> Option<EntryId> {
    let record: PositionRecord = serde_json::from_slice(record).ok()?;
    record.done().ok().map(end_of)
}

/// Returns an id that follows the ids of all entries with this timestamp.
const fn end_of(ts: Timestamp) -> EntryId {
    // No operation has an ordinal this large, and `BARRIER_ORD` itself identifies barriers.
    let ord = BARRIER_ORD - 1;
    EntryId { ts, ord }
}

/// Returns true if an id was created by `end_of`. No entry has such an id.
pub(crate) fn is_end(id: EntryId) -> bool {
    id == end_of(id.ts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_inside_a_transaction_ends_before_the_transaction() {
        let whole = br#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1}"#;
        let inside = br#"{"v":1,"ts":"7:3","term":2,"ord":5,"routing":1}"#;
        let first = br#"{"v":1,"ts":"7:0","term":2,"ord":5,"routing":1}"#;
        let end = |seconds, increment| Some(end_of(Timestamp::new(seconds, increment)));
        assert_eq!(position(whole), end(7, 3));
        assert_eq!(position(inside), end(7, 2));
        assert_eq!(position(first), end(6, u32::MAX));
        assert_eq!(position(b"{}"), None);
        assert!(is_end(end_of(Timestamp::new(7, 3))));
        let ts = Timestamp::new(7, 3);
        assert!(!is_end(EntryId { ts, ord: 0 }));
    }
}
