//! The reasons why a record stops the program although it can be decoded, or although undecodable
//! records become dead letters.

use oplog_relay_core::foreign::ForeignError;
use oplog_relay_core::format::fragment::Fragment;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::exit::ExitCode;

use crate::record_position::RecordPosition;

/// The reason why a record stops the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The group starts inside an entry. The earlier fragments of the entry are never read, so the
    /// entry cannot be applied, and must not be skipped silently.
    #[error(
        "{position}: the record is fragment {fragment} of an entry that begins before the offset \
         at which this group starts in this partition. oplog-consumer never commits such an \
         offset. Reset the group to one time (`kafka-consumer-groups --reset-offsets \
         --to-datetime`), which is never inside an entry; a start at offset {}, the first one after \
         the entry, skips the entry",
        position.offset + i64::from(fragment.count - fragment.index)
    )]
    InsideEntry {
        /// The position of the fragment.
        position: RecordPosition,
        /// The fragment.
        fragment: Fragment,
    },
    /// A record of another program that is only accepted with a flag.
    #[error("{position}: {fault}")]
    NeedsConsent {
        /// The position of the record.
        position: RecordPosition,
        /// What is lost, and the flag that accepts it.
        fault: ForeignError,
    },
    /// An entry of a collection whose name belongs to a different collection in the catalog.
    #[error(
        "{position}: entry {entry} was written to a different collection named {ns} than the one \
         that has this name in the target's catalog: a command between the two is missing, because \
         the group started after it or a filter excluded it. Replay from the beginning into an empty \
         target"
    )]
    OtherCollection {
        /// The position of the record.
        position: RecordPosition,
        /// The entry.
        entry: EntryId,
        /// Namespace of the entry.
        ns: String,
    },
}

impl RecordError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::InsideEntry { .. } => ExitCode::OffsetsLost,
            Self::NeedsConsent { .. } | Self::OtherCollection { .. } => ExitCode::StoppedByPolicy,
        }
    }
}
