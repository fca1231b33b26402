//! Committing: what is acknowledged, about once a second, and soon after the last record.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use super::context::{GroupContext, commit_list};
use crate::offsets::NextOffset;

/// Between commits while records come.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between commits when nothing is pending: lag is to reach 0 soon.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// A commit that is not answered for so long is given up.
const ANSWER: Duration = Duration::from_secs(30);

/// Sends a commit if one is due.
pub(super) fn commit_due(consumer: &BaseConsumer<GroupContext>) {
    let context = consumer.context();
    let idle = context
        .partitions()
        .iter()
        .all(|partition| partition.tracker.is_idle());
    let interval = if idle { IDLE_INTERVAL } else { INTERVAL };
    {
        let commits = context.commits();
        let waits = commits.sent.is_some_and(|sent| sent.elapsed() < ANSWER);
        if waits || commits.last.is_some_and(|last| last.elapsed() < interval) {
            return;
        }
    }
    context.commits().last = Some(Instant::now());
    // A lost assignment: somebody else may own the partitions already.
    if consumer.assignment_lost() {
        return;
    }
    let Ok(positions) = consumer.position() else {
        return;
    };
    let list = {
        let partitions = context.partitions();
        commit_list(
            partitions
                .iter()
                .filter(|partition| partition.token.is_valid())
                .filter_map(|partition| {
                    // Not in the assignment: not ours to commit.
                    let element = positions
                        .find_partition(&partition.name.topic, partition.name.partition)?;
                    let position = match element.offset() {
                        Offset::Offset(position) => Some(NextOffset::at(position)),
                        _ => None,
                    };
                    Some((partition, partition.tracker.to_commit(position)?))
                }),
        )
    };
    let Some(list) = list else { return };
    match consumer.commit(&list, CommitMode::Async) {
        Ok(()) => context.commits().sent = Some(Instant::now()),
        Err(error) => tracing::warn!(%error, "offsets could not be committed yet"),
    }
}
