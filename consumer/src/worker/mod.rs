//! The worker of one assigned partition. It decodes, filters, applies and acknowledges the records in
//! order.
//!
//! # Modules
//!
//! - `context` has the state that workers share; `assignment` links a worker to the poll thread
//! - `chunk` carries records to a worker; `decoder` turns them into entries, and `segment` splits
//!   these at the next stop
//! - `batch` is the input of a `sink`; `applied` is its result
//! - `barrier` waits for other partitions; `command_barrier` runs the command
//! - `foreign_command` handles the commands of other programs, and `foreign_notes` logs what cannot
//!   be known from their topics
//! - `held_documents` tries to write held documents again
//! - `dead_letters` makes dead letters
//! - `topics` knows the topics with their sources and formats; `source_gaps` finds the stretches that a
//!   producer has skipped
//! - `barrier_error` has the reasons why a command cannot run; `record_error` and `topic_error`
//!   have those of records and topics

pub mod applied;
pub mod assignment;
pub mod barrier;
pub mod barrier_error;
pub mod batch;
pub mod chunk;
pub(crate) mod command_barrier;
mod context;
pub(crate) mod dead_letters;
mod decoder;
mod foreign_command;
pub(crate) mod foreign_notes;
pub(crate) mod held_documents;
pub mod record_error;
mod segment;
pub mod sink;
mod source_gaps;
pub mod topic_error;
pub mod topics;

pub use context::{Assignment, WorkerContext};

use std::sync::{Arc, Mutex};
use std::time::Instant;

use oplog_relay_core::barrier::{BARRIER_ORD, Barrier};
use oplog_relay_core::command::namespaces;
use oplog_relay_core::document::Malformed;
use oplog_relay_core::entry::Operation;
use oplog_relay_core::format::FormatError;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::clock::TimePoint;

use crate::dead_letter::Reason;
use crate::error::ConsumerError;
use crate::group::offsets::NextOffset;
use crate::replay::MongoSink;
use crate::replay::catalog::Incarnations;
use crate::replay::plan::PlanError;
use crate::worker::applied::{Applied, SinkError};
use crate::worker::assignment::{EndReport, ReportEvent};
use crate::worker::barrier::Side;
use crate::worker::batch::{Batch, Located};
use crate::worker::chunk::{Chunk, RecordSlot};
use crate::worker::command_barrier::CommandBarrier;
use crate::worker::decoder::{Decoder, Readable, formats};
use crate::worker::held_documents::Attempts;
use crate::worker::record_error::RecordError;
use crate::worker::segment::{Split, Stop, has_time};
use crate::worker::topics::Topic;

/// The worker of one partition.
#[derive(Debug)]
pub struct PartitionWorker {
    assignment: Assignment,
    context: Arc<WorkerContext>,
    /// The decoder of the current chunk.
    decoder: Decoder,
    /// Time at which the first record of the current chunk was taken from the Kafka client.
    taken: Option<TimePoint>,
    /// Set while documents are held.
    attempts: Option<Attempts>,
    /// True if another program writes the topic.
    reads_foreign: bool,
    /// The newest entry of another program that was applied, in this assignment or an earlier one.
    newest: Mutex<Option<EntryId>>,
}

impl PartitionWorker {
    /// Creates a worker that has not started.
    #[must_use]
    pub fn new(assignment: Assignment, context: Arc<WorkerContext>) -> Self {
        let reads_foreign = context.topics.input().foreign().is_some();
        let newest = Mutex::new(assignment.last);
        Self {
            assignment,
            context,
            decoder: Decoder::default(),
            taken: None,
            attempts: None,
            reads_foreign,
            newest,
        }
    }

    /// Applies chunks until the queue is closed or the partition is revoked.
    ///
    /// # Errors
    /// Returns an error if a record cannot be decoded or applied. The records before it are
    /// acknowledged.
    pub async fn run(mut self) -> Result<(), ConsumerError> {
        let assignment = self.assignment.number;
        let _end = EndReport {
            assignment,
            reports: Arc::clone(&self.context.reports),
        };
        let (topic, partition) = (self.assignment.topic.clone(), self.assignment.partition);
        let context = Arc::clone(&self.context);
        let lock = context
            .partition_locks
            .take(&topic, partition, &self.assignment.token);
        let Some(_lock) = lock.await else {
            return Ok(());
        };
        let Some(target) = context.target() else {
            return self.apply_chunks().await;
        };
        target.recall_held(&topic, partition).await?;
        let applied = self.apply_chunks().await;
        match &applied {
            Ok(()) => target.forget_held(&topic, partition),
            // A held document that was deleted to be moved must not be missing while the replay is
            // stopped.
            Err(error) => {
                let token = &self.assignment.token;
                target.restore_held(&topic, partition, error, token).await;
            }
        }
        applied
    }

