//! The reasons why held documents, or indexes that are suspended for them, stop a replay.

use std::fmt;

use mongodb::bson::Document;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::exit::ExitCode;

use crate::record_position::RecordPosition;

/// Possible causes, with advice, for documents that are held for long or that stop the replay.
pub const UNRESOLVED: &str = "another document on the target has the same value in a unique index, \
    or the index does not accept a value of the document. If entries are being replayed again after \
    a reset, drop that index on the target until the replay has caught up; otherwise the target has \
    documents or indexes that the source does not have: run verify";

/// The reason why a document is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRefusal {
    /// The target's error code.
    pub code: i32,
    /// The start of the target's error text.
    pub text: String,
}

impl fmt::Display for IndexRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}", self.code, self.text)
    }
}

/// The reason why held documents, or indexes that are suspended for them, stop a replay.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HeldError {
    /// A document is still held before a command.
    #[error(
        "{position}: a document has been held since this record because an index of the target \
         refuses it ({refusal}), and a command follows: {UNRESOLVED}"
    )]
    BeforeCommand {
        /// The position of the first record that is held.
        position: RecordPosition,
        /// The reason why it is held.
        refusal: IndexRefusal,
    },
    /// A document is still held after all records.
    #[error(
        "{position}: a document has been held since this record because an index of the target \
         refuses it ({refusal}), and no more records follow: {UNRESOLVED}"
    )]
    AtEnd {
        /// The position of the first record that is held.
        position: RecordPosition,
        /// The reason why it is held.
        refusal: IndexRefusal,
    },
    /// The held documents need too much memory.
    #[error(
        "{documents} documents are held because indexes of the target refuse them, and need more \
         than {limit_mib} MiB. The last one is in {ns} (entry {entry}, code {code}): {UNRESOLVED}"
    )]
    TooMany {
        /// Number of held documents.
        documents: usize,
        /// Maximum size of all held documents, in MiB.
        limit_mib: usize,
        /// Namespace of the last one.
        ns: String,
        /// The last entry that changed it.
        entry: EntryId,
        /// The target's error code for it.
        code: i32,
    },
    /// The target refuses to delete a document that is to be parked.
    #[error(
        "a document of {ns} has a value of a unique index that another document needs. It must be \
         deleted until the other document is written, but the target refused the delete ({refusal})"
    )]
    Parking {
        /// Namespace of the document.
        ns: String,
        /// The refusal.
        refusal: IndexRefusal,
    },
    /// The reply to the delete of a document that is to be parked cannot be read.
    #[error("the target's reply to a delete command for {ns} is malformed: {reason}")]
    ReplyMalformed {
        /// Namespace of the document.
        ns: String,
        /// The reason.
        reason: String,
    },
    /// A note of a parked document or of a suspended index cannot be read.
    #[error(
        "{CATALOG_DB}.{collection} has a document that this version of the consumer cannot read (_id \
         {note}): use the version that wrote it, or a newer one"
    )]
    NoteUnreadable {
        /// The collection of the notes.
        collection: &'static str,
        /// The note's `_id`.
        note: String,
    },
    /// The definition of a suspended index cannot be encoded as a command.
    #[error(
        "the suspended index {definition} of {ns}, recorded in {CATALOG_DB}.{collection}, cannot \
         be encoded as a command: {reason}"
    )]
    IndexUnwritable {
        /// The collection of the notes.
        collection: &'static str,
        /// The index.
        definition: Document,
        /// Namespace of its collection.
        ns: String,
        /// The reason.
        reason: String,
    },
    /// The target refuses to build a suspended index again.
    #[error(
        "the index {definition} of {ns} was dropped for entry {entry} and has to be built again, but \
         the target refuses to build it: {reason}. The target has documents that the source \
         does not have: run verify, correct them and restart. To continue without the index, delete the \
         document with _id {note:?} from {CATALOG_DB}.{collection}"
    )]
    IndexRefused {
        /// The index.
        definition: Document,
        /// Namespace of its collection.
        ns: String,
        /// The entry for whose document the index was suspended, or whose command rebuilds it.
        entry: EntryId,
        /// The target's error.
        reason: String,
        /// The collection of the notes.
        collection: &'static str,
        /// The `_id` of the note of the suspended index.
        note: String,
    },
}

impl HeldError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::StoppedByPolicy
    }
}
