//! The destination of entries: a sink takes the batches of all partitions and reports when each is
//! durable.
//!
//! The contract of [`Sink::apply`]: the entries of one batch are applied in order per document. Batches
//! of one partition are applied one after the other, those of different partitions concurrently.
//! [`Applied::Done`] means durable, for a file once [`Durability::make_durable`] returns. Applying a
//! batch or a part of it again is harmless. The token is checked before each write, and without a valid
//! token nothing is written. Refused writes of a batch that do not stop the replay are returned by
//! [`Sink::take_refused`].

use std::sync::Arc;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;

use crate::error::ConsumerError;
use crate::group::start::Past;
use crate::replay::catalog::{Incarnations, Subscription};
use crate::worker::applied::{Applied, Durability, Refusal, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::{Batch, Located};

/// The destination of entries.
#[derive(Debug)]
pub enum Sink {
    /// The target of `replay`.
    Mongo(Box<crate::replay::MongoSink>),
    /// The output of `emit`.
    Json(crate::emit::JsonSink),
}

impl Sink {
    /// Applies a batch; see the module's contract.
    ///
    /// # Errors
    /// Returns [`SinkError`] if an entry or the whole batch cannot be applied.
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        match self {
            Self::Mongo(sink) => sink.apply(batch, token).await,
            Self::Json(sink) => sink.apply(batch, token).await,
        }
    }

    /// Returns the way in which applied entries become durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match self {
            Self::Mongo(_) => Durability::Immediate,
            Self::Json(sink) => sink.durability(),
        }
    }

    /// Returns the group's past, as far as the destination shows it.
    ///
    /// # Errors
    /// Returns an error if the target refuses the request.
    pub async fn past(&self, prefix: &str) -> Result<Past, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.past(prefix).await,
            Self::Json(sink) => Ok(sink.past()),
        }
    }

    /// Records that the group has committed offsets of the prefix's topics.
    ///
    /// # Errors
    /// Returns an error if the target refuses the write.
    pub async fn note_begun(&self, prefix: &str) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.note_begun(prefix).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Returns true if commands wait for their barriers. Emitting does not wait.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self, Self::Mongo(_))
    }

    /// Returns the incarnations of a source's collection names, for an entry and those after it, if the
    /// sink keeps them.
    ///
    /// # Errors
    /// Returns an error if the target refuses to read commands that are older than those in memory.
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
    /// Returns an error if the target refuses the request.
    pub async fn reload(&self) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.reload().await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Returns true if a command ran on the target, by whichever member.
    ///
    /// # Errors
    /// Returns an error if the target refuses the request.
    pub async fn has_run(&self, source: &str, id: EntryId) -> Result<bool, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.has_run(source, id).await,
            Self::Json(_) => Ok(false),
        }
    }

    /// Returns the same as [`Sink::has_run`], but always reads the target.
    ///
    /// # Errors
    /// Returns an error if the target refuses the request.
    pub async fn has_run_now(&self, source: &str, id: EntryId) -> Result<bool, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.has_run_now(source, id).await,
            Self::Json(_) => Ok(false),
        }
    }

    /// Applies a change of the routing table, at its place among the entries.
    ///
    /// # Errors
    /// Returns an error if the target refuses a command.
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

    /// Returns the offset of the first entry of a partition whose document is held in the sink. Offsets
    /// after it must not be committed.
    #[must_use]
    pub fn held_since(&self, topic: &str, partition: i32) -> Option<i64> {
        match self {
            Self::Mongo(sink) => sink.held_since(topic, partition),
            Self::Json(_) => None,
        }
    }

    /// Returns the reason for which the first held document of a partition was refused.
    #[must_use]
    pub fn held_reason(&self, topic: &str, partition: i32) -> String {
        match self {
            Self::Mongo(sink) => sink.held_reason(topic, partition),
            Self::Json(_) => String::new(),
        }
    }

    /// Restores the documents that an earlier owner of the partition held.
    ///
    /// # Errors
    /// Returns an error if the target refuses the request.
    pub async fn recall_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.recall_held(topic, partition).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Forgets the documents that are held for a partition, after it was revoked.
    pub fn forget_held(&self, topic: &str, partition: i32) {
        if let Self::Mongo(sink) = self {
            sink.forget_held(topic, partition);
        }
    }

    /// Tries the held documents of a partition again before a command. `command_ran` is true if the
    /// command ran already, which means that the target is ahead.
    ///
    /// # Errors
    /// Returns an error if the target refuses a request.
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

    /// Returns true if indexes of the target are suspended for a partition.
    #[must_use]
    pub fn has_suspended(&self, topic: &str, partition: i32) -> bool {
        match self {
            Self::Mongo(sink) => sink.has_suspended(topic, partition),
            Self::Json(_) => false,
        }
    }

    /// Builds the suspended indexes of a partition again, once it has nothing to apply.
    ///
    /// # Errors
    /// Returns an error if the target refuses a request.
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

    /// Builds all suspended indexes of the group again, once everything is applied.
    ///
    /// # Errors
    /// Returns an error if the target refuses to build one of them.
    pub async fn restore_suspended(&self) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.restore_suspended().await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Takes the refused writes of a batch. Each refusal is returned once.
    #[must_use]
    pub fn take_refused(&self, batch: &Batch<'_>) -> Vec<Refusal> {
        match self {
            Self::Mongo(sink) => sink.take_refused(batch),
            Self::Json(_) => Vec::new(),
        }
    }

    /// Returns the held documents of a partition that become dead letters at a barrier.
    ///
    /// # Errors
    /// Returns an error if a document is damaged.
    pub fn refuse_held(&self, topic: &str, partition: i32) -> Result<Vec<Refusal>, ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.refuse_held(topic, partition),
            Self::Json(_) => Ok(Vec::new()),
        }
    }

    /// Gives up the held documents of a partition, after they were written elsewhere.
    ///
    /// # Errors
    /// Returns an error if the target refuses to delete them.
    pub async fn give_up_held(&self, topic: &str, partition: i32) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.give_up_held(topic, partition).await,
            Self::Json(_) => Ok(()),
        }
    }

    /// Records a command as passed over: it will not run.
    ///
    /// # Errors
    /// Returns an error if the target refuses the write.
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

    /// Watches the group's namespaces and returns when they no longer are these.
    ///
    /// # Errors
    /// Returns an error if another member has changed them.
    pub async fn watch_subscription(&self, own: &Subscription) -> Result<(), ConsumerError> {
        match self {
            Self::Mongo(sink) => sink.watch_subscription(own).await,
            // Each line has its namespace, and no reader relies on the absence of lines.
            Self::Json(_) => Ok(()),
        }
    }

    /// Returns true if the sink accepts formats that lose types.
    #[must_use]
    pub const fn takes_lossy(&self) -> bool {
        match self {
            Self::Mongo(sink) => sink.takes_lossy(),
            Self::Json(_) => true,
        }
    }
}
