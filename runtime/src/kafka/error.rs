//! Kafka's errors, classified for callers.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::new_topic::TopicSetting;

/// The reason why a Kafka operation failed. Producing records and consuming in a group have errors
/// of their own.
#[derive(Debug, thiserror::Error)]
pub enum KafkaFailure {
    /// The client cannot be created from its options.
    #[error("the Kafka client cannot be created")]
    Options(#[source] KafkaError),
    /// No broker responds.
    #[error("no Kafka broker at {brokers} responds: {reason}")]
    Unreachable {
        /// The brokers that were tried.
        brokers: String,
        /// The client's last error.
        reason: String,
    },
    /// A broker refuses the credentials.
    #[error(
        "a Kafka broker at {brokers} refuses the credentials (sasl.username, sasl.password and \
         similar options, set with --kafka-option): {reason}"
    )]
    Credentials {
        /// The brokers that were tried.
        brokers: String,
        /// The broker's error.
        reason: String,
    },
    /// The topic does not exist.
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// The operation exceeded its time limit.
    #[error("{action} took more than {seconds} s: {reason}")]
    Timeout {
        /// The operation.
        action: String,
        /// The time limit.
        seconds: u64,
        /// The progress at that time.
        reason: String,
    },
    /// The cluster or the client refused, or still failed when the time limit was reached.
    #[error("{action} failed")]
    Refused {
        /// The operation.
        action: String,
        /// The error of the cluster or the client.
        #[source]
        source: KafkaError,
    },
    /// The cluster refuses a setting that a new topic needs.
    #[error(
        "Kafka refuses to create topics with {setting} ({code}); allow this setting in the cluster, \
         or choose another value for it"
    )]
    SettingRefused {
        /// The setting.
        setting: TopicSetting,
        /// The code of the refusal.
        code: RDKafkaErrorCode,
    },
    /// A task of this program ended early.
    #[error("{0} was interrupted")]
    Abandoned(String),
}

impl KafkaFailure {
    /// Returns true if a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Refused { source, .. } => is_transient(source),
            Self::Options(_)
            | Self::Credentials { .. }
            | Self::UnknownTopic(_)
            | Self::SettingRefused { .. }
            | Self::Abandoned(_) => false,
        }
    }

    /// Returns true if the configuration is wrong, so that the state of the cluster does not
    /// matter.
    #[must_use]
    pub const fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::Options(_))
    }
}

/// Returns the code of an error of any call.
#[must_use]
pub fn error_code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        // The library's own accessor omits this variant.
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Returns true if the same request may succeed later, as after a network error, an election or a
/// timeout.
#[must_use]
pub fn is_transient(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let Some(code) = error_code(error) else {
        return false;
    };
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::MessageTimedOut
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::NodeUpdate
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::Retry
            | Code::RequestTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::NotController
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::PreferredLeaderNotAvailable
            | Code::ConcurrentTransactions
            | Code::UnstableOffsetCommit
            | Code::ThrottlingQuotaExceeded
    )
}

/// Returns true if a broker refused the credentials.
#[must_use]
pub(super) fn is_refused_login(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error_code(error),
        Some(Code::Authentication | Code::SaslAuthenticationFailed)
    )
}

/// Returns true if the cluster refused because of a missing right.
#[must_use]
pub fn is_unauthorized(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = match error {
        KafkaError::Transaction(error) => Some(error.code()),
        other => error_code(other),
    };
    matches!(
        code,
        Some(
            Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
        )
    )
}

/// Returns true if the cluster grants no rights on a group. A client that reads without joining a
/// group ignores this error: librdkafka needs the name of a group for its queue and looks up the
/// group's coordinator.
#[must_use]
pub fn is_group_refused(error: &KafkaError) -> bool {
    error_code(error) == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// Returns the operation. If the cluster refused because of a missing right, the text names that
/// right.
#[must_use]
pub fn with_right(operation: impl Into<String>, error: &KafkaError, right: &str) -> String {
    let operation = operation.into();
    match is_unauthorized(error) {
        true => format!("{operation} (the Kafka user of this program needs the right {right})"),
        false => operation,
    }
}

/// Returns true if the client is unusable from now on.
#[must_use]
pub fn is_fatal(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_fatal() || is_fatal_code(error.code()),
        KafkaError::MessageConsumptionFatal(_) => true,
        _ => error_code(error).is_some_and(is_fatal_code),
    }
}

fn is_fatal_code(code: RDKafkaErrorCode) -> bool {
    code == RDKafkaErrorCode::Fatal || is_fenced_code(code)
}

/// Returns true if another instance took over with the same transactional id or as the same static
/// member.
#[must_use]
pub fn is_fenced(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => is_fenced_code(error.code()),
        _ => error_code(error).is_some_and(is_fenced_code),
    }
}

fn is_fenced_code(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch
            | Code::FencedInstanceId
            | Code::TransactionCoordinatorFenced
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_fatal_fenced() {
        use RDKafkaErrorCode as Code;
        let table = [
            (Code::BrokerTransportFailure, true, false, false),
            (Code::NotLeaderForPartition, true, false, false),
            (Code::TopicAuthorizationFailed, false, false, false),
            (Code::MessageSizeTooLarge, false, false, false),
            (Code::Fatal, false, true, false),
            (Code::ProducerFenced, false, true, true),
            (Code::FencedInstanceId, false, true, true),
        ];
        for (code, transient, fatal, fenced) in table {
            let error = KafkaError::MessageProduction(code);
            let seen = (is_transient(&error), is_fatal(&error), is_fenced(&error));
            assert_eq!(seen, (transient, fatal, fenced), "{code:?}");
        }
    }
}
