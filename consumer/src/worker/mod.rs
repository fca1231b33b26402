//! The worker of one assigned partition: decodes, filters, applies, acknowledges. In order.

pub mod applied;
pub mod assignment;
pub mod barrier;
pub mod batch;
pub mod chunk;
pub(crate) mod command_barrier;
pub(crate) mod dead_letters;
mod decoder;
pub(crate) mod deferred;
pub mod sink;
pub mod topics;

use std::sync::Arc;
use std::time::Instant;

use oplog_relay_core::barrier::{BARRIER_ORD, Barrier};
use oplog_relay_core::command::{is_command, scope};
use oplog_relay_core::document::Malformed;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;
use tokio::sync::mpsc;

use crate::dead_letter::{DeadLetters, Reason};
use crate::error::{ConsumerError, RecordPlace};
use crate::group::committed::Committed;
use crate::group::offsets::NextOffset;
use crate::replay::catalog::{Incarnations, Resolved};
use crate::replay::plan::PlanError;
use crate::telemetry::metrics::Metrics;
use crate::worker::applied::{Applied, SinkError};
use crate::worker::assignment::{
    AssignmentNumber, EndReport, PartitionLocks, ReportEvent, Reports, StopOffset, Token,
};
use crate::worker::batch::{Batch, Located};
use crate::worker::chunk::{Chunk, RecordSlot};
use crate::worker::sink::Sink;
use crate::worker::topics::{Topic, Topics};

use crate::worker::command_barrier::CommandBarrier;
use crate::worker::deferred::DeferredDocuments;
use decoder::{Decoder, formats};

/// What all workers share.
#[derive(Debug)]
pub struct WorkerContext {
    /// What the topics hold.
    pub topics: Topics,
    /// Where entries go.
    pub sink: Sink,
    /// Where records go that cannot be applied.
    pub dead_letters: DeadLetters,
    /// Which namespaces pass.
    pub filter: NamespaceFilter,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where to report.
    pub reports: Arc<Reports>,
    /// Whose turn it is at a partition.
    pub turns: PartitionLocks,
    /// Where the group stands.
    pub committed: Committed,
    /// Whether a command runs although a partition is past its barrier.
    pub allow_partial_reset: bool,
}

/// A worker to be started: made when its partition is assigned.
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
    /// Entries up to this one come before the group's start: they are passed over.
    pub after: Option<EntryId>,
    /// Where a replay that ends is to come to.
    pub goal: StopOffset,
    /// What to apply. Closed when the partition is given up.
    pub chunks: mpsc::Receiver<Chunk>,
}

impl Assignment {
    fn place(&self, offset: i64) -> RecordPlace {
        RecordPlace {
            topic: self.topic.clone(),
            partition: self.partition,
            offset,
        }
    }

    fn unplayable(&self, offset: i64, source: PlanError) -> ConsumerError {
        ConsumerError::Unplayable {
            place: self.place(offset),
            source: Box::new(source),
        }
    }
}

/// The worker of one partition.
#[derive(Debug)]
pub struct PartitionWorker {
    assignment: Assignment,
    context: Arc<WorkerContext>,
    /// Of the chunk at hand.
    decoder: Decoder,
    /// While something is held.
    waiting: Option<DeferredDocuments>,
}

impl PartitionWorker {
    /// A worker that has not begun.
    #[must_use]
    pub fn new(assignment: Assignment, context: Arc<WorkerContext>) -> Self {
        Self {
            assignment,
            context,
            decoder: Decoder::default(),
            waiting: None,
        }
    }

