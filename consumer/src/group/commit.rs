//! Commits acknowledged offsets: about once a second, and sooner when no record is pending or when
//! a worker waits at a barrier.
//!
//! Commits are synchronous. The Rust client does not set the callback with which librdkafka reports the
//! result of an asynchronous commit, and an offset without a result must not count as committed.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::context::{GroupContext, PartitionCommit, commit_list};
use crate::group::offsets::NextOffset;
use crate::group::start::offsets_of;

/// Interval between commits while records arrive.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval between commits while nothing is pending, so that the lag reaches 0 soon.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between commits while nothing is pending and the program ends after the commit.
const LAST_INTERVAL: Duration = Duration::from_millis(20);

/// Commits if the interval since the last commit has passed. `ends` is true if the program ends
/// once everything is committed; the interval is then shorter. Returns true if Kafka confirmed a
/// commit.
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
    if !context.begin_commit_if_due(interval) || consumer.assignment_lost() {
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
                    // This member must not commit a partition that is not in the client's
                    // assignment.
                    let position = match positions.get(&partition.name)? {
                        // Evicted records were read, but will be read again, so the position is too
                        // high.
                        Offset::Offset(position) if partition.evicted.is_none() => {
                            Some(NextOffset::at(*position))
                        }
                        _ => None,
                    };
                    let next = partition.tracker.to_commit(position)?;
                    Some(PartitionCommit { partition, next })
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

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;

    use crate::emit::lines_file::LinesFile;
    use crate::error::ConsumerError;
    use crate::group::context::tests::context_with;
    use crate::worker::applied::Durability;

    /// Commits offset 5 of a partition. Returns the outcome, the failure of the context, and the
    /// committed offset that Kafka then returns.
    fn commit_with(durability: Durability) -> (bool, Option<ConsumerError>, Offset) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "g");
        let context = context_with(durability);
        let consumer: BaseConsumer<GroupContext> = config.create_with_context(context).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(5))
            .unwrap();
        let committed = commit(&consumer, &list);
        let mut requested = TopicPartitionList::new();
        requested.add_partition("t", 0);
        let found = consumer.committed_offsets(requested, Duration::from_secs(30));
        let offset = found.unwrap().elements()[0].offset();
        (committed, consumer.context().take_failure(), offset)
    }

    /// If the machine crashed after the commit, the lines would be lost.
    #[test]
    fn offsets_of_lines_that_could_not_be_synced_are_not_committed() {
        let (committed, failure, offset) = commit_with(Durability::Immediate);
        assert!(committed && failure.is_none());
        assert_eq!(offset, Offset::Offset(5));

        let file = LinesFile::unsyncable();
        let (committed, failure, offset) = commit_with(Durability::OnRequest(file));
        assert!(!committed);
        assert!(
            matches!(failure, Some(ConsumerError::Output { .. })),
            "{failure:?}"
        );
        assert_eq!(offset, Offset::Invalid);
    }
}
