//! Assigns and revokes partitions in a rebalance, inside `poll`, on the poll thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::assigned::Partition;
use super::commit::commit;
use super::context::{GroupContext, PartitionCommit, commit_list};
use crate::error::ConsumerError;
use crate::group::offsets::{CommitMetadata, Committer, NextOffset, OffsetTracker};
use crate::group::start::{First, REQUEST, StartError, first_offset, is_end, offsets_of, persist};
use crate::record_position::RecordPosition;
use crate::topic_partition::{TopicPartition, list};
use crate::worker::Assignment;
use crate::worker::assignment::{AssignmentNumber, StopOffset, Token};
use crate::worker::chunk::Chunk;

/// Maximum time to wait for the write in progress of a revoked partition, shorter than the default
/// session timeout. The offset of a write that is not finished by then is not committed.
const DRAIN: Duration = Duration::from_secs(10);
/// Number of chunks queued for a worker, in addition to the one that it applies.
const CHUNKS_AHEAD: usize = 1;

static NEXT_ASSIGNMENT: AtomicU64 = AtomicU64::new(1);

/// The offset at which an assigned partition starts, and who committed it.
struct StartOffset {
    name: TopicPartition,
    next: NextOffset,
    committer: Committer,
}

/// Adds assigned partitions. Each gets its start offset, a token and a worker.
pub(super) fn assign(
    context: &GroupContext,
    consumer: &BaseConsumer<GroupContext>,
    assigned: &mut TopicPartitionList,
) {
    if context.is_leaving() {
        // A client that leaves the group does not answer the requests that are needed to start.
        complete_without_reading(consumer, assigned);
        return;
    }
    let names: Vec<TopicPartition> = assigned.elements().iter().map(name_of).collect();
    let start_offsets = match start_offsets(context, consumer, &names) {
        Ok(start_offsets) => start_offsets,
        Err(error) => {
            // The rebalance must still be completed, but no more records are read.
            context.fail(error);
            complete_without_reading(consumer, assigned);
            return;
        }
    };
    for start_offset in &start_offsets {
        let offset = Offset::Offset(start_offset.next.get());
        let TopicPartition { topic, partition } = &start_offset.name;
        if let Err(error) = assigned.set_partition_offset(topic, *partition, offset) {
            context.fail(ConsumerError::kafka(
                "setting the start offset of a partition",
                error,
            ));
        }
    }
    if let Err(error) = consumer.incremental_assign(assigned) {
        context.fail(ConsumerError::kafka("assigning partitions", error));
        return;
    }
    for start_offset in start_offsets {
        start_worker(context, start_offset);
    }
    // The first commit of a partition that is new to the group is its start offset.
    context.commit_soon();
    // The client keeps the pause of a partition that was revoked while it was paused, and may lose a
    // resume during a rebalance.
    let reading = context.partitions().reading();
    let set = if context.is_paused() {
        consumer.pause(assigned)
    } else {
        consumer.resume(&reading)
    };
    if let Err(error) = set {
        let doing = "pausing or resuming assigned partitions";
        context.fail(ConsumerError::kafka(doing, error));
    }
    context.parts.readiness.joined();
    tracing::info!(partitions = names.len(), "partitions assigned");
}

fn complete_without_reading(
    consumer: &BaseConsumer<GroupContext>,
    assigned: &mut TopicPartitionList,
) {
    if assigned.set_all_offsets(Offset::End).is_err()
        || consumer.incremental_assign(assigned).is_err()
    {
        tracing::debug!("completing the rebalance failed; the program ends");
    }
}

fn name_of(element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>) -> TopicPartition {
    TopicPartition {
        topic: element.topic().to_owned(),
        partition: element.partition(),
    }
}

fn start_offsets(
    context: &GroupContext,
    consumer: &BaseConsumer<GroupContext>,
    names: &[TopicPartition],
) -> Result<Vec<StartOffset>, ConsumerError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let shutdown = &context.parts.shutdown;
    let committed = persist("reading committed offsets", shutdown, || {
        consumer.committed_offsets(list(names), REQUEST)
    })?;
    let lows = persist("reading the first offsets of partitions", shutdown, || {
        first_offsets(consumer, names)
    })?;
    let mut start_offsets = Vec::with_capacity(names.len());
    for (name, low) in names.iter().zip(lows) {
        let element = committed.find_partition(&name.topic, name.partition);
        let (offset, committer) = match element {
            Some(element) => match element.offset() {
                Offset::Offset(offset) => (Some(offset), CommitMetadata::read(element.metadata())),
                _ => (None, Committer::ThisProgram(None)),
            },
            None => (None, Committer::ThisProgram(None)),
        };
        match first_offset(offset, low) {
            First::At(next) => start_offsets.push(StartOffset {
                name: name.clone(),
                next: NextOffset::at(next),
                committer,
            }),
            First::Lost => {
                return Err(StartError::lost(&context.group, name, offset, low).into());
            }
        }
    }
    Ok(start_offsets)
}

