//! Kafka's errors: what they mean for the one who asked.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::new_topic::TopicSetting;

/// Why Kafka could not be used, outside of producing and of reading as a group.
#[derive(Debug, thiserror::Error)]
pub enum KafkaFailure {
    /// The client cannot be made from its options.
    #[error("the kafka client cannot be made")]
    Options(#[source] KafkaError),
    /// No broker answers.
    #[error("no kafka broker at {brokers} answers: {reason}")]
    Unreachable {
        /// The brokers asked.
        brokers: String,
        /// What the client said last.
        reason: String,
    },
    /// A broker does not accept our credentials.
    #[error(
        "a kafka broker at {brokers} refuses the credentials (sasl.username, sasl.password and the \
         like, given by --kafka-option): {reason}"
    )]
    Credentials {
        /// The brokers asked.
        brokers: String,
        /// What the broker said.
        reason: String,
    },
    /// The topic is not there.
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// It took longer than allowed.
    #[error("{action} took more than {seconds} s: {reason}")]
    Timeout {
        /// What was tried.
        action: String,
        /// The time allowed.
        seconds: u64,
        /// How far it came.
        reason: String,
    },
    /// The cluster or the client refused.
    #[error("{action} failed")]
    Refused {
        /// What was tried.
        action: String,
        /// What the cluster or the client said.
        #[source]
        source: KafkaError,
    },
    /// The cluster does not create topics with a setting that is needed.
    #[error(
        "Kafka refuses to create topics with {setting} ({code}); allow this setting in the cluster, \
         or choose another value for it"
    )]
    SettingRefused {
        /// The setting.
        setting: TopicSetting,
        /// How it was refused.
        code: RDKafkaErrorCode,
    },
    /// A task of ours ended early.
    #[error("{0} was abandoned")]
    Abandoned(String),
}

impl KafkaFailure {
    /// Whether trying again may help.
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

    /// Whether the configuration is wrong, whatever the cluster does.
    #[must_use]
    pub const fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::Options(_))
    }
}

/// The code of an error, of whichever call.
#[must_use]
pub fn error_code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        // The library leaves this one out.
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether the same request may succeed later: networks, elections, timeouts.
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

/// Whether a broker has refused the credentials.
#[must_use]
pub(super) fn is_refused_login(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error_code(error),
        Some(Code::Authentication | Code::SaslAuthenticationFailed)
    )
}

/// Whether the cluster refused because a right is missing.
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

/// Whether the cluster grants no rights on a group. A client that reads without joining a group
/// passes over that: librdkafka needs a group's name for its queue and asks for its coordinator.
#[must_use]
pub fn is_group_refused(error: &KafkaError) -> bool {
    error_code(error) == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// What was tried, with the right that it needs if the cluster refused because it is missing.
#[must_use]
pub fn with_right(doing: impl Into<String>, error: &KafkaError, right: &str) -> String {
    let doing = doing.into();
    match is_unauthorized(error) {
        true => format!("{doing} (the Kafka user of this program needs the right {right})"),
        false => doing,
    }
}

/// Whether the client is unusable from now on.
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

/// Whether another instance took over: same transactional id, or same static member.
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
