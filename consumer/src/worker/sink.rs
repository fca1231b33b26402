//! The destination of entries: a sink takes the batches of all partitions and reports when each is
//! durable.
//!
//! The contract of [`Sink::apply`]: the entries of one batch are applied in order per document. Batches
//! of one partition are applied one after the other, those of different partitions concurrently.
//! [`Applied::Done`] means durable, for a file once [`Durability::make_durable`] returns. Applying a
//! batch or a part of it again is harmless. The token is checked before each write, and without a valid
//! token nothing is written.
//!
//! Barriers, the catalog, held documents and refused writes exist only where entries are replayed:
//! [`Sink::target`] gives access to them.

use oplog_relay_core::format::Format;

use crate::emit::JsonSink;
use crate::error::ConsumerError;
use crate::group::start::Past;
use crate::replay::MongoSink;
use crate::worker::applied::{Applied, Durability, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::Batch;
use crate::worker::topic_error::TopicError;

/// The destination of entries.
#[derive(Debug)]
pub enum Sink {
    /// The target of `replay`.
    Replay(Box<MongoSink>),
    /// The output of `emit`.
    Emit(JsonSink),
}

impl Sink {
    /// Applies a batch; see the module's contract.
    ///
    /// # Errors
    /// Returns [`SinkError`] if an entry or the whole batch cannot be applied.
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        match self {
            Self::Replay(target) => target.apply(batch, token).await,
            Self::Emit(output) => output.apply(batch, token).await,
        }
    }

    /// Returns the way in which applied entries become durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match self {
            Self::Replay(_) => Durability::Immediate,
            Self::Emit(output) => output.durability(),
        }
    }

    /// Returns what the destination shows about earlier runs of the group.
    ///
    /// # Errors
    /// Returns an error if the target refuses the request.
    pub async fn past(&self, prefix: &str) -> Result<Past, ConsumerError> {
        match self {
            Self::Replay(target) => target.past(prefix).await,
            Self::Emit(output) => Ok(output.past()),
        }
    }

    /// Checks that the sink accepts the format of a topic.
    ///
    /// # Errors
    /// Returns a [`TopicError`] for a format that loses types, unless the operator allows it,
    /// and for a topic that is for readers only.
    pub fn check_format(&self, topic: &str, format: Format) -> Result<(), TopicError> {
        let topic = topic.to_owned();
        match self {
            Self::Replay(_) if !format.is_replayable() => {
                Err(TopicError::ForReaders { topic, format })
            }
            Self::Replay(target) if !format.is_exact() && !target.takes_lossy() => {
                Err(TopicError::Lossy { topic, format })
            }
            Self::Emit(_) if !format.is_decodable() => {
                Err(TopicError::ForReaders { topic, format })
            }
            Self::Replay(_) | Self::Emit(_) => Ok(()),
        }
    }

    /// Returns the target of a replay; `None` for the output of `emit`.
    #[must_use]
    pub fn target(&self) -> Option<&MongoSink> {
        match self {
            Self::Replay(target) => Some(target),
            Self::Emit(_) => None,
        }
    }
}
