//! The reasons why a command cannot run on the target.

use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::exit::ExitCode;

/// The reason why a command cannot run on the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandFailure {
    /// The target refuses the command.
    #[error(
        "the command of entry {entry} for {ns} was refused by the target: {text}: {advice}. If the cause \
         is an option that the target does not support and that may be omitted, start with \
         --refused-options leave-out; --dead-letter command skips the whole command, unless it drops, \
         renames or empties a collection"
    )]
    Refused {
        /// The entry.
        entry: EntryId,
        /// Namespace of the command.
        ns: String,
        /// The target's error.
        text: String,
        /// The meaning of its code, with advice to the operator.
        advice: &'static str,
    },
    /// The target has another index of the same name or key.
    #[error(
        "entry {entry} creates the index {wanted} on {ns}, but the target has the index {found}: {advice}"
    )]
    OtherIndex {
        /// The entry.
        entry: EntryId,
        /// Namespace of the collection.
        ns: String,
        /// The definition of the index that the command creates.
        wanted: String,
        /// The definition of the index on the target.
        found: String,
        /// What the operator can do.
        advice: &'static str,
    },
    /// The target has a collection of that name with other options.
    #[error(
        "entry {entry} creates {ns}, but the target has a collection of that name whose {option} \
         differs: drop it on the target, or replay into an empty target"
    )]
    OtherOption {
        /// The entry.
        entry: EntryId,
        /// Namespace of the collection.
        ns: String,
        /// The option.
        option: &'static str,
    },
    /// The command, or the target's reply to it, is not valid.
    #[error(
        "the command of entry {entry} for {ns}, or the target's reply to it, is not valid: {reason}"
    )]
    Invalid {
        /// The entry.
        entry: EntryId,
        /// Namespace of the command.
        ns: String,
        /// The reason.
        reason: String,
    },
    /// The target contradicts itself about the UUID of a collection.
    #[error(
        "the command of entry {entry} for {ns} failed repeatedly: the target refuses the collection UUID \
         that its own listCollections returns (code {code})"
    )]
    UuidMismatch {
        /// The entry.
        entry: EntryId,
        /// Namespace of the command.
        ns: String,
        /// The target's error code.
        code: i32,
    },
    /// A collection cannot be sharded.
    #[error("{ns} cannot be sharded by {key} (--shard-collections): {text}: {advice}")]
    NotSharded {
        /// Namespace of the collection.
        ns: String,
        /// The shard key.
        key: String,
        /// The target's error.
        text: String,
        /// What the operator can do.
        advice: &'static str,
    },
    /// A full sync would fill a collection that has documents.
    #[error(
        "a full sync is about to fill {ns}, which already has documents on the target. Set \
         --if-target-not-empty to merge (documents with the same _id are replaced, others stay) or to \
         drop (the collection is dropped first), or delete its documents and restart"
    )]
    NotEmpty {
        /// Namespace of the collection.
        ns: String,
    },
    /// Another group has replayed the source into the target.
    #[error(
        "group {group} is new to this target, but group {other} has run command {command} of source \
         {source_name:?} there already: the target has the data of this source, and collections that were \
         renamed or dropped since would be created again. Start with --group {other}; or replay into an \
         empty target, which also means without the database {CATALOG_DB}; or, if this is intended, start \
         with --if-target-not-empty merge"
    )]
    OtherGroup {
        /// The group of this program.
        group: String,
        /// The group that has run the command.
        other: String,
        /// The command.
        command: EntryId,
        /// Name of the source.
        source_name: String,
    },
    /// A change of the routing that this version does not know.
    #[error(
        "entry {entry} is a change of the routing that this version cannot read: use the consumer of \
         the same version as the producer"
    )]
    RoutingUnreadable {
        /// The entry.
        entry: EntryId,
    },
}

impl CommandFailure {
    /// Returns true if the target refused the command, or has another index in its place. Such a
    /// command may become a dead letter.
    #[must_use]
    pub const fn is_of_target(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::OtherIndex { .. })
    }

    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::OtherGroup { .. } => ExitCode::Usage,
            Self::Refused { .. }
            | Self::OtherIndex { .. }
            | Self::OtherOption { .. }
            | Self::Invalid { .. }
            | Self::UuidMismatch { .. }
            | Self::NotEmpty { .. }
            | Self::NotSharded { .. }
            | Self::RoutingUnreadable { .. } => ExitCode::StoppedByPolicy,
        }
    }
}
