//! Records that Kafka removed before a new group could read them: because of retention, by time or
//! size, or because a user deleted them.
//!
//! An emitting group reads the remaining records of each partition. A replay must start at the same
//! time in all partitions, and without the removed records its target would be incomplete. So it
//! refuses to start or, with `--allow-missing-records`, starts at the first second from which
//! every partition still has all of its records.

use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::error::StartError;
use super::remainder::{Remainder, describe, shown};
use super::{LogRange, REQUEST};
use crate::error::ConsumerError;
use crate::input::Input;
use crate::topic_partition::TopicPartition;

/// Warns that an emitting group starts with the remaining records of each partition.
pub(crate) fn warn_of_rest(group: &str, missing: &[Remainder]) {
    tracing::warn!(
        group,
        "Kafka no longer has all records from --start on; this new group emits the remaining records \
         of each partition: {}",
        describe(missing)
    );
}

/// Warns that a replay starts at a later second than requested.
pub(crate) fn warn_of_later(group: &str, second: i64, missing: &[Remainder]) {
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
    whole_since: i64,
    missing: Vec<Remainder>,
) -> StartError {
    let group = group.to_owned();
    match input.foreign() {
        Some(_) => StartError::ForeignIncomplete {
            group,
            missing,
            whole_since,
        },
        None => StartError::Incomplete {
            group,
            missing,
            whole_since,
        },
    }
}

/// Returns the partitions that no longer have their first records.
pub(crate) fn remainders<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Result<Vec<Remainder>, ConsumerError> {
    let cut: Vec<&LogRange> = ranges.iter().filter(|range| range.low > 0).collect();
    let mut remainders: Vec<Remainder> = cut
        .iter()
        .map(|range| Remainder {
            name: range.name.clone(),
            low: range.low,
            second: None,
        })
        .collect();
    if cut.iter().any(|range| range.low < range.end) {
        let seconds = first_seconds(consumer, &cut, shutdown)?;
        for (remainder, second) in remainders.iter_mut().zip(seconds) {
            remainder.second = second;
        }
    }
    Ok(remainders)
}

/// Returns the source seconds of the first records of partitions; `None` for a partition that has
/// only control records, or whose first record did not arrive in time.
fn first_seconds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    cut: &[&LogRange],
    shutdown: &Shutdown,
) -> Result<Vec<Option<i64>>, ConsumerError> {
    let doing = "reading the first records";
    let mut begins = TopicPartitionList::new();
    let mut waiting: Vec<usize> = Vec::new();
    for (index, range) in (0..).zip(cut).filter(|(_, range)| range.low < range.end) {
        let TopicPartition { topic, partition } = &range.name;
        begins
            .add_partition_offset(topic, *partition, Offset::Offset(range.low))
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
            cut.get(*index).is_some_and(|range| {
                range.name.topic == record.topic() && range.name.partition == record.partition()
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
