//! Detects the end of a run with `--until-caught-up`: the members of the group together have committed
//! all records that the topics contained at start.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::GroupContext;
use crate::error::ConsumerError;
use crate::group::start::{LogRange, REQUEST, offsets_of};
use crate::topic_partition::list;
use oplog_relay_runtime::kafka::is_transient;

/// Interval between two requests for the group's offsets while other members commit them.
const INTERVAL: Duration = Duration::from_millis(300);
/// Interval between two requests for the group's offsets after a commit by this member.
const AFTER_COMMIT: Duration = Duration::from_millis(20);

/// The end offsets that the group has to commit.
#[derive(Debug)]
pub(super) struct Goal {
    /// The partitions whose end offsets the group has not committed yet.
    left: Vec<LogRange>,
    requested: Option<Instant>,
}

impl Goal {
    /// Creates the goal from the end offsets that were read at start. Partitions without records need
    /// no commit.
    pub(super) fn new(ranges: Vec<LogRange>) -> Self {
        let left = ranges.into_iter().filter(|range| range.low < range.end);
        Self {
            left: left.collect(),
            requested: None,
        }
    }

    /// Returns true if the group has committed all end offsets. `has_just_committed` is true if
    /// this member has just committed.
    pub(super) fn is_reached(
        &mut self,
        consumer: &BaseConsumer<GroupContext>,
        has_just_committed: bool,
    ) -> Result<bool, ConsumerError> {
        if self.left.is_empty() {
            return Ok(true);
        }
        let interval = if has_just_committed {
            AFTER_COMMIT
        } else {
            INTERVAL
        };
        if self
            .requested
            .is_some_and(|requested| requested.elapsed() < interval)
        {
            return Ok(false);
        }
        self.requested = Some(Instant::now());
        let names = list(self.left.iter().map(|range| &range.name));
        let committed = match consumer.committed_offsets(names, REQUEST) {
            Ok(committed) => committed,
            Err(error) if is_transient(&error) => return Ok(false),
            Err(error) => return Err(ConsumerError::kafka("reading committed offsets", error)),
        };
        let committed = offsets_of(&committed);
        self.left.retain(|LogRange { name, end, .. }| {
            !matches!(committed.get(name), Some(Offset::Offset(offset)) if offset >= end)
        });
        self.set_stop_offsets(consumer);
        Ok(self.left.is_empty())
    }

    /// Sets the stop offsets of the workers once all partitions of this member have been read to
    /// their ends. Before that, a held document may still depend on a record of another partition.
    fn set_stop_offsets(&self, consumer: &BaseConsumer<GroupContext>) {
        let Ok(positions) = consumer.position() else {
            return;
        };
        let positions = offsets_of(&positions);
        let mut partitions = consumer.context().partitions();
        let mut read = Vec::with_capacity(self.left.len());
        for LogRange { name, end, .. } in &self.left {
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
            read.push((partition.stop_offset.clone(), partition.tracker.handed()));
        }
        for (stop_offset, handed) in read {
            stop_offset.set(handed);
        }
    }
}