/// Returns the first offset that still exists in each partition. All of them are requested at once,
/// because a member may be assigned hundreds of partitions, and reads none of them until this is
/// done.
fn first_offsets(
    consumer: &BaseConsumer<GroupContext>,
    names: &[TopicPartition],
) -> KafkaResult<Vec<i64>> {
    let mut times = list(names);
    // If the beginning is requested as a time, a broker answers with the first offset.
    times.set_all_offsets(Offset::Beginning)?;
    let found = consumer.offsets_for_times(times, REQUEST)?;
    let missing = || KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable);
    for element in found.elements() {
        element.error()?;
    }
    let found = offsets_of(&found);
    let offset = |name: &TopicPartition| match found.get(name) {
        Some(Offset::Offset(offset)) => Ok(*offset),
        _ => Err(missing()),
    };
    names.iter().map(offset).collect()
}

fn start_worker(context: &GroupContext, start_offset: StartOffset) {
    let StartOffset {
        name,
        next,
        committer,
    } = start_offset;
    let last = match committer {
        Committer::ThisProgram(last) => last,
        Committer::Other => {
            tracing::info!(
                topic = name.topic,
                partition = name.partition,
                offset = next.get(),
                "another program committed this offset, for example to reset the group; continuing \
                 from it"
            );
            None
        }
    };
    let assignment = NEXT_ASSIGNMENT.fetch_add(1, Ordering::Relaxed);
    let token = Token::default();
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let assigned = Assignment {
        topic: name.topic.clone(),
        partition: name.partition,
        number: assignment,
        token: token.clone(),
        // A new group with `--start now` starts at the first record of a second and skips the
        // entries up to the saved position. Offsets that are committed later are exact.
        after: last.filter(|last| is_end(*last)),
        last,
        stop_offset: StopOffset::default(),
        chunks,
    };
    let tracker = OffsetTracker::new(next, last);
    let mut partition = Partition::new(name, assignment, token, tracker, sender);
    partition.stop_offset = assigned.stop_offset.clone();
    context.partitions().add(partition);
    if context.parts.assignments.blocking_send(assigned).is_err() {
        context.fail(ConsumerError::Ended("the supervisor of the workers"));
    }
}

/// Removes revoked partitions: invalidates their tokens, waits for the writes in progress, commits the
/// offsets and unassigns the partitions. Offsets of lost partitions are not committed, because another
/// member may own them.
pub(super) fn revoke(
    context: &GroupContext,
    consumer: &BaseConsumer<GroupContext>,
    revoked: &TopicPartitionList,
) {
    let is_lost = consumer.assignment_lost();
    let names: Vec<TopicPartition> = revoked.elements().iter().map(name_of).collect();
    let mut removed = Vec::new();
    let mut unread: Vec<Chunk> = Vec::new();
    for partition in context.partitions().iter_mut() {
        if names.contains(&partition.name) {
            partition.token.invalidate();
            unread.extend(partition.close());
            removed.push(partition.assignment);
        }
    }
    context.release_later(unread.iter().map(Chunk::cost).sum());
    drop(unread);
    let ended = wait_for_end(context, &removed);
    if is_lost {
        tracing::warn!(
            partitions = names.len(),
            "partitions lost: another member may own them"
        );
    } else if !removed.is_empty() {
        commit_acknowledged(context, consumer, &removed);
        tracing::info!(
            partitions = names.len(),
            drained = ended,
            "partitions revoked"
        );
    }
    forget(context, &removed);
    if let Err(error) = consumer.incremental_unassign(revoked) {
        context.fail(ConsumerError::kafka("unassigning partitions", error));
    }
}

/// Removes partitions whose workers have ended, or did not end in time.
pub(super) fn forget(context: &GroupContext, removed: &[AssignmentNumber]) {
    let mut partitions = context.partitions();
    let unreleased = removed
        .iter()
        .map(|assignment| partitions.remove(*assignment));
    context.release_later(unreleased.sum());
}

/// Waits until the workers have ended. Returns false if they have not ended in time.
fn wait_for_end(context: &GroupContext, removed: &[AssignmentNumber]) -> bool {
    let deadline = Instant::now() + DRAIN;
    loop {
        context.take_reports_later();
        let ended = context
            .partitions()
            .iter()
            .all(|partition| partition.ended || !removed.contains(&partition.assignment));
        if ended || Instant::now() >= deadline {
            return ended;
        }
        context.parts.reports.wait(Duration::from_millis(50));
    }
}

fn commit_acknowledged(
    context: &GroupContext,
    consumer: &BaseConsumer<GroupContext>,
    removed: &[AssignmentNumber],
) {
    let commits = {
        let partitions = context.partitions();
        commit_list(
            partitions
                .iter()
                .filter(|partition| removed.contains(&partition.assignment))
                .filter_map(PartitionCommit::acknowledged),
        )
    };
    if let Some(commits) = commits {
        commit(consumer, &commits);
    }
}

/// Returns the error for the partition whose next records were removed.
pub(super) fn explain_lost(consumer: &BaseConsumer<GroupContext>) -> ConsumerError {
    let context = consumer.context();
    let next_records: Vec<RecordPosition> = context
        .partitions()
        .iter()
        .map(|partition| RecordPosition {
            name: partition.name.clone(),
            offset: partition.tracker.acknowledged().get(),
        })
        .collect();
    for RecordPosition { name, offset } in next_records {
        let watermarks = consumer.fetch_watermarks(&name.topic, name.partition, REQUEST);
        if let Ok((low, end)) = watermarks
            && !(low..=end).contains(&offset)
        {
            return StartError::lost(&context.group, &name, Some(offset), low).into();
        }
    }
    let group = context.group.clone();
    StartError::RemovedWhileRead { group }.into()
}
