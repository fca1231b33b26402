//! The reasons why the saved state of a source cannot be used.

use oplog_relay_core::filter::{FilterError, NamespaceFilter};
use oplog_relay_core::position::{Position, PositionError};
use oplog_relay_core::state::{SourceMode, SourceRecord, StateError};
use oplog_relay_runtime::exit::ExitCode;

/// The reason why the saved state of a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The record of the position is not JSON, or has missing fields.
    #[error("cannot continue: the saved position cannot be read (offset {offset}): {source}")]
    PositionRecord {
        /// The offset of the record.
        offset: i64,
        /// The reason.
        source: serde_json::Error,
    },
    /// The record of the position has no valid position.
    #[error("cannot continue: the saved position cannot be read (offset {offset}): {source}")]
    Position {
        /// The offset of the record.
        offset: i64,
        /// The reason.
        source: PositionError,
    },
    /// A record of a state topic cannot be read.
    #[error("cannot continue: {topic}, offset {offset}: {source}")]
    State {
        /// The topic.
        topic: String,
        /// The offset of the record.
        offset: i64,
        /// The reason.
        source: StateError,
    },
    /// The saved namespaces cannot be read.
    #[error("cannot continue: the saved namespaces cannot be read: {reason}")]
    SavedNamespaces {
        /// The reason.
        reason: FilterError,
    },
    /// The saved progress of a full sync cannot be read.
    #[error("cannot continue: the saved progress of a full sync cannot be read: {reason}")]
    Copies {
        /// The reason.
        reason: String,
    },
    /// The namespaces are not within those that were streamed before.
    #[error(
        "this source has streamed {saved} so far, but --include-namespaces and --exclude-namespaces now \
         select {filter}, which may include more. The topics of the added namespaces would start with \
         changes of documents that were never sent. Give the former namespaces; or accept the new ones \
         with --change-namespaces, and then request a copy of the added ones: oplog-producer full-sync \
         --namespaces <added namespaces> (a source that is read through a change stream cannot be copied)"
    )]
    OtherNamespaces {
        /// The saved namespaces.
        saved: NamespaceFilter,
        /// The configured namespaces.
        filter: NamespaceFilter,
    },
    /// The saved state of a change stream cannot be read.
    #[error(
        "cannot continue: the saved resume point of the change stream cannot be read: {reason}"
    )]
    ResumePoint {
        /// The reason.
        reason: String,
    },
    /// A position among events of the same cluster time has no resume token.
    #[error(
        "the saved position {position} has no resume token, so the rest of the events with its cluster \
         time cannot be found"
    )]
    NoToken {
        /// The position.
        position: Position,
    },
    /// A full sync is requested from a source that is read through a change stream.
    #[error(
        "source {source_name:?} is read through a change stream, beside which no full sync can run: copy \
         the documents with mongodump and mongorestore"
    )]
    ReadThroughEvents {
        /// Name of the source.
        source_name: String,
    },
    /// The source is read in another mode.
    #[error(
        "source {name:?} was read with --source-mode {saved} so far, and would be read with --source-mode \
         {found} now. A position of one mode does not say where the other one continues. Give \
         --source-mode {saved}; or start under another --topic-prefix with a new copy of the data"
    )]
    OtherMode {
        /// Name of the source.
        name: String,
        /// The saved mode.
        saved: SourceMode,
        /// The mode in which the source would be read.
        found: SourceMode,
    },
    /// The source is another replica set.
    #[error(
        "source {name:?} was replica set {:?} (id {:?}) and is {:?} (id {:?}) now: another replica set has \
         a different oplog. Give it another --source-name, or start under another --topic-prefix",
        known(saved.set_name.as_deref()),
        known(saved.replica_set_id.as_deref()),
        known(found.set_name.as_deref()),
        known(found.replica_set_id.as_deref())
    )]
    OtherReplicaSet {
        /// Name of the source.
        name: String,
        /// The saved replica set.
        saved: ReplicaSet,
        /// The replica set of the source.
        found: ReplicaSet,
    },
    /// A full sync is requested from a source that no producer has started.
    #[error(
        "topic {topic} does not exist: no producer has started source {source_name:?} under prefix \
         {prefix:?}"
    )]
    NotStarted {
        /// The state topic.
        topic: String,
        /// Name of the source.
        source_name: String,
        /// The prefix.
        prefix: String,
    },
}

/// The identity of a replica set; `None` if it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Its name.
    pub set_name: Option<String>,
    /// Its `settings.replicaSetId`.
    pub replica_set_id: Option<String>,
}

impl ReplicaSet {
    /// Returns the identity in the record of a source.
    #[must_use]
    pub fn of(source: &SourceRecord) -> Self {
        Self {
            set_name: source.set_name.clone(),
            replica_set_id: source.replica_set_id.clone(),
        }
    }
}

impl SavedError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::OtherNamespaces { .. }
            | Self::OtherReplicaSet { .. }
            | Self::OtherMode { .. }
            | Self::NotStarted { .. }
            | Self::ReadThroughEvents { .. } => ExitCode::Usage,
            Self::PositionRecord { .. }
            | Self::Position { .. }
            | Self::State { .. }
            | Self::SavedNamespaces { .. }
            | Self::ResumePoint { .. }
            | Self::NoToken { .. }
            | Self::Copies { .. } => ExitCode::Failed,
        }
    }
}

fn known(name: Option<&str>) -> &str {
    name.unwrap_or("unknown")
}
