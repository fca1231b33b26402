//! The reasons why writes fail permanently. They stop the program or become dead letters.

use oplog_relay_core::diff::DiffError;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::exit::ExitCode;

use crate::replay::directive::{DUPLICATE_KEY, rule_for};
use crate::replay::held_documents::error::{IndexRefusal, UNRESOLVED};

/// The reason why writes fail permanently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteFailure {
    /// The target refuses a write.
    #[error(
        "the target refused entry {entry} for the document of {ns} with _id {document_id} (code \
         {code}): {text}: {}",
        reason_of(*code)
    )]
    Refused {
        /// The entry.
        entry: EntryId,
        /// Namespace of the document.
        ns: String,
        /// The `_id` of the document as JSON, possibly truncated.
        document_id: String,
        /// The target's error code.
        code: i32,
        /// The target's error text.
        text: String,
    },
    /// The target refuses several writes at once.
    #[error(
        "writes to {ns} (from entry {first}) were refused (code {code}): {text}: {}",
        rule_for(*code).reason
    )]
    BulkRefused {
        /// Namespace of the documents.
        ns: String,
        /// The entry of the first write.
        first: EntryId,
        /// The target's error code.
        code: i32,
        /// The target's error text.
        text: String,
    },
    /// A write fails without an error code.
    #[error(
        "the write of entry {entry} for the document of {ns} with _id {document_id} failed: {text}"
    )]
    Failed {
        /// The entry.
        entry: EntryId,
        /// Namespace of the document.
        ns: String,
        /// The `_id` of the document as JSON, possibly truncated.
        document_id: String,
        /// The error text of the driver.
        text: String,
    },
    /// A write fails repeatedly, although the target replies to other commands.
    #[error(
        "the target replies to other commands, but fails repeatedly on entry {entry} for the document \
         of {ns} with _id {document_id}: {text}. The target apparently cannot store this document"
    )]
    FailsRepeatedly {
        /// The entry.
        entry: EntryId,
        /// Namespace of the document.
        ns: String,
        /// The `_id` of the document as JSON, possibly truncated.
        document_id: String,
        /// The error text of the driver.
        text: String,
    },
    /// The document of an update does not exist.
    #[error("the update of entry {entry} found no document of {ns} on the target")]
    Unmatched {
        /// The entry.
        entry: EntryId,
        /// Namespace of the document.
        ns: String,
    },
    /// The documents of some updates do not exist, and the operator chose to stop then.
    #[error(
        "{unmatched} of the updates of {ns} in the entries {first} to {last} found no document on the \
         target. The target is missing data of the source: replay from the start into an empty target, \
         or continue with --unmatched count"
    )]
    StoppedAtUnmatched {
        /// Number of updates without a document.
        unmatched: usize,
        /// Namespace of the documents.
        ns: String,
        /// The first entry that was sent with them.
        first: EntryId,
        /// The last entry that was sent with them.
        last: EntryId,
    },
    /// A document is still held at a command or at the end, and becomes a dead letter.
    #[error(
        "a document of {ns} has been held since entry {since}, and the replay has reached a command \
         or the end. The value of this record is an entry that inserts the document with all entries up \
         to {entry} applied. An index of the target refuses the document ({refusal}): {UNRESOLVED}"
    )]
    StillHeld {
        /// Namespace of the document.
        ns: String,
        /// The first entry that was held.
        since: EntryId,
        /// The last entry that changed the document.
        entry: EntryId,
        /// The refusal of the index.
        refusal: IndexRefusal,
    },
    /// A majority of the target's members cannot acknowledge writes.
    #[error("the target reported a write concern error (code {code}): {text}")]
    WriteConcern {
        /// The target's error code.
        code: i32,
        /// The target's error text.
        text: String,
    },
    /// The writes cannot be encoded.
    #[error("the writes to {ns} cannot be encoded as a command: {reason}")]
    Unencodable {
        /// Namespace of the documents.
        ns: String,
        /// The reason.
        reason: String,
    },
    /// The reply to writes cannot be decoded.
    #[error("the target's reply to writes to {ns} cannot be decoded: {reason}")]
    ReplyUnreadable {
        /// Namespace of the documents.
        ns: String,
        /// The reason.
        reason: String,
    },
    /// Documents that must be read before they are changed cannot be read.
    #[error(
        "documents of {ns} cannot be read on the target, but their updates must be applied to the \
         stored documents: {reason}. Grant the target's user readWrite on the replayed databases"
    )]
    Unreadable {
        /// Namespace of the documents.
        ns: String,
        /// The error text of the driver.
        reason: String,
    },
    /// A collection is sharded on the target, and its shard key cannot be read.
    #[error(
        "{ns} is sharded on the target, but its shard key cannot be read: {reason}. The replay needs it \
         for the filters of its writes: grant the target's user the role clusterMonitor, or the action \
         find on the collection config.collections"
    )]
    ShardKeyHidden {
        /// Namespace of the collection.
        ns: String,
        /// The error text of the driver.
        reason: String,
    },
    /// An update concerns a document that a sharded target has several times.
    #[error(
        "entry {entry} updates the document of {ns} with _id {document_id}, which several shards of the \
         target have with different shard keys. The replay writes each document once, so another client \
         has inserted one: delete the document that the source does not have"
    )]
    StoredTwice {
        /// The entry.
        entry: EntryId,
        /// Namespace of the documents.
        ns: String,
        /// Their `_id` as JSON, possibly truncated.
        document_id: String,
    },
    /// A document has the zero timestamp in a field of the shard key.
    #[error(
        "entry {entry} gives the document of {ns} with _id {document_id} the timestamp zero in a field \
         of the shard key of the target. A server stores its own time instead when it inserts the \
         document, so the document cannot be stored as it is on the source: shard the collection of the \
         target by other fields"
    )]
    ZeroShardKey {
        /// The entry.
        entry: EntryId,
        /// Namespace of the document.
        ns: String,
        /// Its `_id` as JSON, possibly truncated.
        document_id: String,
    },
    /// An update does not fit the stored document.
    #[error(
        "in {ns}: entry {entry} cannot be applied to the stored document: {source}. The entry or the \
         document is damaged: run verify, and replay from the start into an empty target"
    )]
    Inapplicable {
        /// Namespace of the document.
        ns: String,
        /// The entry.
        entry: EntryId,
        /// The reason.
        source: DiffError,
    },
}

impl WriteFailure {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::StoppedByPolicy
    }
}

/// Returns the advice for a write that the target refuses with this code.
fn reason_of(code: i32) -> &'static str {
    if code == DUPLICATE_KEY {
        return "another document on the target has the same value in a unique index. Either the target is \
                ahead of the replayed entries, or it has documents that the source does not have: drop that \
                index on the target until the replay has caught up, or replay into an empty target";
    }
    rule_for(code).reason
}
