//! Commands in the topics of another program.
//!
//! These topics have no barriers. A command runs in order if all writes of its collections are in
//! its partition. This is so if its topic has only one partition. For a rename, after which the
//! writes may go to another topic, and for any command of MongoShake, which may write a collection
//! to several topics, the whole input must have only one partition. The worker then makes a barrier
//! that consists of this partition alone, so that the command runs once, after everything before it
//! is committed, as the commands of oplog-producer do. Otherwise the command's order among the
//! writes is unknown, and it is refused. The creation of an index that cannot refuse a document may
//! run at any time.
//!
//! MongoShake with several workers may write a command to the partition after writes that follow it
//! in the oplog. Such a command is recognized by its timestamp and also refused. If earlier writes
//! of a dropped collection come after the command, they are skipped because of the catalog.

use std::sync::{MutexGuard, PoisonError};

use oplog_relay_core::barrier::{Barrier, TopicBarriers};
use oplog_relay_core::command::{Treatment, namespaces, treatment};
use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;

use super::PartitionWorker;
use crate::error::ConsumerError;
use crate::group::offsets::NextOffset;
use crate::replay::MongoSink;
use crate::replay::plan::{PlanError, PlanFault, UnknownOrder};
use crate::worker::applied::Applied;
use crate::worker::barrier::Side;
use crate::worker::batch::Located;
use crate::worker::segment::has_time;
use crate::worker::topics::Topic;

/// The handling of a command of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// It has no effect on a target.
    Skip,
    /// It may run at any time.
    AnyTime,
    /// It runs in order, or is refused.
    InOrder,
}

/// Returns the handling of a command by a replay. A damaged command is reported when it runs.
pub(super) fn handling(entry: &Entry<'_>) -> Handling {
    match treatment(entry) {
        Ok(Some(Treatment::Ignore)) => Handling::Skip,
        Ok(Some(Treatment::Inline)) => Handling::AnyTime,
        Ok(Some(Treatment::Barrier | Treatment::Build | Treatment::Stop) | None) | Err(_) => {
            Handling::InOrder
        }
    }
}

impl PartitionWorker {
    /// Records the newest entry of another program that was applied.
    pub(super) fn note_newest(&self, entries: &[Located<'_>]) {
        if !self.reads_foreign {
            return;
        }
        let ids = entries.iter().map(|located| located.id);
        let applied = ids.filter(|id| has_time(*id)).max();
        let mut newest = self.newest();
        *newest = applied.max(*newest);
    }

    /// Returns the newest entry of another program that was applied.
    pub(super) fn newest(&self) -> MutexGuard<'_, Option<EntryId>> {
        // The entry is replaced as a whole, so it is usable even after a panic.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs or emits a command after everything before it was applied. `last` is the last entry
    /// before the command.
    pub(super) async fn pass_foreign_command(
        &self,
        topic: &Topic,
        located: &Located<'_>,
        last: Option<EntryId>,
    ) -> Result<Applied, ConsumerError> {
        let passed = match self.context.target() {
            Some(target) => self.run_foreign_command(target, topic, located, last).await,
            None => self.emit_command(located, topic).await,
        };
        self.note_newest(std::slice::from_ref(located));
        passed
    }

    /// Acknowledges the record of a command up to `end`, the last offset of the record, unless the
    /// record has more entries, which are not applied yet. `next` is the entry after the command.
    pub(super) fn acknowledge_command(
        &self,
        located: &Located<'_>,
        next: Option<&Located<'_>>,
        end: i64,
    ) {
        if next.is_none_or(|next| next.offset != located.offset) {
            self.acknowledge(NextOffset::after(end), Some(located.id), false);
        }
    }

    /// Runs a command on the target, unless it has already run there.
    async fn run_foreign_command(
        &self,
        target: &MongoSink,
        topic: &Topic,
        located: &Located<'_>,
        last: Option<EntryId>,
    ) -> Result<Applied, ConsumerError> {
        let names = namespaces(&located.entry).unwrap_or_default();
        if Side::of(&names, &self.context.filter) == Side::Outside {
            self.context.metrics.filtered.inc();
            return Ok(Applied::Done);
        }
        self.acknowledge(NextOffset::at(located.offset), last, true);
        // Without a time, the same command at another time has the same identity.
        if has_time(located.id) && target.has_run(&topic.source, located.id).await? {
            return Ok(Applied::Done);
        }
        if let Some(reason) = self.reason_of_unknown_order(&names, located.id).await? {
            let error = PlanError {
                index: 0,
                id: located.id,
                ns: located.entry.ns.to_owned(),
                fault: PlanFault::Unordered(reason),
            };
            let posted = self
                .context
                .post_entry(&self.assignment, topic, located, error);
            return posted.await;
        }
        let barrier = self.barrier_of(located, names);
        let mut bytes = Vec::new();
        let entry = with_barrier(&located.entry, &barrier, &mut bytes)
            .map_err(|source| self.damaged(located.offset, source))?;
        let located = Located { entry, ..*located };
        self.pass_barrier(target, topic, &located, &barrier, last)
            .await
    }

    /// Returns why the order of a command among the writes of its collections is unknown; `None` if
    /// it is known.
    async fn reason_of_unknown_order(
        &self,
        names: &[String],
        id: EntryId,
    ) -> Result<Option<UnknownOrder>, ConsumerError> {
        if !has_time(id) {
            return Ok(Some(UnknownOrder::NoTime));
        }
        let topic = &self.assignment.topic;
        let partitions = self.context.topics.partitions().await?;
        // A topic that was deleted since its record was read has no partitions.
        let own = partitions.get(topic).copied().unwrap_or(0);
        if own != 1 {
            return Ok(Some(UnknownOrder::SeveralPartitions {
                topic: topic.clone(),
                partitions: own,
            }));
        }
        let (topics, all) = (partitions.len(), partitions.values().sum::<i32>());
        if names.len() > 1 && all != 1 {
            return Ok(Some(UnknownOrder::SeveralTopics {
                namespaces: names.to_vec(),
                topics,
            }));
        }
        let foreign = self.context.topics.input().foreign();
        let is_of_mongoshake = foreign.is_some_and(|input| input.writer.is_mongoshake());
        if is_of_mongoshake && all != 1 {
            return Ok(Some(UnknownOrder::Mongoshake { topics }));
        }
        let newest = self.newest().map(|newest| newest.ts);
        let newest = newest.filter(|newest| id.ts < *newest);
        Ok(newest.map(|newest| UnknownOrder::AfterLaterEntries { newest }))
    }

    /// Returns the barrier of a command whose collections are only in this partition.
    fn barrier_of(&self, located: &Located<'_>, names: Vec<String>) -> Barrier {
        let topic = self.assignment.topic.clone();
        // A command follows the barrier of its partition. Here no barrier was written, and no other
        // worker waits for one.
        let leader_offset = located.offset - 1;
        Barrier {
            command: located.id,
            leader_topic: topic.clone(),
            leader_offset,
            ordered: true,
            passable: false,
            namespaces: Some(names),
            partitions: vec![TopicBarriers {
                topic,
                offsets: vec![leader_offset],
            }],
        }
    }
}

/// Appends the entry with its barrier, which tells the replay that the collections of the command
/// are in one partition.
fn with_barrier<'b>(
    entry: &Entry<'_>,
    barrier: &Barrier,
    bytes: &'b mut Vec<u8>,
) -> Result<Entry<'b>, Malformed> {
    barrier.write_command(entry, bytes)?;
    let document = Document::new(bytes)?;
    Entry::parse(document).map_err(|_| Malformed::Missing("op"))
}
