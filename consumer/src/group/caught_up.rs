//! `--until-caught-up`: everything that the topics held at start is committed, by whichever
//! member.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::GroupContext;
use crate::error::ConsumerError;
use crate::group::start::{Held, REQUEST, offsets_of};
use crate::topic_partition::{TopicPartition, list};
use oplog_relay_runtime::kafka::is_transient;

/// How often the group's offsets are looked up when others commit them,
const INTERVAL: Duration = Duration::from_millis(300);
/// and when this member does.
const AFTER_COMMIT: Duration = Duration::from_millis(20);

/// The ends that are to be reached.
#[derive(Debug)]
pub(super) struct Goal {
    /// Partitions that are not there yet, with their ends.
    left: Vec<(TopicPartition, i64)>,
    looked: Option<Instant>,
}

impl Goal {
    /// The ends noted at start. What a partition's log no longer holds needs no commit.
    pub(super) fn new(held: Vec<Held>) -> Self {
        let left = held.into_iter().filter(|held| held.low < held.end);
        Self {
            left: left.map(|held| (held.name, held.end)).collect(),
            looked: None,
        }
    }

    /// Whether the group has committed all of them. `committed` says that this member has committed just now.
    pub(super) fn is_reached(
        &mut self,
        consumer: &BaseConsumer<GroupContext>,
        committed: bool,
    ) -> Result<bool, ConsumerError> {
        if self.left.is_empty() {
            return Ok(true);
        }
        let interval = if committed { AFTER_COMMIT } else { INTERVAL };
        if self
            .looked
            .is_some_and(|looked| looked.elapsed() < interval)
        {
            return Ok(false);
        }
        self.looked = Some(Instant::now());
        let names = list(self.left.iter().map(|(name, _)| name));
        let committed = match consumer.committed_offsets(names, REQUEST) {
            Ok(committed) => committed,
            Err(error) if is_transient(&error) => return Ok(false),
            Err(error) => return Err(ConsumerError::kafka("reading committed offsets", error)),
        };
        let committed = offsets_of(&committed);
        self.left.retain(|(name, end)| {
            !matches!(committed.get(name), Some(Offset::Offset(offset)) if offset >= end)
        });
        self.mark(consumer);
        Ok(self.left.is_empty())
    }

    /// Tells the workers which record is the last that is wanted of their partitions, once all of this
    /// member's partitions are read that far: what one waits for may stand in another one.
    fn mark(&self, consumer: &BaseConsumer<GroupContext>) {
        let Ok(positions) = consumer.position() else {
            return;
        };
        let positions = offsets_of(&positions);
        let mut partitions = consumer.context().partitions();
        let mut read = Vec::with_capacity(self.left.len());
        for (name, end) in &self.left {
            let Some(partition) = partitions.find(&name.topic, name.partition) else {
                continue;
            };
            let position = match positions.get(name) {
                Some(Offset::Offset(position)) => *position,
                _ => return,
            };
            if !partition.has_all_before(position, *end) {
                return;
            }
            read.push((partition.goal.clone(), partition.tracker.handed()));
        }
        for (goal, handed) in read {
            goal.set(handed);
        }
    }
}
