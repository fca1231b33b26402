//! Records that Kafka removed before a new group could read them: by a time or size limit of the
//! retention, or because they were deleted.
//!
//! An emitting group reads the remaining records of each partition. A replay must start at the same time
//! in all partitions, and without the removed records its target would be incomplete. So it refuses to
//! start, or it starts at the first second from which on every partition still has all records.

use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{Held, REQUEST};
use crate::error::ConsumerError;
use crate::input::Input;
use crate::topic_partition::TopicPartition;

/// Maximum number of partitions that are named in a message.
const NAMED: usize = 8;

/// A partition that no longer has its first records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remainder {
    name: TopicPartition,
    /// The first offset that still exists.
    low: i64,
    /// The source second of the first record that still exists; `None` if the partition has no
    /// records left.
    second: Option<i64>,
}

impl Remainder {
    /// Returns true if records from a source second on are missing; `None` means all records.
    pub(crate) fn misses(&self, requested: Option<i64>) -> bool {
        match (requested, self.second) {
            (None, _) => true,
            // Earlier records of the same second may be among the removed ones.
            (Some(requested), Some(first)) => first >= requested,
            // The time of the removed records is not known.
            (Some(_), None) => false,
        }
    }

    fn describe(&self) -> String {
        let TopicPartition { topic, partition } = &self.name;
        let first = match self.second {
            Some(second) => format!("begins at offset {}, {}", self.low, shown(second)),
            None => format!("has no records left before offset {}", self.low),
        };
        format!("topic {topic}, partition {partition} {first}")
    }
}

/// Returns a source second in RFC 3339 format, for messages.
fn shown(second: i64) -> String {
    let time = bson::DateTime::from_millis(second.saturating_mul(1000));
    time.try_to_rfc3339_string()
        .unwrap_or_else(|_| format!("{second}:0"))
}

/// Returns the first source second from which on all of these partitions have every record.
pub(crate) fn whole_since(remainders: &[Remainder]) -> i64 {
    let seconds = remainders.iter().filter_map(|remainder| remainder.second);
    seconds.max().map_or(0, |second| second + 1)
}

fn describe(missing: &[&Remainder]) -> String {
    let mut places: Vec<String> = missing
        .iter()
        .take(NAMED)
        .map(|remainder| remainder.describe())
        .collect();
    if missing.len() > NAMED {
        places.push(format!("and {} more partitions", missing.len() - NAMED));
    }
    places.join("; ")
}

/// Warns that an emitting group starts with the remaining records of each partition.
pub(crate) fn warn_of_rest(group: &str, missing: &[&Remainder]) {
    tracing::warn!(
        group,
        "Kafka no longer has all records from --start on; this new group emits the remaining records \
         of each partition: {}",
        describe(missing)
    );
}

/// Warns that a replay starts at a later second than requested.
pub(crate) fn warn_of_later(group: &str, second: i64, missing: &[&Remainder]) {
    tracing::warn!(
        group,
        "Kafka no longer has all records from --start on: {}. Because of --allow-missing-records, \
         all partitions begin at {}; earlier entries are not replayed",
        describe(missing),
        shown(second)
    );
}

/// Returns the error of a replay that would miss removed records.
pub(crate) fn refused(
    group: &str,
    input: &Input,
    second: i64,
    missing: &[&Remainder],
) -> ConsumerError {
    let second = shown(second);
    if input.foreign().is_some() {
        return ConsumerError::OffsetsLost(format!(
            "group {group} is new, but Kafka no longer has all records from --start on (retention, a size \
             limit, or deleted records): {}. A target that is filled from the remaining records would be \
             incomplete, unless it already has the documents. To continue, copy the source into the target \
             with another program (mongodump and mongorestore) and begin with --start at a time before \
             the copy; or, if the target has the documents or they do not matter, use \
             --allow-missing-records, with which all partitions begin at {second}",
            describe(missing)
        ));
    }
    ConsumerError::OffsetsLost(format!(
        "group {group} is new, but Kafka no longer has all records from --start on (retention, a \
         size limit, or deleted records): {}. A target that is filled from the remaining records \
         would be incomplete. To continue, do one of the following: begin with --start now, and then \
         copy the collections again with `oplog-producer full-sync`; or restore a backup of the \
         source that was taken at {second} or later into the target, and begin with --start at the \
         time of the backup; or, if the missing documents do not matter, use --allow-missing-records, \
         with which all partitions begin at {second}",
        describe(missing)
    ))
}

