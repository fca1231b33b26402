//! Eviction of chunks, to free memory for other partitions. Chunks queued behind a worker at a
//! barrier, or behind a stalled worker while other workers could continue, are discarded and read
//! again from Kafka when the worker continues. Incomplete fragmented records are also evicted,
//! except the largest one, which is completed first.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::context::GroupContext;
use super::intake::Intake;
use crate::error::ConsumerError;

/// Time limit of a seek.
const SEEK: Duration = Duration::from_secs(10);

/// Evicts the chunks queued behind workers that wait at barriers or are stalled, and all incomplete
/// records except the largest one. Returns true if the budget changed.
pub(super) fn evict(
    consumer: &BaseConsumer<GroupContext>,
    intake: &mut Intake,
) -> Result<bool, ConsumerError> {
    let mut evicted = Vec::new();
    let mut partitions = consumer.context().partitions();
    let newly_stalled = partitions.mark_stalled(Instant::now());
    let mut largest = Some(partitions.open_bytes());
    for partition in partitions.iter_mut() {
        let open = partition.run.is_some();
        let blocked = partition.holding || partition.stalled;
        let moving = open && !blocked;
        if moving
            && largest
                .take_if(|most| *most == partition.open_bytes())
                .is_some()
        {
            continue;
        }
        if (blocked || open)
            && let Some(discarded) = partition.evict()
        {
            intake.release(discarded.bytes);
            evicted.push((partition.name.clone(), discarded.resume_offset));
        }
    }
    intake.set_held(partitions.held_bytes());
    drop(partitions);
    for (name, offset) in &evicted {
        let failed = |error| ConsumerError::kafka("evicting queued records", error);
        let mut list = TopicPartitionList::new();
        list.add_partition(&name.topic, name.partition);
        consumer.pause(&list).map_err(failed)?;
        consumer
            .seek(&name.topic, name.partition, Offset::Offset(*offset), SEEK)
            .map_err(failed)?;
        tracing::debug!(
            topic = name.topic,
            partition = name.partition,
            offset,
            "evicted queued records to free memory; they will be read again from this offset"
        );
    }
    Ok(newly_stalled || !evicted.is_empty())
}

/// Resumes evicted partitions whose workers continue. While a record is incomplete, they are
/// resumed only if at most half of the budget is used.
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
            && !partition.stalled
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
        .map_err(|error| ConsumerError::kafka("resuming evicted partitions", error))
}
