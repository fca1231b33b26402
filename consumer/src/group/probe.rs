//! Probes the records that a group reads next, to find their compression ratio.

use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use super::context::GroupContext;
use super::fetch::Received;
use crate::group::start::{LogRange, REQUEST, offsets_of};
use crate::topic_partition::{TopicPartition, list};

/// Maximum number of partitions that are probed: those with the most records to read.
const PARTITIONS: usize = 16;
/// Bytes of records after which the probe ends.
const ENOUGH: u64 = 4 << 20;
/// Minimum number of bytes of records for a result.
const MIN_BYTES: u64 = 64 << 10;
/// Time limit of a probe.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// A partition with records that the group has not committed, and their number.
struct Ahead {
    name: TopicPartition,
    next: i64,
    count: i64,
}

/// Reads a few of the records that the group reads next, with a client that does not join the group and
/// does not commit. Returns their compression ratio; `None` if there are too few records or they cannot
/// be read.
pub(super) fn ratio(
    consumer: &BaseConsumer<GroupContext>,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> Option<u64> {
    let ratio = measure(consumer, ranges, shutdown).unwrap_or_else(|error| {
        tracing::debug!(%error, "the compression ratio of the records cannot be determined");
        None
    });
    tracing::debug!(ratio, "compression ratio of the first records");
    ratio
}

fn measure(
    consumer: &BaseConsumer<GroupContext>,
    ranges: &[LogRange],
    shutdown: &Shutdown,
) -> KafkaResult<Option<u64>> {
    let ahead = ahead(consumer, ranges)?;
    if ahead.is_empty() {
        return Ok(None);
    }
    let deadline = Instant::now() + PATIENCE;
    let before = next_count(consumer, deadline);
    let mut partitions = TopicPartitionList::new();
    for Ahead { name, next, .. } in &ahead {
        partitions.add_partition_offset(&name.topic, name.partition, Offset::Offset(*next))?;
    }
    consumer.assign(&partitions)?;
    let mut ended = 0;
    let received = || consumer.context().received();
    while Instant::now() < deadline
        && !shutdown.triggered()
        && ended < ahead.len()
        && received().records_since(before) < ENOUGH
    {
        // Other errors also occur in the member itself, which reports them.
        if let Some(Err(KafkaError::PartitionEOF(_))) = consumer.poll(POLL) {
            ended += 1;
        }
    }
    let after = next_count(consumer, Instant::now() + PATIENCE);
    consumer.unassign()?;
    Ok(after.ratio_since(before, MIN_BYTES))
}

/// Returns the partitions with the most records that the group has not committed.
fn ahead(consumer: &BaseConsumer<GroupContext>, ranges: &[LogRange]) -> KafkaResult<Vec<Ahead>> {
    let names = list(ranges.iter().map(|range| &range.name));
    let committed = offsets_of(&consumer.committed_offsets(names, REQUEST)?);
    let mut ahead: Vec<Ahead> = ranges
        .iter()
        .map(|range| {
            let next = match committed.get(&range.name) {
                Some(Offset::Offset(next)) => *next,
                _ => range.low,
            };
            Ahead {
                name: range.name.clone(),
                next,
                count: range.end - next,
            }
        })
        .filter(|ahead| ahead.count > 0)
        .collect();
    ahead.sort_unstable_by_key(|ahead| -ahead.count);
    ahead.truncate(PARTITIONS);
    Ok(ahead)
}

/// Waits for the next update of the client's counts and returns them.
fn next_count(consumer: &BaseConsumer<GroupContext>, deadline: Instant) -> Received {
    let updates = consumer.context().count_updates();
    while consumer.context().count_updates() == updates && Instant::now() < deadline {
        drop(consumer.poll(POLL));
    }
    consumer.context().received()
}
