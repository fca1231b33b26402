//! Committing: what is acknowledged, about once a second, and soon after the last record.
//!
//! Synchronous: the Rust client sets no callback by which librdkafka could answer an asynchronous
//! commit, and an offset that is not known to be committed must not count as such.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::context::{GroupContext, commit_list};
use crate::group::offsets::NextOffset;
use crate::group::start::offsets_of;

/// Between commits while records come.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between commits when nothing is pending: lag is to reach 0 soon,
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// and sooner where a program ends with it.
const LAST_INTERVAL: Duration = Duration::from_millis(20);

/// Commits if it is time to, which is earlier for one that `ends` when all is committed. Whether it
/// did.
pub(super) fn commit_due(consumer: &BaseConsumer<GroupContext>, ends: bool) -> bool {
    let context = consumer.context();
    let idle = context
        .partitions()
        .iter()
        .all(|partition| partition.tracker.is_idle());
    let interval = match (idle, ends) {
        (false, _) => INTERVAL,
        (true, false) => IDLE_INTERVAL,
        (true, true) => LAST_INTERVAL,
    };
    // A lost assignment: somebody else may own the partitions already.
    if !context.is_commit_due(interval) || consumer.assignment_lost() {
        return false;
    }
    let Ok(positions) = consumer.position() else {
        return false;
    };
    let positions = offsets_of(&positions);
    let list = {
        let partitions = context.partitions();
        commit_list(
            partitions
                .iter()
                .filter(|partition| partition.token.is_valid())
                .filter_map(|partition| {
                    // Not in the assignment: not ours to commit.
                    let position = match positions.get(&partition.name)? {
                        // What had to make room was read and is to be read again.
                        Offset::Offset(position) if partition.evicted.is_none() => {
                            Some(NextOffset::at(*position))
                        }
                        _ => None,
                    };
                    Some((partition, partition.tracker.to_commit(position)?))
                }),
        )
    };
    list.is_some_and(|list| commit(consumer, &list))
}

/// Commits these offsets now. What fails is left to the next commit, which holds the same and
/// more; without a next one it comes again, harmlessly. Whether Kafka took it.
pub(super) fn commit(consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) -> bool {
    let context = consumer.context();
    if let Err(error) = context.parts.durability.make_durable() {
        // What a file system failed to write once may be lost although the next attempt succeeds.
        context.fail(error);
        return false;
    }
    let begun = Instant::now();
    if let Err(error) = consumer.commit(list, CommitMode::Sync) {
        tracing::warn!(%error, "offsets could not be committed yet");
        context.parts.metrics.count_error("commit");
        context.note_commit(Err(error.to_string()));
        return false;
    }
    context.note_commit(Ok(()));
    context.parts.committed.send_replace(true);
    context.parts.metrics.commits.inc();
    context
        .parts
        .metrics
        .commit_seconds
        .observe(begun.elapsed().as_secs_f64());
    let mut partitions = context.partitions();
    for element in list.elements() {
        let partition = partitions.find(element.topic(), element.partition());
        if let (Some(partition), Ok(()), Offset::Offset(next)) =
            (partition, element.error(), element.offset())
        {
            partition.tracker.commit_confirmed(NextOffset::at(next));
        }
    }
    true
}
