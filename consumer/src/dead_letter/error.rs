//! The reasons why the dead-letter topic of a group cannot be used.

use oplog_relay_runtime::exit::ExitCode;

/// The reason why the dead-letter topic of a group cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// The topic does not exist.
    #[error(
        "topic {topic} does not exist: group {group} has not run with dead letters enabled yet \
         (--dead-letter, --unmatched dead-letter or --unrepeatable dead-letter); replay and emit \
         create the topic when they start with one of these flags"
    )]
    NoTopic {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
    },
    /// The topic is compacted, which would remove letters.
    #[error(
        "topic {topic} has cleanup.policy={policy}: log compaction would keep only the last of several \
         dead letters with the same key. Set cleanup.policy=delete"
    )]
    Compacted {
        /// The topic.
        topic: String,
        /// Its cleanup.policy.
        policy: String,
    },
}

impl DeadLetterError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
