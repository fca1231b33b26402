//! The reasons why the saved state of a source cannot be read.

use oplog_relay_core::position::PositionError;
use oplog_relay_core::state::StateError;
use oplog_relay_runtime::exit::ExitCode;

/// The reason why the saved state of a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SavedStateError {
    /// A record of the state topic cannot be read.
    #[error("state topic {topic}, offset {offset}: {source}")]
    State {
        /// The topic.
        topic: String,
        /// The offset of the record.
        offset: i64,
        /// The reason.
        source: StateError,
    },
    /// The record of the position topic is not JSON, or has missing fields.
    #[error("position topic {topic}, offset {offset}: {source}")]
    PositionRecord {
        /// The topic.
        topic: String,
        /// The offset of the record.
        offset: i64,
        /// The reason.
        source: serde_json::Error,
    },
    /// The record of the position topic has no valid position.
    #[error("position topic {topic}, offset {offset}: {source}")]
    Position {
        /// The topic.
        topic: String,
        /// The offset of the record.
        offset: i64,
        /// The reason.
        source: PositionError,
    },
}

impl SavedStateError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::StoppedByPolicy
    }
}