    /// Applies chunks until they end or the partition is taken away.
    ///
    /// # Errors
    /// When a record cannot be decoded or applied; what lies before it is acknowledged.
    pub async fn run(mut self) -> Result<(), ConsumerError> {
        let assignment = self.assignment.number;
        let reports = Arc::clone(&self.context.reports);
        let _end = EndReport {
            assignment,
            reports: Arc::clone(&reports),
        };
        let (topic, partition) = (self.assignment.topic.clone(), self.assignment.partition);
        let context = Arc::clone(&self.context);
        let turn = context
            .turns
            .take(&topic, partition, &self.assignment.token);
        let Some(_turn) = turn.await else {
            return Ok(());
        };
        self.context.sink.recall_held(&topic, partition).await?;
        let mut reached = None;
        while let Some(mut chunk) = self.next_chunk(reached).await? {
            let last = chunk
                .records
                .last()
                .map(|slot| NextOffset::after(slot.last));
            reached = last.or(reached);
            let bytes = chunk.cost();
            let outcome = self.apply(&mut chunk).await;
            chunk.clear();
            reports.send(assignment, ReportEvent::Released { bytes, chunk });
            if outcome? == Applied::Abandoned {
                break;
            }
        }
        self.context.sink.forget_held(&topic, partition);
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
                let (entries, usable) = self.decoder.read(chunk, from, &decoded);
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
                // The command will not run, and whoever waits for it has to know.
                if let Some(command) = self.decoder.command_of(chunk, usable.end) {
                    self.context.sink.pass_over(&topic.source, &command).await?;
                }
                self.acknowledge(NextOffset::after(last), None, false);
                from = usable.end + 1;
            }
        }
    }

    /// What the topic is; asked again where a record has none of its formats, as after a change of
    /// the routing.
    async fn topic_of(&self, chunk: &Chunk) -> Result<Arc<Topic>, ConsumerError> {
        let name = &self.assignment.topic;
        let mut topic = self.context.topics.get(name).await?;
        let knows_all = |topic: &Topic| {
            let mut records = chunk.records.iter().filter(|slot| is_record(slot));
            records.all(|slot| formats(topic, chunk, slot).next().is_some())
        };
        if !knows_all(&topic) {
            topic = self.context.topics.get_anew(name, knows_all).await?;
        }
        if self.context.sink.takes_lossy() {
            return Ok(topic);
        }
        let records = chunk.records.iter().filter(|slot| is_record(slot));
        let lossy = records
            .flat_map(|slot| formats(&topic, chunk, slot))
            .find(|format| !format.is_exact());
        match lossy {
            Some(format) => Err(ConsumerError::lossy(name, format)),
            None => Ok(topic),
        }
    }

    /// Applies the entries of the first `count` records of a chunk and acknowledges them.
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
            // Kept until the segment is applied: its entries borrow names from it.
            let oldest = entries.iter().map(|located| located.id).min();
            let lives = self
                .context
                .sink
                .incarnations_at(&topic.source, oldest)
                .await?;
            let (segment, rest) = self.segment(chunk, entries, lives.as_deref())?;
            let applied = self.apply_entries(&segment.entries, topic).await?;
            if applied == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            let last = segment.entries.last().map(|located| located.id);
            match segment.stop {
                None => {
                    let last = all.filter(|id| id.ord != BARRIER_ORD).or(last);
                    // What a filter left out moves it too.
                    if let Some(id) = last {
                        self.context
                            .metrics
                            .applied(i64::from(id.ts.seconds) * 1000);
                    }
                    if let Some(slot) = end {
                        self.acknowledge(NextOffset::after(slot.last), last, false);
                    }
                    return Ok(Applied::Done);
                }
                Some(Stop::Barrier(located, barrier, end)) => {
                    let settled = self.settle_held(&barrier, topic).await?;
                    if settled == Applied::Abandoned {
                        return Ok(Applied::Abandoned);
                    }
                    self.acknowledge(NextOffset::at(located.offset), last, true);
                    let meeting = CommandBarrier {
                        assignment: &self.assignment,
                        context: &self.context,
                        topic,
                    };
                    if meeting.pass(&located, &barrier).await? == Applied::Abandoned {
                        return Ok(Applied::Abandoned);
                    }
                    // Those behind other barriers wait for the command to be committed.
                    let urgent = located.id.ord != BARRIER_ORD || barrier.passable;
                    let last = Some(barrier.command);
                    self.acknowledge(NextOffset::after(end), last, urgent);
                }
                Some(Stop::Foreign(located)) => {
                    if reloaded.replace(located.id) == Some(located.id) {
                        return Err(self.foreign(&located));
                    }
                    self.context.sink.reload().await?;
                }
            }
            entries = rest;
        }
    }

    /// Deals with the documents that are held where a barrier is reached. If its command ran before,
    /// the target is ahead, and what refuses them makes way; otherwise they become dead letters
    /// where the operator wants that.
    async fn settle_held(
        &self,
        barrier: &Barrier,
        topic: &Topic,
    ) -> Result<Applied, ConsumerError> {
        let Assignment {
            topic: name,
            partition,
            token,
            ..
        } = &self.assignment;
        let sink = &self.context.sink;
        // Later entries may still correct what a passable barrier leaves behind.
        if barrier.passable || sink.held_since(name, *partition).is_none() {
            return Ok(Applied::Done);
        }
        let ran = sink.has_run(&topic.source, barrier.command).await?;
        let nothing = self.batch(&[], topic);
        if sink.release_held(&nothing, ran, token).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        self.context.post_held(&self.assignment, topic).await
    }

    /// The entries up to a barrier, or to one whose collection is not known as its own, and what comes
    /// after them.
    fn segment<'s, 'c: 's>(
        &self,
        chunk: &Chunk,
        mut all: Vec<Located<'c>>,
        lives: Option<&'s Incarnations>,
    ) -> Result<(Segment<'s>, Vec<Located<'c>>), ConsumerError> {
        let (mut kept, mut next) = (0, all.len());
        let (mut stop, mut renamed) = (None, false);
        for index in 0..all.len() {
            let Some(located) = all.get(index) else { break };
            match self.judge(located, lives)? {
                Judged::Apply { under_another } => {
                    renamed |= under_another;
                    all.swap(kept, index);
                    kept += 1;
                }
                Judged::Pass => {}
                Judged::Barrier(barrier) => {
                    let end = chunk.last_offset(located.offset);
                    stop = Some(Stop::Barrier(*located, barrier, end));
                    next = index + 1;
                    break;
                }
                Judged::Foreign => {
                    stop = Some(Stop::Foreign(*located));
                    next = index;
                    break;
                }
            }
        }
        let rest = all.split_off(next);
        all.truncate(kept);
        let mut entries: Vec<Located<'s>> = all;
        // Not in the walk above: what follows a stop outlives these names.
        for located in entries.iter_mut().filter(|_| renamed) {
            if let Found::Here(ns) = find(located, lives) {
                located.entry.ns = ns;
            }
        }
        Ok((Segment { entries, stop }, rest))
    }

    /// What is to be done with an entry.
    fn judge(
        &self,
        located: &Located<'_>,
        lives: Option<&Incarnations>,
    ) -> Result<Judged, ConsumerError> {
        let entry = &located.entry;
        let barrier =
            Barrier::read(entry).map_err(|source| self.damaged(located.offset, source))?;
        let id = barrier
            .as_ref()
            .map_or(located.id, |barrier| barrier.command);
        if self.assignment.after.is_some_and(|after| id <= after) {
            return Ok(Judged::Pass);
        }
        if let Some(barrier) = barrier {
            return Ok(Judged::Barrier(barrier));
        }
        if entry.operation == Operation::Noop {
            return Ok(Judged::Pass);
        }
        if !self.passes(entry) {
            self.context.metrics.filtered.inc();
            return Ok(Judged::Pass);
        }
        Ok(match find(located, lives) {
            Found::Here(ns) => Judged::Apply {
                under_another: ns != entry.ns,
            },
            Found::Gone => {
                self.context.metrics.dropped_entries.inc();
                Judged::Pass
            }
            Found::Foreign => Judged::Foreign,
        })
    }

    /// Applies entries; those that cannot be applied become dead letters, or stop.
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
                // The entry that failed is not among these.
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

    /// Applies a batch; what the target refuses of it is a dead letter when this is done.
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
        metrics.count(batch.entries);
        Ok(Applied::Done)
    }

    /// Applies what lies before the record of an entry that cannot be applied, then fails.
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
        let entries = batch.entries.get(..before).unwrap_or_default();
        match self.apply_batch(&Batch { entries, ..*batch }, topic).await {
            Ok(Applied::Done) => {
                let last = entries.last().map(|located| located.id);
                self.acknowledge(NextOffset::at(offset), last, false);
            }
            Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
            Err(SinkError::Fatal(error)) => return Err(error),
            // The entry that failed is not among these.
            Err(SinkError::Entry(_)) => {}
        }
        Err(self.assignment.unplayable(offset, error))
    }

    fn acknowledge(&self, next: NextOffset, last: Option<EntryId>, urgent: bool) {
        let Assignment {
            topic, partition, ..
        } = &self.assignment;
        let held = self.context.sink.held_since(topic, *partition);
        let next = held.map_or(next, |held| next.min(NextOffset::at(held)));
        // Where the group began within a second is kept until that is behind.
        let last = last.max(self.assignment.after.filter(|_| last.is_some()));
        let event = ReportEvent::Acknowledged { next, last, urgent };
        self.context.reports.send(self.assignment.number, event);
    }

    /// A command's own namespace is `db.$cmd`: its collection is in the command.
    fn passes(&self, entry: &Entry<'_>) -> bool {
        if !is_command(entry) {
            return self.context.filter.passes(entry.ns);
        }
        let scope = scope(entry).ok().flatten();
        scope.is_none_or(|scope| self.context.filter.passes(&scope.ns()))
    }

    fn damaged(&self, offset: i64, source: Malformed) -> ConsumerError {
        ConsumerError::Undecodable {
            place: self.assignment.place(offset),
            source: Box::new(source.into()),
        }
    }

    fn foreign(&self, located: &Located<'_>) -> ConsumerError {
        ConsumerError::Refused(format!(
            "{}: entry {} was written to another collection of the name {} than the one that the \
             target's catalog knows under it: a command between the two is missing, as after a \
             start in the middle or a filter that hid it. Replay from the beginning into an empty \
             target",
            self.assignment.place(located.offset),
            located.id,
            located.entry.ns
        ))
    }
}

