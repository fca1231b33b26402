//! The start offsets of a new group: the beginning of every partition, the same source second in
//! all of them, or the positions that the producers have saved. They are committed in one call
//! before this member subscribes.
//!
//! If a group has committed offsets, but none for a certain partition, the partition was created
//! later, or its offset was lost: see [`first_offset`].
//!
//! # Modules
//!
//! - `now` is the start at the positions that the producers have saved
//! - `past` checks that a group without committed offsets is new
//! - `removed` handles records that Kafka removed before the group could read them; `remainder`
//!   describes the partitions
//! - `error` has the reasons why a group cannot start or continue

pub mod error;
mod now;
mod past;
mod remainder;
mod removed;

pub use error::{StartError, Traces};
pub(crate) use now::is_end;
pub use past::Past;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::config::Start;
use oplog_relay_runtime::kafka::{
    KafkaOptions, client_config, is_transient, is_unauthorized, with_right,
};
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::{GroupConfig, RemovedRecords};
use crate::error::ConsumerError;
use crate::group::offsets::CommitMetadata;
use crate::input::Input;
use crate::topic_partition::{TopicPartition, list};

/// Time limit of one request.
pub(crate) const REQUEST: Duration = Duration::from_secs(15);
/// Time for which transient failures are retried before they end the program.
const PATIENCE: Duration = Duration::from_secs(60);

/// A partition and the range of offsets in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRange {
    /// The topic and partition.
    pub name: TopicPartition,
    /// The first offset that still exists.
    pub low: i64,
    /// The end that a `read_committed` reader sees: the last stable offset. In the result of
    /// `written` it is the log end offset.
    pub end: i64,
}

/// Retries a request until it succeeds or fails permanently, its time limit is exceeded, or
/// shutdown is requested.
pub(crate) fn persist<T>(
    doing: &str,
    shutdown: &Shutdown,
    mut request: impl FnMut() -> KafkaResult<T>,
) -> Result<T, ConsumerError> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    loop {
        match request() {
            Ok(value) => return Ok(value),
            Err(error) if is_transient(&error) && begun.elapsed() < PATIENCE => {
                tracing::warn!(%error, doing, "Kafka request failed; retrying");
                if !backoff.sleep_blocking(shutdown) {
                    return Err(ConsumerError::interrupted(shutdown));
                }
            }
            Err(error) => {
                let right = "Read on the group and on the topics that it reads";
                let doing = with_right(doing, &error, right);
                return Err(ConsumerError::kafka(doing, error));
            }
        }
    }
}

/// Returns all partitions of the input's topics, with the range of offsets in their logs.
pub(crate) fn log_ranges<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    input: &Input,
    shutdown: &Shutdown,
) -> Result<Vec<LogRange>, ConsumerError> {
    let metadata = persist("listing topics", shutdown, || {
        consumer.fetch_metadata(None, REQUEST)
    })?;
    let mut ranges = Vec::new();
    for topic in metadata
        .topics()
        .iter()
        .filter(|topic| input.includes(topic.name()))
    {
        for partition in topic.partitions() {
            let name = TopicPartition {
                topic: topic.name().to_owned(),
                partition: partition.id(),
            };
            let doing = format!(
                "reading the offsets of {}, partition {}",
                name.topic, name.partition
            );
            let (low, end) = persist(&doing, shutdown, || {
                consumer.fetch_watermarks(&name.topic, name.partition, REQUEST)
            })?;
            ranges.push(LogRange { name, low, end });
        }
    }
    Ok(ranges)
}

/// Returns the partitions with their log end offsets, which include transactions whose marker has not
/// been written to the partition yet: Kafka acknowledges a commit before the markers are written.
pub(crate) fn written(
    kafka: &KafkaOptions,
    ranges: Vec<LogRange>,
    shutdown: &Shutdown,
) -> Result<Vec<LogRange>, ConsumerError> {
    let mut config = client_config(kafka);
    config.set("isolation.level", "read_uncommitted");
    let consumer: BaseConsumer = config
        .create()
        .map_err(|error| ConsumerError::kafka("creating the Kafka client", error))?;
    ranges
        .into_iter()
        .map(|range| {
            let TopicPartition { topic, partition } = &range.name;
            let doing = format!("reading the end of {topic}, partition {partition}");
            let (low, end) = persist(&doing, shutdown, || {
                consumer.fetch_watermarks(topic, *partition, REQUEST)
            })?;
            Ok(LogRange { low, end, ..range })
        })
        .collect()
}