    /// Applies chunks until the queue is closed or the partition is revoked.
    async fn apply_chunks(&mut self) -> Result<(), ConsumerError> {
        let assignment = self.assignment.number;
        let reports = Arc::clone(&self.context.reports);
        let mut reached = None;
        while let Some(mut chunk) = self.next_chunk(reached).await? {
            let last = chunk
                .records
                .last()
                .map(|slot| NextOffset::after(slot.last));
            reached = last.or(reached);
            let bytes = chunk.cost();
            self.taken = chunk.taken;
            let outcome = self.apply(&mut chunk).await;
            chunk.clear();
            reports.send(assignment, ReportEvent::Released { bytes, chunk });
            if outcome? == Applied::Abandoned {
                break;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, chunk: &mut Chunk) -> Result<Applied, ConsumerError> {
        if !self.assignment.token.is_valid() {
            return Ok(Applied::Abandoned);
        }
        let topic = self.topic_of(chunk).await?;
        let mut from = 0;
        loop {
            let decoded = self.decoder.decode(chunk, &topic, from);
            while from <= decoded.end {
                let Readable { entries, usable } = self.decoder.read(chunk, from, &decoded);
                let done = self
                    .apply_decoded(chunk, &topic, entries, usable.end)
                    .await?;
                let Some(fault) = usable.fault.filter(|_| done == Applied::Done) else {
                    return Ok(done);
                };
                let slot = chunk.records.get(usable.end);
                let (offset, last) = slot.map_or((-1, -1), |slot| (slot.offset, slot.last));
                let posted = self
                    .context
                    .post_record(&self.assignment, offset, fault)
                    .await?;
                if posted == Applied::Abandoned {
                    return Ok(Applied::Abandoned);
                }
                // The command will not run. It is recorded as passed over, because the workers at
                // its barriers stop if the catalog does not have it.
                if let Some(target) = self.context.target()
                    && let Some(command) = self.decoder.command_of(chunk, usable.end)
                {
                    target.pass_over(&topic.source, &command).await?;
                }
                self.acknowledge(NextOffset::after(last), None, false);
                from = usable.end + 1;
            }
        }
    }

    /// Returns the description of the topic. The description is read again if a record fits none of
    /// the topic's known formats, which happens after a change of the routing.
    async fn topic_of(&self, chunk: &Chunk) -> Result<Arc<Topic>, ConsumerError> {
        let Assignment {
            topic: name,
            partition,
            ..
        } = &self.assignment;
        let topics = &self.context.topics;
        if self.reads_foreign {
            return topics.get_with_partition(name, *partition).await;
        }
        let found = topics.get(name).await;
        let mut topic =
            found.map_err(|error| foreign_notes::naming_the_writer(error, first_value(chunk)))?;
        let knows_all = |topic: &Topic| {
            let mut records = chunk.records.iter().filter(|slot| is_record(slot));
            records.all(|slot| formats(topic, chunk, slot).next().is_some())
        };
        if !knows_all(&topic) {
            topic = self.context.topics.get_changed(name, knows_all).await?;
        }
        let records = chunk.records.iter().filter(|slot| is_record(slot));
        for format in records.flat_map(|slot| formats(&topic, chunk, slot)) {
            self.context.sink.check_format(name, format)?;
        }
        Ok(topic)
    }

    /// Applies the entries of the first `count` records of a chunk and acknowledges these records.
    async fn apply_decoded(
        &self,
        chunk: &Chunk,
        topic: &Topic,
        mut entries: Vec<Located<'_>>,
        count: usize,
    ) -> Result<Applied, ConsumerError> {
        let end = chunk.records.get(..count).and_then(<[_]>::last);
        let all = entries.last().map(|located| located.id);
        let mut reloaded = None;
        loop {
            // The incarnations are kept until the segment is applied, because its entries borrow names
            // from them.
            let incarnations = self.incarnations_of(&entries, topic).await?;
            let Split { segment, rest } = self.segment(chunk, entries, incarnations.as_deref())?;
            let applied = self.apply_entries(&segment.entries, topic).await?;
            if applied == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            self.note_newest(&segment.entries);
            let last = segment.entries.last().map(|located| located.id);
            match segment.stop {
                None => {
                    let last = all.filter(|id| id.ord != BARRIER_ORD).or(last);
                    // Entries that a filter excluded also advance the position.
                    if let Some(id) = last.filter(|id| has_time(*id)) {
                        let applied = i64::from(id.ts.seconds) * 1000;
                        self.context.metrics.applied(applied);
                    }
                    if let Some(slot) = end {
                        self.acknowledge(NextOffset::after(slot.last), last, false);
                    }
                    return Ok(Applied::Done);
                }
                Some(Stop::Barrier(at)) => {
                    let passed = match self.context.target() {
                        Some(target) => {
                            self.pass_barrier(target, topic, &at.located, &at.barrier, last)
                                .await?
                        }
                        None => self.emit_command(&at.located, topic).await?,
                    };
                    if passed == Applied::Abandoned {
                        return Ok(Applied::Abandoned);
                    }
                    // Followers wait until the command is committed, and the leader of a passable
                    // barrier waits until every barrier is committed.
                    let urgent = at.located.id.ord != BARRIER_ORD || at.barrier.passable;
                    let last = Some(at.barrier.command);
                    self.acknowledge(NextOffset::after(at.end), last, urgent);
                }
                Some(Stop::Command { located, end }) => {
                    let passed = self.pass_foreign_command(topic, &located, last).await?;
                    if passed == Applied::Abandoned {
                        return Ok(Applied::Abandoned);
                    }
                    self.acknowledge_command(&located, rest.first(), end);
                }
                Some(Stop::Foreign(located)) => {
                    if reloaded.replace(located.id) == Some(located.id) {
                        return Err(self.foreign(&located).into());
                    }
                    if let Some(target) = self.context.target() {
                        target.reload().await?;
                    }
                }
            }
            entries = rest;
        }
    }

    /// Returns the incarnations that the entries may belong to; `None` without a target or entries.
    async fn incarnations_of(
        &self,
        entries: &[Located<'_>],
        topic: &Topic,
    ) -> Result<Option<Arc<Incarnations>>, ConsumerError> {
        let oldest = entries.iter().map(|located| located.id).min();
        let (Some(target), Some(oldest)) = (self.context.target(), oldest) else {
            return Ok(None);
        };
        let found = target.incarnations_at(&topic.source, oldest).await?;
        Ok(Some(found))
    }

    /// Waits at a barrier, with everything before it applied, and passes it. `last` is the last
    /// entry before the barrier.
    async fn pass_barrier(
        &self,
        target: &MongoSink,
        topic: &Topic,
        located: &Located<'_>,
        barrier: &Barrier,
        last: Option<EntryId>,
    ) -> Result<Applied, ConsumerError> {
        let settled = self.settle_held(target, barrier, topic).await?;
        if settled == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        self.acknowledge(NextOffset::at(located.offset), last, true);
        let command_barrier = CommandBarrier {
            assignment: &self.assignment,
            context: &self.context,
            target,
            topic,
        };
        command_barrier.pass(located, barrier).await
    }

    /// Emits a command. `emit` does not wait at barriers. The records of barriers and of changes of
    /// the routing are noop entries, which are not emitted.
    async fn emit_command(
        &self,
        located: &Located<'_>,
        topic: &Topic,
    ) -> Result<Applied, ConsumerError> {
        if located.entry.operation == Operation::Noop {
            return Ok(Applied::Done);
        }
        let names = namespaces(&located.entry).unwrap_or_default();
        if Side::of(&names, &self.context.filter) == Side::Outside {
            self.context.metrics.filtered.inc();
            return Ok(Applied::Done);
        }
        self.apply_entries(std::slice::from_ref(located), topic)
            .await
    }

    /// Settles the documents that are held when a barrier is reached: tries to write them again,
    /// and makes dead letters of those that are still refused, if the operator has enabled that. If
    /// the command has already run, the target is ahead, so unique indexes that the replay created
    /// may be suspended for them.
    async fn settle_held(
        &self,
        target: &MongoSink,
        barrier: &Barrier,
        topic: &Topic,
    ) -> Result<Applied, ConsumerError> {
        let Assignment {
            topic: name,
            partition,
            token,
            ..
        } = &self.assignment;
        // Later entries may still correct the documents that are held at a passable barrier.
        if barrier.passable || target.held_since(name, *partition).is_none() {
            return Ok(Applied::Done);
        }
        let ran = target.has_run(&topic.source, barrier.command).await?;
        let nothing = self.batch(&[], topic);
        if target.release_held(&nothing, ran, token).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        // A document that was refused for another reason is no longer held, so its offset is about to
        // be committed.
        let posted = self
            .context
            .post_refused(&self.assignment, topic, &nothing)
            .await?;
        if posted == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        self.context
            .post_held(target, &self.assignment, topic)
            .await
    }

    /// Applies entries. An entry that cannot be applied becomes a dead letter or stops the worker.
    async fn apply_entries(
        &self,
        entries: &[Located<'_>],
        topic: &Topic,
    ) -> Result<Applied, ConsumerError> {
        let mut rest = entries;
        while !rest.is_empty() {
            let batch = self.batch(rest, topic);
            let error = match self.apply_batch(&batch, topic).await {
                Ok(applied) => return Ok(applied),
                Err(SinkError::Fatal(error)) => return Err(error),
                Err(SinkError::Entry(error)) => error,
            };
            let reason = Reason::from(&error.fault);
            let Some(failed) = rest
                .get(error.index)
                .filter(|_| self.context.dead_letters.takes(reason))
            else {
                return self.stop_before(&batch, topic, error).await;
            };
            let (before, after) = rest.split_at(error.index);
            match self.apply_batch(&self.batch(before, topic), topic).await {
                Ok(Applied::Done) => {}
                Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
                Err(SinkError::Fatal(error)) => return Err(error),
                // The entry that failed is not among these entries.
                Err(SinkError::Entry(_)) => {}
            }
            let posted = self
                .context
                .post_entry(&self.assignment, topic, failed, error);
            if posted.await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            rest = after.get(1..).unwrap_or_default();
        }
        Ok(Applied::Done)
    }

    fn batch<'b>(&'b self, entries: &'b [Located<'b>], topic: &'b Topic) -> Batch<'b> {
        Batch {
            topic: &self.assignment.topic,
            partition: self.assignment.partition,
            source: &topic.source,
            entries,
        }
    }

    /// Applies a batch. When this returns, the writes that the target refused have become dead
    /// letters.
    async fn apply_batch(&self, batch: &Batch<'_>, topic: &Topic) -> Result<Applied, SinkError> {
        if batch.entries.is_empty() {
            return Ok(Applied::Done);
        }
        let begun = Instant::now();
        let applied = self
            .context
            .sink
            .apply(batch, &self.assignment.token)
            .await?;
        let posted = self
            .context
            .post_refused(&self.assignment, topic, batch)
            .await?;
        if (applied, posted) != (Applied::Done, Applied::Done) {
            return Ok(Applied::Abandoned);
        }
        let metrics = &self.context.metrics;
        metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        if let (Some(taken), Some(last)) = (self.taken, batch.entries.last()) {
            metrics.latency.observe(taken, last.entry.wall, begun);
        }
        metrics.count(batch.entries);
        Ok(Applied::Done)
    }

    /// Applies the entries before the record of an entry that cannot be applied, then fails.
    async fn stop_before(
        &self,
        batch: &Batch<'_>,
        topic: &Topic,
        error: PlanError,
    ) -> Result<Applied, ConsumerError> {
        let offset = batch
            .entries
            .get(error.index)
            .map_or(-1, |located| located.offset);
        let before = batch
            .entries
            .iter()
            .take_while(|located| located.offset < offset)
            .count();
        let (entries, _) = batch.entries.split_at(before);
        match self.apply_batch(&Batch { entries, ..*batch }, topic).await {
            Ok(Applied::Done) => {
                self.note_newest(entries);
                let last = entries.last().map(|located| located.id);
                self.acknowledge(NextOffset::at(offset), last, false);
            }
            Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
            Err(SinkError::Fatal(error)) => return Err(error),
            // The entry that failed is not among these entries.
            Err(SinkError::Entry(_)) => {}
        }
        Err(self.assignment.unplayable(offset, error))
    }

    fn acknowledge(&self, next: NextOffset, last: Option<EntryId>, urgent: bool) {
        let Assignment {
            topic, partition, ..
        } = &self.assignment;
        let target = self.context.target();
        let held = target.and_then(|target| target.held_since(topic, *partition));
        let next = held.map_or(next, |held| next.min(NextOffset::at(held)));
        // Until an entry after the start of the group is acknowledged, the metadata keeps the id
        // that the group starts after.
        let last = match self.reads_foreign {
            // The order of commands is checked against the newest entry, even after a restart.
            true => *self.newest(),
            false => last.filter(|id| has_time(*id)),
        };
        let last = last.max(self.assignment.after.filter(|_| last.is_some()));
        let event = ReportEvent::Acknowledged { next, last, urgent };
        self.context.reports.send(self.assignment.number, event);
    }

    fn damaged(&self, offset: i64, source: Malformed) -> ConsumerError {
        ConsumerError::Undecodable {
            position: self.assignment.position(offset),
            source: Box::new(FormatError::from(source).into()),
        }
    }

    fn foreign(&self, located: &Located<'_>) -> RecordError {
        RecordError::OtherCollection {
            position: self.assignment.position(located.offset),
            entry: located.id,
            ns: located.entry.ns.to_owned(),
        }
    }
}

/// Returns the value of the first record of a chunk that can be decoded.
fn first_value(chunk: &Chunk) -> Option<&[u8]> {
    let first = chunk.records.iter().find(|slot| is_record(slot))?;
    chunk.arena.get(first.value.clone())
}

/// Returns true if a record can be decoded.
fn is_record(slot: &RecordSlot) -> bool {
    slot.fault.is_none() && !slot.value.is_empty()
}
