//! Where entries go: a sink takes the batches of all partitions and says when each is durable.
//!
//! The contract of [`Sink::apply`]: the entries of one batch are applied in order per document;
//! batches of one partition come one after the other, those of different partitions at once.
//! [`Applied::Done`] means durable, for a file once [`Durability::make_durable`] returns. Applying a batch again, or a part of it, is harmless. Before
//! each write the token is checked: without it nothing is written any more. What the target refuses
//! of a batch, where that does not stop, is reported by [`Sink::take_refused`].

use std::sync::Arc;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;

use crate::error::ConsumerError;
use crate::group::start::Past;
use crate::replay::catalog::{Incarnations, Subscription};
use crate::worker::applied::{Applied, Durability, Refusal, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::{Batch, Located};

/// Where entries go. The set is closed.
#[derive(Debug)]
pub enum Sink {
    /// `replay`
    Mongo(Box<crate::replay::MongoSink>),
    /// `emit`
    Json(crate::emit::JsonSink),
}

impl Sink {
    /// Applies a batch; see the module's contract.
    ///
    /// # Errors
    /// [`SinkError`].
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        match self {
            Self::Mongo(sink) => sink.apply(batch, token).await,
            Self::Json(sink) => sink.apply(batch, token).await,
        }
    }

    /// How what is applied becomes durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match self {
            Self::Mongo(_) => Durability::Immediate,
            Self::Json(sink) => sink.durability(),
        }
    }

    /// What is known about the group's past at the place that it writes to.
    ///
    /// # Errors
    /// When the target refuses the question.
    pub async fn past(&self, prefix: &str) -> Result<Past, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.past(prefix).await,
            Self::Json(sink) => Ok(sink.past()),
        }
    }

    /// Notes that the group has committed offsets of the prefix's topics.
    ///
    /// # Errors
    /// When the target refuses the note.
    pub async fn note_begun(&self, prefix: &str) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.note_begun(prefix).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Whether commands wait for their barriers: what only emits does not.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self, Self::Mongo(_))
    }

    /// The lives of a source's names, where the sink keeps them, for an entry and those after it.
    ///
    /// # Errors
    /// When the target refuses to tell of commands that are older than what is held.
    pub async fn incarnations_at(
        &self,
        source: &str,
        oldest: Option<EntryId>,
    ) -> Result<Option<Arc<Incarnations>>, ConsumerError> {
        match (self, oldest) {
            (Self::Mongo(sink), Some(oldest)) => {
                sink.incarnations_at(source, oldest).await.map(Some)
            }
            (Self::Mongo(_), None) | (Self::Json(_), _) => Ok(None),
        }
    }

    /// Reads the catalog again.
    ///
    /// # Errors
    /// When the target refuses it.
    pub async fn reload(&self) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.reload().await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Whether a command ran on the target, by whichever member.
    ///
    /// # Errors
    /// When the target refuses the question.
    pub async fn has_run(&self, source: &str, id: EntryId) -> Result<bool, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.has_run(source, id).await,
            Self::Json(_) => Ok(false),
        }
    }

    /// The same, asked of the target in any case.
    ///
    /// # Errors
    /// When the target refuses the question.
    pub async fn has_run_now(&self, source: &str, id: EntryId) -> Result<bool, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.has_run_now(source, id).await,
            Self::Json(_) => Ok(false),
        }
    }

    /// Follows a change of the routing table, at its place among the entries.
    ///
    /// # Errors
    /// When the target refuses it.
    pub async fn change_routing(
        &self,
        source: &str,
        located: &Located<'_>,
        filter: &NamespaceFilter,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.change_routing(source, located, filter, token).await,
            Self::Json(_) => Ok(Applied::Done),
        }
    }

    /// The offset of the first entry of a partition whose document waits in the sink: nothing from
    /// there on may be committed.
    #[must_use]
    pub fn held_since(&self, topic: &str, partition: i32) -> Option<i64> {
        match self {
            Self::Mongo(sink) => sink.held_since(topic, partition),
            Self::Json(_) => None,
        }
    }

    /// Why the first document waits that waits for a partition.
    #[must_use]
    pub fn held_reason(&self, topic: &str, partition: i32) -> String {
        match self {
            Self::Mongo(sink) => sink.held_reason(topic, partition),
            Self::Json(_) => String::new(),
        }
    }

    /// Takes up what an earlier owner of a partition has left waiting.
    ///
    /// # Errors
    /// When the target refuses the question.
    pub async fn recall_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.recall_held(topic, partition).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Forgets what waits for a partition: it was taken away.
    pub fn forget_held(&self, topic: &str, partition: i32) {
        if let Self::Mongo(sink) = self {
            sink.forget_held(topic, partition);
        }
    }

    /// Tries what waits for a partition once more where it comes to a command; `command_ran` says
    /// whether the command ran already, which means that the target is ahead.
    ///
    /// # Errors
    /// When the target refuses a question.
    pub async fn release_held(
        &self,
        batch: &Batch<'_>,
        command_ran: bool,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.release_held(batch, command_ran, token).await,
            Self::Json(_) => Ok(Applied::Done),
        }
    }

    /// Whether indexes of the target are suspended for a partition.
    #[must_use]
    pub fn has_suspended(&self, topic: &str, partition: i32) -> bool {
        match self {
            Self::Mongo(sink) => sink.has_suspended(topic, partition),
            Self::Json(_) => false,
        }
    }

    /// Builds the suspended indexes of a partition again that has nothing to apply.
    ///
    /// # Errors
    /// When the target refuses a question.
    pub async fn restore_due(
        &self,
        topic: &str,
        partition: i32,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.restore_due(topic, partition, None, token).await,
            Self::Json(_) => Ok(Applied::Done),
        }
    }

    /// Builds all suspended indexes of the group again: everything is applied.
    ///
    /// # Errors
    /// When the target refuses one of them.
    pub async fn restore_suspended(&self) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.restore_suspended().await,
            Self::Json(_) => Ok(()),
        }
    }

    /// What the target refused of a batch. Each refusal is reported once.
    #[must_use]
    pub fn take_refused(&self, batch: &Batch<'_>) -> Vec<Refusal> {
        match self {
            Self::Mongo(sink) => sink.take_refused(batch),
            Self::Json(_) => Vec::new(),
        }
    }

    /// What waits for a partition, where that is to be dead letters at a barrier.
    ///
    /// # Errors
    /// When a document is damaged.
    pub fn refuse_held(&self, topic: &str, partition: i32) -> Result<Vec<Refusal>, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.refuse_held(topic, partition),
            Self::Json(_) => Ok(Vec::new()),
        }
    }

    /// Gives up what waits for a partition: it is kept elsewhere.
    ///
    /// # Errors
    /// When the target refuses to forget it.
    pub async fn give_up_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.give_up_held(topic, partition).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Notes a command as passed over: it will not run.
    ///
    /// # Errors
    /// When the target refuses the note.
    pub async fn pass_over(
        &self,
        source: &str,
        located: &Located<'_>,
    ) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.pass_over(source, located).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Watches the group's namespaces as long as they are these.
    ///
    /// # Errors
    /// That another member has changed them.
    pub async fn watch_subscription(&self, own: &Subscription) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.watch_subscription(own).await,
            // Each line names its namespace, and no reader counts on what is not there.
            Self::Json(_) => Ok(()),
        }
    }

    /// Whether it can do without types that a lossy format drops.
    #[must_use]
    pub const fn takes_lossy(&self) -> bool {
        match self {
            Self::Mongo(sink) => sink.takes_lossy(),
            Self::Json(_) => true,
        }
    }
}