/// Entries that are applied at once, and what comes after them.
struct Segment<'c> {
    entries: Vec<Located<'c>>,
    stop: Option<Stop<'c>>,
}

/// What ends a segment.
enum Stop<'c> {
    /// A barrier, or the command behind one, and the last offset that it has.
    Barrier(Located<'c>, Barrier, i64),
    /// An entry of a collection that has the name of another one.
    Foreign(Located<'c>),
}

/// What is to be done with an entry.
enum Judged {
    /// It is applied, perhaps under another name than its own.
    Apply {
        under_another: bool,
    },
    /// Nothing: it is before the start, changes nothing, is filtered, or of a dropped collection.
    Pass,
    Barrier(Barrier),
    /// It is of a collection that has the name of another one.
    Foreign,
}

/// Where an entry's collection is.
enum Found<'n> {
    /// Under this name, which may not be the one that the entry has.
    Here(&'n str),
    /// Dropped.
    Gone,
    /// Another collection has its name.
    Foreign,
}

fn find<'n>(located: &Located<'n>, lives: Option<&'n Incarnations>) -> Found<'n> {
    let Entry { ns, ui, .. } = located.entry;
    let Some(lives) = lives else {
        return Found::Here(ns);
    };
    if lives.is_empty() || is_command(&located.entry) {
        return Found::Here(ns);
    }
    match lives.resolve(ns, located.id, ui) {
        Resolved::Live(ns) => Found::Here(ns),
        Resolved::Dropped => Found::Gone,
        Resolved::Foreign => Found::Foreign,
    }
}

/// Whether it is one that can be decoded.
fn is_record(slot: &RecordSlot) -> bool {
    slot.fault.is_none() && !slot.value.is_empty()
}
