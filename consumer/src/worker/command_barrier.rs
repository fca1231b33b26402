//! A worker at a barrier: it follows the leader, or it is the leader and runs the command.

use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::command::{namespaces, scope, write_drop};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};

use super::{Assignment, WorkerContext};
use crate::error::ConsumerError;
use crate::replay::MongoSink;
use crate::replay::held_documents::error::HeldError;
use crate::replay::plan::PlanFault;
use crate::worker::applied::{Applied, SinkError};
use crate::worker::assignment::ReportEvent;
use crate::worker::barrier::{
    AbsentTopics, Side, Waited, absent_topic, follow, gather, is_left_out, needs_note,
};
use crate::worker::barrier_error::BarrierError;
use crate::worker::batch::{Batch, Located};
use crate::worker::topics::Topic;

/// A worker that has reached a barrier, with everything before it applied and acknowledged.
pub(crate) struct CommandBarrier<'w> {
    pub(crate) assignment: &'w Assignment,
    pub(crate) context: &'w WorkerContext,
    pub(crate) target: &'w MongoSink,
    pub(crate) topic: &'w Topic,
}

impl CommandBarrier<'_> {
    /// Waits until the barrier, or the command after it, may be passed, and passes it.
    ///
    /// # Errors
    /// Returns an error if the command cannot run.
    pub(crate) async fn pass(
        &self,
        located: &Located<'_>,
        barrier: &Barrier,
    ) -> Result<Applied, ConsumerError> {
        // A change of the routing is a noop entry, which the leader runs like a command.
        let is_command = located.entry.operation != Operation::Noop || barrier.is_command();
        if is_command {
            return self.lead(located, barrier).await;
        }
        if barrier.passable {
            return Ok(Applied::Done);
        }
        // The next record of this partition is the command, so the wait takes place there.
        let leads = self.assignment.partition == 0 && self.assignment.topic == barrier.leader_topic;
        if leads {
            return Ok(Applied::Done);
        }
        self.follow(barrier).await
    }

    /// Waits until the leader is past the command, and checks that the command ran.
    async fn follow(&self, barrier: &Barrier) -> Result<Applied, ConsumerError> {
        self.check_nothing_held()?;
        self.holding(true);
        let (committed, token) = (&self.context.committed, &self.assignment.token);
        let waited = follow(committed, barrier, token, self.absent_topics()).await;
        self.holding(false);
        match waited {
            Waited::Reached | Waited::Beyond { .. } => {}
            Waited::Absent { name, why } => return Err(absent_topic(barrier, &name, why)),
            Waited::Abandoned => return Ok(Applied::Abandoned),
        }
        if is_left_out(barrier, &self.context.filter) {
            return Ok(Applied::Done);
        }
        // This also reads from the catalog what the command did, which later entries depend on.
        let source = &self.topic.source;
        if self.target.has_run(source, barrier.command).await? {
            return Ok(Applied::Done);
        }
        if self.context.allow_partial_reset {
            tracing::warn!(command = %barrier.command, "continuing past a command that did not run");
            return Ok(Applied::Done);
        }
        let skipped = BarrierError::Skipped {
            command: barrier.command,
            leader_topic: barrier.leader_topic.clone(),
        };
        Err(skipped.into())
    }

    /// Checks that no document is held before a command, even if the command has already run: a
    /// held document keeps the committed offset before the barrier, so the other partitions would
    /// wait indefinitely.
    fn check_nothing_held(&self) -> Result<(), ConsumerError> {
        let Assignment {
            topic, partition, ..
        } = self.assignment;
        match self.target.first_held(topic, *partition) {
            None => Ok(()),
            Some(first) => Err(HeldError::BeforeCommand {
                position: self.assignment.position(first.offset),
                refusal: first.refusal,
            }
            .into()),
        }
    }

    const fn absent_topics(&self) -> AbsentTopics {
        match self.context.allow_partial_reset {
            true => AbsentTopics::PassOver,
            false => AbsentTopics::Report,
        }
    }

    fn holding(&self, holding: bool) {
        let event = ReportEvent::Holding(holding);
        self.context.reports.send(self.assignment.number, event);
    }

    /// Runs the command when all partitions have reached their barriers, unless it is excluded or
    /// has already run. The leader waits for the partitions even then: the later entries of a
    /// document that the command moved to another partition must not overtake the earlier ones when
    /// entries are replayed again.
    async fn lead(
        &self,
        located: &Located<'_>,
        barrier: &Barrier,
    ) -> Result<Applied, ConsumerError> {
        let side = self.side(located)?;
        if side == Side::Outside {
            return self.leave_out(located, barrier).await;
        }
        if !barrier.passable {
            self.check_nothing_held()?;
        }
        self.holding(true);
        let (committed, token) = (&self.context.committed, &self.assignment.token);
        let waited = gather(committed, barrier, token, self.absent_topics()).await;
        self.holding(false);
        match &waited {
            Waited::Reached | Waited::Beyond { .. } => {}
            Waited::Absent { name, why } => return Err(absent_topic(barrier, name, *why)),
            Waited::Abandoned => return Ok(Applied::Abandoned),
        }
        // This is checked after the wait. Another owner may have run the command in the meantime
        // and continued, or a member of an earlier version may have removed the command's note.
        let ran = self.target.has_run_now(&self.topic.source, located.id);
        if ran.await? {
            return Ok(Applied::Done);
        }
        match waited {
            Waited::Reached | Waited::Absent { .. } | Waited::Abandoned => {}
            Waited::Beyond { name, committed } if self.context.allow_partial_reset => {
                tracing::warn!(
                    command = %barrier.command,
                    topic = name.topic,
                    partition = name.partition,
                    committed,
                    "running a command although a partition is past its barrier"
                );
            }
            Waited::Beyond { name, committed } => {
                let no_cut = BarrierError::NoCut {
                    command: barrier.command,
                    leader_topic: barrier.leader_topic.clone(),
                    beyond: name,
                    committed,
                };
                return Err(no_cut.into());
            }
        }
        if side == Side::Leaves {
            return self.run_as_drop(located).await;
        }
        self.run(located).await
    }

    /// Passes over a command that concerns only excluded collections. If the followers cannot detect
    /// this from the barrier, it is recorded in the catalog.
    async fn leave_out(
        &self,
        located: &Located<'_>,
        barrier: &Barrier,
    ) -> Result<Applied, ConsumerError> {
        if needs_note(barrier) {
            self.target.pass_over(&self.topic.source, located).await?;
        }
        Ok(Applied::Done)
    }

    /// Runs a rename to an excluded namespace as a drop of the collection.
    async fn run_as_drop(&self, located: &Located<'_>) -> Result<Applied, ConsumerError> {
        let renamed = scope(&located.entry).map_err(|error| self.damaged(located, error))?;
        let collection = renamed
            .map(|scope| scope.collection)
            .expect("a command with two names concerns a collection");
        let mut bytes = Vec::new();
        write_drop(&located.entry, collection, &mut bytes)
            .map_err(|error| self.damaged(located, error))?;
        let entry = Document::new(&bytes).map_err(|error| self.damaged(located, error))?;
        let entry = Entry::parse(entry).map_err(|error| self.damaged(located, error))?;
        self.run(&Located { entry, ..*located }).await
    }

    async fn run(&self, located: &Located<'_>) -> Result<Applied, ConsumerError> {
        if located.entry.operation == Operation::Noop {
            let filter = &self.context.filter;
            let token = &self.assignment.token;
            return self
                .target
                .change_routing(&self.topic.source, located, filter, token)
                .await;
        }
        let entries = std::slice::from_ref(located);
        let batch = Batch {
            topic: &self.assignment.topic,
            partition: self.assignment.partition,
            source: &self.topic.source,
            entries,
        };
        match self.target.apply(&batch, &self.assignment.token).await {
            Ok(Applied::Abandoned) => Ok(Applied::Abandoned),
            Ok(Applied::Done) => {
                self.context.metrics.count(entries);
                // Documents that were held before a passable barrier were tried again after the command.
                self.context
                    .post_refused(self.assignment, self.topic, &batch)
                    .await
            }
            Err(SinkError::Fatal(error)) => Err(error),
            Err(SinkError::Entry(error)) => {
                self.context
                    .post_entry(self.assignment, self.topic, located, error)
                    .await
            }
        }
    }

    fn side(&self, located: &Located<'_>) -> Result<Side, ConsumerError> {
        let names = namespaces(&located.entry).map_err(|error| self.damaged(located, error))?;
        let side = Side::of(&names, &self.context.filter);
        match (side, names.as_slice()) {
            (Side::Enters, [from, to]) => Err(BarrierError::EntersSubscription {
                position: self.assignment.position(located.offset),
                from: from.clone(),
                to: to.clone(),
            }
            .into()),
            _ => Ok(side),
        }
    }

    fn damaged(&self, located: &Located<'_>, source: impl Into<PlanFault>) -> BarrierError {
        BarrierError::Damaged {
            position: self.assignment.position(located.offset),
            command: located.id,
            source: source.into(),
        }
    }
}
