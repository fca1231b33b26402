//! Making room: chunks that wait behind a worker at a barrier are given back to Kafka and read again
//! when it goes on.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::context::GroupContext;
use super::intake::Intake;
use crate::error::ConsumerError;

/// How long the client may take to begin elsewhere.
const SEEK: Duration = Duration::from_secs(10);

/// Gives back what waits behind workers at barriers. Returns whether there was anything.
pub(super) fn evict(
    consumer: &BaseConsumer<GroupContext>,
    intake: &mut Intake,
) -> Result<bool, ConsumerError> {
    let mut given_back = Vec::new();
    for partition in consumer.context().partitions().iter_mut() {
        if partition.holding
            && let Some((bytes, again)) = partition.evict()
        {
            intake.release(bytes);
            given_back.push((partition.name.clone(), again));
        }
    }
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
            "made room at a barrier"
        );
    }
    Ok(!given_back.is_empty())
}

/// Lets the partitions go on whose workers got past their barriers.
pub(super) fn resume(consumer: &BaseConsumer<GroupContext>) -> Result<(), ConsumerError> {
    let mut list = TopicPartitionList::new();
    for partition in consumer.context().partitions().iter_mut() {
        if !partition.holding
            && let Some(evicted) = &mut partition.evicted
            && std::mem::replace(&mut evicted.paused, false)
        {
            list.add_partition(&partition.name.topic, partition.name.partition);
        }
    }
    if list.count() == 0 || consumer.context().is_paused() {
        return Ok(());
    }
    consumer
        .resume(&list)
        .map_err(|error| ConsumerError::kafka("going on after a barrier", error))
}
