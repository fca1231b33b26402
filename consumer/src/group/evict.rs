//! Eviction of chunks, to make room for others. Chunks behind a worker at a barrier, or behind a
//! stalled worker while others could continue, are discarded and read again from Kafka when the worker
//! continues. So are incomplete records in fragments, except the one with the most bytes, which is
//! completed first.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::context::GroupContext;
use super::intake::Intake;
use crate::error::ConsumerError;

/// Time limit of a seek.
const SEEK: Duration = Duration::from_secs(10);

/// Evicts the chunks of workers that wait at barriers or are stalled, and all incomplete records but
/// one. Returns true if the budget changed.
pub(super) fn evict(
    consumer: &BaseConsumer<GroupContext>,
    intake: &mut Intake,
) -> Result<bool, ConsumerError> {
    let mut given_back = Vec::new();
    let mut partitions = consumer.context().partitions();
    let stand = partitions.mark_standing(Instant::now());
    let mut furthest = Some(partitions.open_bytes());
    for partition in partitions.iter_mut() {
        let open = partition.run.is_some();
        let waits = partition.holding || partition.stands;
        let moving = open && !waits;
        if moving
            && furthest
                .take_if(|most| *most == partition.open_bytes())
                .is_some()
        {
            continue;
        }
        if (waits || open)
            && let Some((bytes, again)) = partition.evict()
        {
            intake.release(bytes);
            given_back.push((partition.name.clone(), again));
        }
    }
    intake.hold(partitions.held_bytes());
    drop(partitions);
    for (name, again) in &given_back {
        let failed = |error| ConsumerError::kafka("making room at a barrier", error);
        let mut list = TopicPartitionList::new();
        list.add_partition(&name.topic, name.partition);
        consumer.pause(&list).map_err(failed)?;
        consumer
            .seek(&name.topic, name.partition, Offset::Offset(*again), SEEK)
            .map_err(failed)?;
        tracing::debug!(
            topic = name.topic,
            partition = name.partition,
            again,
            "made room at a barrier, behind a worker that stands still, or for a record in fragments"
        );
    }
    Ok(stand || !given_back.is_empty())
}

/// Resumes evicted partitions whose workers continue, once the memory suffices for them beside the
/// incomplete record that is completed first.
pub(super) fn resume(
    consumer: &BaseConsumer<GroupContext>,
    intake: &Intake,
) -> Result<(), ConsumerError> {
    if consumer.context().is_paused() {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    let mut partitions = consumer.context().partitions();
    let waits = partitions.open_bytes() > 0 && !intake.is_under_half();
    for partition in partitions.iter_mut() {
        if !partition.holding
            && !partition.stands
            && !waits
            && let Some(evicted) = &mut partition.evicted
            && std::mem::replace(&mut evicted.paused, false)
        {
            list.add_partition(&partition.name.topic, partition.name.partition);
        }
    }
    drop(partitions);
    if list.count() == 0 {
        return Ok(());
    }
    consumer
        .resume(&list)
        .map_err(|error| ConsumerError::kafka("resuming after a barrier", error))
}
