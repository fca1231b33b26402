//! The reasons why a dump cannot be a source.

use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::exit::ExitCode;

use crate::entry_fault::EntryFault;

/// The reason why a dump cannot be a source.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DumpError {
    /// The first document of a file is not an entry.
    #[error(
        "{file} is not a dump of an oplog: {fault}. Give the documents of local.oplog.rs, as mongodump \
         writes them"
    )]
    NotADump {
        /// The file.
        file: String,
        /// The fault of the document.
        fault: Box<EntryFault>,
    },
    /// A folder has no segments.
    #[error("{folder} has no oplog.bson, oplog.bson.gz or other .bson segments with entries")]
    NoSegments {
        /// The folder.
        folder: String,
    },
    /// A file may be a segment but has another format.
    #[error(
        "{file} may be a segment of the oplog, but only .bson and .bson.gz can be read: convert or \
         complete it, or move it out of the folder"
    )]
    OtherFile {
        /// The file.
        file: String,
    },
    /// Two segments have different entries with the same time.
    #[error(
        "the segments {one} and {other} have different entries at {at}: they are not from one replica \
         set, or one of them was modified. Give the segments of one oplog"
    )]
    DifferentEntries {
        /// One segment.
        one: String,
        /// The other segment.
        other: String,
        /// The time.
        at: Timestamp,
    },
    /// A segment continues in a lower term than that of the entries before it.
    #[error(
        "the segment {segment} continues at {at} in term {term}, but the entries before it reach term \
         {reached} at {reached_at}: they are not from one replica set, or the set was initiated again in \
         between. Send such segments one after the other, as separate sources"
    )]
    LowerTerm {
        /// The segment.
        segment: String,
        /// Time of its next entry.
        at: Timestamp,
        /// Term of its next entry.
        term: i64,
        /// The highest term before it.
        reached: i64,
        /// Time of the first entry of that term.
        reached_at: Timestamp,
    },
    /// Two segments diverge before the first entry of one of them.
    #[error(
        "the segments {one} and {other} have different histories at {at} (terms {term} and \
         {other_term}), and no segment starts before the point where they diverge, so it cannot be \
         determined which entries were rolled back. Add a segment that starts earlier, or remove the one \
         of the lower term"
    )]
    Diverged {
        /// One segment.
        one: String,
        /// The other segment.
        other: String,
        /// The time.
        at: Timestamp,
        /// The term in one segment.
        term: i64,
        /// The term in the other segment.
        other_term: i64,
    },
}

impl DumpError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
