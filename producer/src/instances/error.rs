//! The reasons why an instance cannot be a member of the group.

use oplog_relay_runtime::exit::ExitCode;
use rdkafka::error::KafkaError;

/// The reason why an instance cannot be a member of the group.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InstancesError {
    /// The Kafka client does not accept its options.
    #[error("--kafka-option: {0}")]
    Options(KafkaError),
    /// The user has no right on the group.
    #[error(
        "this instance cannot join the group {group} of --high-availability: {source}. The Kafka user of \
         this program needs the right Read on the group {group}"
    )]
    Unauthorized {
        /// The group.
        group: String,
        /// The error of the broker.
        source: KafkaError,
    },
    /// The brokers do not accept the member.
    #[error(
        "this instance cannot join the group {group} of --high-availability: {source}. If the session \
         timeout is not accepted, give a --takeover-after between group.min.session.timeout.ms and \
         group.max.session.timeout.ms of the brokers"
    )]
    Refused {
        /// The group.
        group: String,
        /// The error of the broker.
        source: KafkaError,
    },
}

impl InstancesError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Options(_) | Self::Refused { .. } => ExitCode::Usage,
            Self::Unauthorized { .. } => ExitCode::Failed,
        }
    }
}