/// Returns the offsets of a list by partition. A search in the list itself scans the whole list.
pub(crate) fn offsets_of(list: &TopicPartitionList) -> BTreeMap<TopicPartition, Offset> {
    let named = list.elements().into_iter().map(|element| {
        let name = TopicPartition {
            topic: element.topic().to_owned(),
            partition: element.partition(),
        };
        (name, element.offset())
    });
    named.collect()
}

/// Commits the start offsets of a group without committed offsets. A group that has committed offsets
/// continues from them.
///
/// # Errors
/// Returns a [`StartError`] if the group has run before, or if Kafka has removed records
/// that the group has to start with.
pub(crate) fn settle<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    config: &GroupConfig,
    ranges: &[LogRange],
    past: &Past,
    shutdown: &Shutdown,
) -> Result<(), ConsumerError> {
    let GroupConfig { group, start, .. } = config;
    if ranges.is_empty() || has_commits(consumer, ranges, shutdown)? {
        return Ok(());
    }
    past.check(config)?;
    let cut = resolve(consumer, config, ranges, shutdown)?;
    let mut commits = TopicPartitionList::with_capacity(cut.len());
    for (range, point) in ranges.iter().zip(&cut) {
        let mut element = commits.add_partition(&range.name.topic, range.name.partition);
        let set = element.set_offset(Offset::Offset(point.offset));
        set.map_err(|error| ConsumerError::kafka("setting the start offset", error))?;
        element.set_metadata(CommitMetadata::text(point.after));
    }
    let doing = format!("committing the start of group {group}");
    match persist(&doing, shutdown, || {
        consumer.commit(&commits, CommitMode::Sync)
    }) {
        Ok(()) => {
            tracing::info!(
                group,
                %start,
                partitions = cut.len(),
                "committed the start offsets of the new group"
            );
            Ok(())
        }
        // Another member has already joined, so its start offsets apply.
        Err(ConsumerError::Kafka { source, .. }) if is_taken(&source) => {
            tracing::info!(
                group,
                "another member has committed the start offsets of this group"
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn is_taken(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress)
    )
}

/// Returns the authorization error that a client without a subscription has received. Without the
/// right to read the group it cannot find the coordinator, and its requests for offsets only time
/// out.
fn refusal<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<KafkaError> {
    // Log events arrive through the same queue, and a poll with a timeout of zero would return at each
    // of them.
    let polled = std::iter::from_fn(|| consumer.poll(Duration::from_millis(100)));
    polled.filter_map(Result::err).find(is_unauthorized)
}

fn has_commits<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Result<bool, ConsumerError> {
    let committed = persist("reading committed offsets", shutdown, || {
        let requested = list(ranges.iter().map(|range| &range.name));
        let committed = consumer.committed_offsets(requested, REQUEST);
        committed.map_err(|error| refusal(consumer).unwrap_or(error))
    })?;
    Ok(committed
        .elements()
        .iter()
        .any(|element| matches!(element.offset(), Offset::Offset(_))))
}

/// The point at which a partition starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartPoint {
    /// The offset.
    offset: i64,
    /// The id up to which entries are skipped, if the group starts between two entries of one
    /// second.
    after: Option<EntryId>,
}

/// Returns the start points in the order of the partitions.
fn resolve<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    config: &GroupConfig,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Result<Vec<StartPoint>, ConsumerError> {
    let requested = match config.start {
        Start::Now => return now::cut(consumer, config, ranges, shutdown),
        Start::Oldest => None,
        Start::At(millis) => Some(millis.div_euclid(1000)),
        Start::Position { seconds, .. } => Some(seconds.into()),
    };
    let remainders = removed::remainders(consumer, ranges, shutdown)?;
    let missing = remainders.iter().filter(|it| it.misses(requested));
    let missing: Vec<_> = missing.cloned().collect();
    let second = if missing.is_empty() {
        requested
    } else {
        let later = remainder::whole_since(&remainders).max(requested.unwrap_or_default());
        match config.removed {
            RemovedRecords::TakeRest => {
                removed::warn_of_rest(&config.group, &missing);
                requested
            }
            RemovedRecords::Refuse => {
                let refused = removed::refused(&config.group, &config.input, later, missing);
                return Err(refused.into());
            }
            RemovedRecords::BeginLater => {
                removed::warn_of_later(&config.group, later, &missing);
                Some(later)
            }
        }
    };
    let offsets = match second {
        Some(second) => at_second(consumer, second, ranges, shutdown)?,
        None => ranges.iter().map(|range| range.low).collect(),
    };
    let points = offsets.into_iter().map(|offset| StartPoint {
        offset,
        after: None,
    });
    Ok(points.collect())
}

/// Returns the offsets of the first records at or after a source second.
fn at_second<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    second: i64,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Result<Vec<i64>, ConsumerError> {
    let seconds = ranges.iter().map(|_| Some(second));
    let found = at_seconds(consumer, seconds, ranges, shutdown)?;
    let found = ranges.iter().zip(found);
    Ok(found
        .map(|(range, found)| found.unwrap_or(range.end))
        .collect())
}

/// Returns, for each partition, the offset of the first record at or after the given source second, or
/// `None` if no record is that recent or no second is given.
fn at_seconds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    seconds: impl Iterator<Item = Option<i64>> + Clone,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Result<Vec<Option<i64>>, ConsumerError> {
    let doing = "looking up offsets by time";
    let found = persist(doing, shutdown, || {
        let mut times = TopicPartitionList::with_capacity(ranges.len());
        for (range, second) in ranges.iter().zip(seconds.clone()) {
            let millis = second.unwrap_or_default().max(0).saturating_mul(1000);
            let TopicPartition { topic, partition } = &range.name;
            times.add_partition_offset(topic, *partition, Offset::Offset(millis))?;
        }
        consumer.offsets_for_times(times, REQUEST)
    })?;
    ranges
        .iter()
        .zip(seconds)
        .map(|(range, second)| {
            let element = found.find_partition(&range.name.topic, range.name.partition);
            let Some(element) = element.filter(|_| second.is_some()) else {
                return Ok(None);
            };
            match (element.error(), element.offset()) {
                (Err(error), _) => Err(ConsumerError::kafka(doing, error)),
                (Ok(()), Offset::Offset(offset)) => Ok(Some(offset)),
                // No record is that recent.
                (Ok(()), _) => Ok(None),
            }
        })
        .collect()
}

/// The offset at which an assigned partition starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The partition starts at this offset.
    At(i64),
    /// The partition cannot start: its next records were removed.
    Lost,
}

/// Returns the offset at which a partition starts, from the group's committed offset and the first
/// offset that the partition still holds.
///
/// | committed | log starts at | start |
/// | --- | --- | --- |
/// | n | at or before n | at n |
/// | n | after n | lost: the records from n on were removed |
/// | nothing | 0 | at 0: the topic is newer than the group |
/// | nothing | later | lost: the group's offset expired, or records were removed unread |
#[must_use]
pub const fn first_offset(committed: Option<i64>, low: i64) -> First {
    match committed {
        Some(committed) if committed >= low => First::At(committed),
        None if low == 0 => First::At(0),
        Some(_) | None => First::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_offset_follows_the_table() {
        let table = [
            (Some(5), 0, First::At(5)),
            (Some(5), 5, First::At(5)),
            (Some(5), 6, First::Lost),
            (None, 0, First::At(0)),
            (None, 1, First::Lost),
        ];
        for (committed, low, first) in table {
            assert_eq!(first_offset(committed, low), first, "{committed:?} {low}");
        }
    }
}
