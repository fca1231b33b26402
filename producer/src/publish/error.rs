//! The reasons why records can never be written to Kafka.

use oplog_relay_runtime::exit::ExitCode;
use rdkafka::error::KafkaError;

/// The reason why records can never be written to Kafka.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PublishError {
    /// The Kafka client does not accept its options.
    #[error("--kafka-option: {source}")]
    Options {
        /// The error of the client.
        source: KafkaError,
    },
    /// The user does not have the right Write on the transactional id.
    #[error("cannot continue: {doing}: {source}")]
    NotOpened {
        /// The operation, with the right that is missing.
        doing: String,
        /// The error of the broker.
        source: KafkaError,
    },
    /// A broker refuses a record because of the record itself, so a retry cannot succeed.
    #[error("cannot continue: delivering a record to {place}: {source}")]
    Undeliverable {
        /// Topic and partition of the record.
        place: String,
        /// The error of the broker.
        source: KafkaError,
    },
}

impl PublishError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Options { .. } => ExitCode::Usage,
            Self::NotOpened { .. } | Self::Undeliverable { .. } => ExitCode::Failed,
        }
    }
}
