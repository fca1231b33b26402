//! The result of a batch, and the writes that the target refused.

use oplog_relay_core::position::EntryId;

use crate::dead_letter::Reason;
use crate::emit::lines_file::LinesFile;
use crate::error::ConsumerError;
use crate::record_position::RecordPosition;
use crate::replay::plan::{PlanError, Write};

/// The result of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// The batch was applied. It is durable, for a file once [`Durability::make_durable`] returns.
    Done,
    /// The partition was revoked or the program ends. Some of the batch may be written, but it must not
    /// be acknowledged.
    Abandoned,
}

/// The moment from which applied entries survive a crash of the machine.
#[derive(Debug, Clone)]
pub enum Durability {
    /// Entries are durable at once: a target acknowledges only durable writes, and a pipe stores
    /// nothing.
    Immediate,
    /// Entries are durable once the file has been synced.
    OnRequest(LinesFile),
}

impl Durability {
    /// Makes everything durable that was applied before.
    ///
    /// # Errors
    /// Returns an error if this fails. The entries that were applied since the last call may then be
    /// lost.
    pub fn make_durable(&self) -> Result<(), ConsumerError> {
        match self {
            Self::Immediate => Ok(()),
            Self::OnRequest(file) => file.sync(),
        }
    }
}

/// The reason why a batch cannot be applied.
#[derive(Debug)]
pub enum SinkError {
    /// An entry of the batch cannot be applied. If it is a command, the entries before it may have
    /// been written already. They can be applied, or applied again, as a batch of their own.
    Entry(PlanError),
    /// A failure that ends the program.
    Fatal(ConsumerError),
}

/// A write that the target refused and that becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The entry.
    pub id: EntryId,
    /// `db.collection` on the target.
    pub ns: String,
    /// The reason for the dead letter.
    pub reason: Reason,
    /// The target's error code.
    pub code: Option<i32>,
    /// The error text.
    pub text: String,
    /// The position of the entry's record, or of the record with the first held entry, if the document
    /// was held.
    pub position: RecordPosition,
    /// An insert of the document as several entries left it. The dead letter then has this insert
    /// instead of the refused entry.
    pub whole: Option<Vec<u8>>,
}

impl Refusal {
    /// Returns true if this is the refusal of the write's entry.
    pub(crate) fn is_of(&self, ns: &str, write: &Write<'_>) -> bool {
        self.id == write.id && self.ns == ns && self.position.name == *write.origin.partition
    }
}

impl From<ConsumerError> for SinkError {
    fn from(error: ConsumerError) -> Self {
        Self::Fatal(error)
    }
}