/// Returns the partitions that no longer have their first records.
pub(crate) fn remainders<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    held: &[Held],
    shutdown: &Shutdown,
) -> Result<Vec<Remainder>, ConsumerError> {
    let cut: Vec<&Held> = held.iter().filter(|held| held.low > 0).collect();
    let mut remainders: Vec<Remainder> = cut
        .iter()
        .map(|held| Remainder {
            name: held.name.clone(),
            low: held.low,
            second: None,
        })
        .collect();
    if cut.iter().any(|held| held.low < held.end) {
        let seconds = first_seconds(consumer, &cut, shutdown)?;
        for (remainder, second) in remainders.iter_mut().zip(seconds) {
            remainder.second = second;
        }
    }
    Ok(remainders)
}

/// Returns the source seconds of the first records of partitions; `None` for a partition that has only
/// control records.
fn first_seconds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    cut: &[&Held],
    shutdown: &Shutdown,
) -> Result<Vec<Option<i64>>, ConsumerError> {
    let doing = "reading the first records";
    let mut begins = TopicPartitionList::new();
    let mut waiting: Vec<usize> = Vec::new();
    for (index, held) in (0..).zip(cut).filter(|(_, held)| held.low < held.end) {
        let TopicPartition { topic, partition } = &held.name;
        begins
            .add_partition_offset(topic, *partition, Offset::Offset(held.low))
            .map_err(|error| ConsumerError::kafka(doing, error))?;
        waiting.push(index);
    }
    consumer
        .assign(&begins)
        .map_err(|error| ConsumerError::kafka(doing, error))?;
    let mut seconds = vec![None; cut.len()];
    let begun = Instant::now();
    while !waiting.is_empty() && begun.elapsed() < REQUEST && !shutdown.triggered() {
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let is_it = |index: &usize| {
            cut.get(*index).is_some_and(|held| {
                held.name.topic == record.topic() && held.name.partition == record.partition()
            })
        };
        let Some(place) = waiting.iter().position(is_it) else {
            continue;
        };
        let index = waiting.swap_remove(place);
        let millis = record.timestamp().to_millis().unwrap_or_default();
        if let Some(second) = seconds.get_mut(index) {
            *second = Some(millis.div_euclid(1000));
        }
    }
    consumer
        .unassign()
        .map_err(|error| ConsumerError::kafka(doing, error))?;
    if shutdown.triggered() {
        return Err(ConsumerError::interrupted(shutdown));
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remainder(partition: i32, second: Option<i64>) -> Remainder {
        let topic = "cdc.shop.a".to_owned();
        Remainder {
            name: TopicPartition { topic, partition },
            low: 350,
            second,
        }
    }

    #[test]
    fn records_are_missing_up_to_the_second_of_the_first_remaining_record() {
        let left = remainder(0, Some(100));
        let table = [(None, true), (Some(99), true), (Some(100), true)];
        for (requested, missing) in table.into_iter().chain([(Some(101), false)]) {
            assert_eq!(left.misses(requested), missing, "{requested:?}");
        }
        let empty = remainder(1, None);
        assert!(empty.misses(None) && !empty.misses(Some(1)));
        assert_eq!(whole_since(&[left, remainder(2, Some(7)), empty]), 101);
        assert_eq!(whole_since(&[]), 0);
    }

    #[test]
    fn a_refusal_names_partitions_times_and_remedies() {
        let all: Vec<Remainder> = (0..10)
            .map(|it| remainder(it, Some(1_700_000_000)))
            .collect();
        let missing: Vec<&Remainder> = all.iter().collect();
        let input = Input::Relay {
            prefix: "cdc".to_owned(),
        };
        let text = refused("g", &input, 1_700_000_001, &missing).text();
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
