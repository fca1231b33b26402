//! Commits acknowledged offsets: about once a second, and sooner after the last record.
//!
//! Commits are synchronous. The Rust client does not set the callback with which librdkafka reports the
//! result of an asynchronous commit, and an offset without a result must not count as committed.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::context::{GroupContext, commit_list};
use crate::group::offsets::NextOffset;
use crate::group::start::offsets_of;

/// Interval between commits while records arrive.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval between commits while nothing is pending, so that the lag reaches 0 soon.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between commits while nothing is pending and the program ends after the commit.
const LAST_INTERVAL: Duration = Duration::from_millis(20);

/// Commits if the interval since the last commit has passed. The interval is shorter if `ends` is true:
/// the program then ends when everything is committed. Returns true if it committed.
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
    // After a lost assignment, another member may already own the partitions.
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
                    // A partition that is not in the client's assignment must not be committed by this
                    // member.
                    let position = match positions.get(&partition.name)? {
                        // Evicted records were read, but will be read again, so the position is too
                        // high.
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

/// Commits these offsets now. Returns true if Kafka confirmed the commit. After a failure, the next
/// commit includes the same offsets. Without a next commit, the records are redelivered, which is
/// harmless.
pub(super) fn commit(consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) -> bool {
    let context = consumer.context();
    if let Err(error) = context.parts.durability.make_durable() {
        // After a failed fsync, data may be lost even if the next fsync succeeds, so the program ends.
        context.fail(error);
        return false;
    }
    let begun = Instant::now();
    if let Err(error) = consumer.commit(list, CommitMode::Sync) {
        tracing::warn!(%error, "committing offsets failed; the next commit includes them");
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
