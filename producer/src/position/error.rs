//! The reasons why a saved position cannot be changed.

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::exit::ExitCode;

/// The reason why a saved position cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionChangeError {
    /// The source has no saved position.
    #[error(
        "source {source_name:?} has no saved position under prefix {prefix:?}, so there is nothing to \
         change: begin with oplog-producer run --start or --sync, or with oplog-producer position import"
    )]
    NotSaved {
        /// Name of the source.
        source_name: String,
        /// The prefix.
        prefix: String,
    },
    /// An import would replace a saved position.
    #[error(
        "source {source_name:?} has the saved position {saved} already. An import is for a first start; \
         give --replace to change the position nevertheless"
    )]
    AlreadySaved {
        /// Name of the source.
        source_name: String,
        /// The saved position.
        saved: Position,
    },
    /// A producer seems to be running.
    #[error(
        "a producer of this source seems to be running: it saved its position {seconds} s ago. Stop it and \
         repeat the command after a minute, or give --fence: the producer then ends with exit code 5 \
         (one that has other sources ends only this one), and its next start continues from the new position \
         (with --high-availability it continues by itself)"
    )]
    Running {
        /// The age of the saved position in seconds.
        seconds: i64,
    },
    /// A full sync is not complete.
    #[error(
        "a full sync of {collections} collections is not complete. The documents that it has copied rely on \
         all entries after the saved position, and their identities contain this position. Let \
         oplog-producer run --until-caught-up complete the copy first"
    )]
    FullSync {
        /// Number of copies that are not complete.
        collections: usize,
    },
    /// A transaction of a dump is open at the position.
    #[error(
        "the source is a dump, and a transaction that begins at {open} is open at the saved position. Only \
         the saved position records where the transaction begins, so the position cannot be changed"
    )]
    OpenTransaction {
        /// Time of the first entry of the transaction.
        open: Timestamp,
    },
    /// Entries would be skipped.
    #[error(
        "the new position {wanted} is after the saved one, {saved}: the entries between them would never be \
         sent, so the targets would differ from the source. A drop or a rename among them stops every \
         replay for good if its name is used again; only with --source can the command detect that. If the \
         gap is acceptable, give --allow-gap: the gap is recorded, and oplog-consumer verify --repair \
         corrects the targets"
    )]
    Gap {
        /// The saved position.
        saved: Position,
        /// The new position.
        wanted: Position,
    },
    /// Collections have ended, and their ends may be among the entries that would be skipped.
    #[error(
        "collections of the routing table have ended or have other names on the source: {}. If that happened \
         between the saved position and the new one, every replay would stop at the first later entry of a \
         collection that has such a name, and could not continue. Choose an earlier position, or start \
         again under another --topic-prefix with a new copy of the data. If it happened after the new \
         position, repeat the command without --source", ended.join("; "))]
    CollectionsEnded {
        /// The collections, as clauses.
        ended: Vec<String>,
    },
    /// The position is before the stream began.
    #[error(
        "the new position {wanted} is before the stream began ({}): a replay would receive commands that it has \
         never run, and a drop or a rename among them can hit a collection that was created since. Choose a \
         later position, or start again under another --topic-prefix; or give --allow-before-start if no \
         target is replayed from these topics, or if there are no such commands", beginning(*.began))]
    BeforeStart {
        /// The new position.
        wanted: Position,
        /// The beginning of the stream; `None` if an earlier version has not saved it.
        began: Option<Timestamp>,
    },
    /// The position is before the end of a gap.
    #[error(
        "the new position {wanted} is before the end of a recorded gap (after {after} through {through}): \
         the entries of the gap would follow later entries that the targets have already. A replay would \
         receive commands that it has never run, and a drop or a rename among them can hit a collection that \
         was created since. Choose a later position, or start again under another --topic-prefix; or give \
         --allow-before-start if no target is replayed from these topics, or if the gap has no such \
         commands"
    )]
    AcrossGap {
        /// The new position.
        wanted: Position,
        /// Time up to which everything was sent before the gap.
        after: String,
        /// Time of the last entry of the gap.
        through: String,
    },
    /// The position can be found only on the source.
    #[error("{what} can be found only on the source: give --source")]
    NeedsSource {
        /// What is to be found, as the subject of a sentence.
        what: &'static str,
    },
    /// The source does not report its newest cluster time.
    #[error(
        "the source reports no cluster time, so its newest position cannot be determined: give a time or a \
         resume token instead of now"
    )]
    NoClusterTime,
    /// The term of the entry is not known.
    #[error(
        "the election term of the entry at {wanted} is not known, and a producer checks it when it \
         continues: give --source, or the term with --term"
    )]
    NeedsTerm {
        /// The new position.
        wanted: Timestamp,
    },
    /// The source has no entry at the position.
    #[error(
        "the oplog of the source has no entry at {wanted}; the last entry before it is {}. Give the position of \
         an entry, or a time", before.map_or_else(|| "unknown".to_owned(), |before| before.to_string()))]
    NoEntry {
        /// The new position.
        wanted: Timestamp,
        /// The last entry before.
        before: Option<Position>,
    },
    /// The position is after the newest entry of the source.
    #[error(
        "the position {wanted} is after the newest entry of the source, {newest}: is it the position of \
         another source?"
    )]
    AfterNewest {
        /// The new position.
        wanted: Timestamp,
        /// Time of the newest entry.
        newest: Timestamp,
    },
    /// The source has no entry.
    #[error("the oplog of the source is empty")]
    Empty,
    /// The entry of the source at the position has another term.
    #[error(
        "the entry at {} has the term {found} on the source, not {}: it belongs to another history, as \
         after a rollback, or to another replica set", wanted.ts, wanted.term
    )]
    OtherTerm {
        /// The new position.
        wanted: Position,
        /// The term of the source's entry.
        found: i64,
    },
    /// A resume token does not contain a cluster time.
    #[error(
        "the resume token does not begin with a cluster time, so its position cannot be determined: give a \
         time"
    )]
    TokenWithoutTime,
    /// A text is not a resume token.
    #[error("the resume token cannot be read: {reason}")]
    Token {
        /// The reason.
        reason: String,
    },
    /// The checkpoint of another program cannot be used.
    #[error("the checkpoint in {place} cannot be imported: {reason}")]
    Checkpoint {
        /// The file or the collection.
        place: String,
        /// The reason.
        reason: String,
    },
}

fn beginning(began: Option<Timestamp>) -> String {
    began.map_or_else(
        || "its beginning is not known, because it was not saved".to_owned(),
        |began| format!("after {began}"),
    )
}

impl PositionChangeError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
