//! How a batch ended, and what was refused of it.

use oplog_relay_core::position::EntryId;

use crate::dead_letter::Reason;
use crate::emit::lines_file::LinesFile;
use crate::error::ConsumerError;
use crate::replay::plan::PlanError;

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// All of it is durable.
    Done,
    /// The partition was taken away or the program ends: some of it may be written, and nobody
    /// may count on it.
    Abandoned,
}

/// When what a sink has applied survives a crash of the machine.
#[derive(Debug, Clone)]
pub enum Durability {
    /// At once: a target acknowledges what it has made durable, and a pipe keeps nothing.
    Immediate,
    /// When the file was synced.
    OnRequest(LinesFile),
}

impl Durability {
    /// Makes everything durable that was applied before.
    ///
    /// # Errors
    /// When it cannot be: what was applied since the last time may be lost.
    pub fn make_durable(&self) -> Result<(), ConsumerError> {
        match self {
            Self::Immediate => Ok(()),
            Self::OnRequest(file) => file.sync(),
        }
    }
}

/// Why a batch cannot be applied.
#[derive(Debug)]
pub enum SinkError {
    /// An entry of it cannot be applied; nothing was written. Those before it can be given again
    /// without it.
    Entry(PlanError),
    /// Something that ends the program.
    Fatal(ConsumerError),
}

/// A write that the target refused, where that is to be a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The entry.
    pub id: EntryId,
    /// `db.collection` on the target.
    pub ns: String,
    /// Why.
    pub reason: Reason,
    /// The target's code.
    pub code: Option<i32>,
    /// What was said.
    pub text: String,
    /// Topic, partition and offset, where it is of an earlier batch than the one at hand.
    pub place: Option<(String, i32, i64)>,
    /// An entry that inserts the document as several entries would have left it.
    pub whole: Option<Vec<u8>>,
}

impl From<ConsumerError> for SinkError {
    fn from(error: ConsumerError) -> Self {
        Self::Fatal(error)
    }
}
