//! What a worker is given: the state that all workers share, and its assignment.

use std::sync::Arc;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;
use tokio::sync::mpsc;

use crate::dead_letter::DeadLetters;
use crate::error::ConsumerError;
use crate::group::committed::Committed;
use crate::record_position::RecordPosition;
use crate::replay::MongoSink;
use crate::replay::plan::PlanError;
use crate::telemetry::metrics::Metrics;
use crate::topic_partition::TopicPartition;
use crate::worker::assignment::{AssignmentNumber, PartitionLocks, Reports, StopOffset, Token};
use crate::worker::chunk::Chunk;
use crate::worker::sink::Sink;
use crate::worker::topics::Topics;

/// The state that all workers share.
#[derive(Debug)]
pub struct WorkerContext {
    /// The topics, with their sources and formats.
    pub topics: Topics,
    /// The destination of the entries.
    pub sink: Sink,
    /// The destination of records that cannot be applied.
    pub dead_letters: DeadLetters,
    /// The namespaces that are replayed or emitted.
    pub filter: NamespaceFilter,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The queue of reports to the poll thread.
    pub reports: Arc<Reports>,
    /// The locks that let a partition have one worker at a time.
    pub partition_locks: PartitionLocks,
    /// The committed offsets of the group.
    pub committed: Committed,
    /// True if the replay continues at a command that has not run although a partition is already
    /// committed past the command or its barrier, and does not wait for topics that are absent.
    pub allow_partial_reset: bool,
}

/// An assigned partition, for which a worker is started.
#[derive(Debug)]
pub struct Assignment {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Number of the assignment.
    pub number: AssignmentNumber,
    /// The right to write.
    pub token: Token,
    /// The id up to which entries are skipped, because they are before the group's start.
    pub after: Option<EntryId>,
    /// The entry that was applied last before the assignment, if the metadata of the group's commit
    /// has it.
    pub last: Option<EntryId>,
    /// The offset up to which a worker with `--until-caught-up` applies records.
    pub stop_offset: StopOffset,
    /// The chunks to apply. The queue is closed when the partition is given up.
    pub chunks: mpsc::Receiver<Chunk>,
}

impl WorkerContext {
    /// Returns the target of a replay; `None` for `emit`.
    pub(super) fn target(&self) -> Option<&MongoSink> {
        self.sink.target()
    }
}

impl Assignment {
    pub(super) fn position(&self, offset: i64) -> RecordPosition {
        let name = TopicPartition {
            topic: self.topic.clone(),
            partition: self.partition,
        };
        RecordPosition { name, offset }
    }

    pub(super) fn unplayable(&self, offset: i64, source: PlanError) -> ConsumerError {
        ConsumerError::Unplayable {
            position: self.position(offset),
            source: Box::new(source),
        }
    }
}
