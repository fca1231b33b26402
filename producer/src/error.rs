//! Errors of the producer, and how each of them is handled.

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::config::ConfigError;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::kafka::KafkaFailure;
use oplog_relay_runtime::mongo::{self, MongoError};
use oplog_relay_runtime::startup_error::StartupError;

use crate::entry_fault::EntryFault;
use crate::instances::error::InstancesError;
use crate::position::error::PositionChangeError;
use crate::position_lost::PositionLost;
use crate::prepare::topics::error::TopicError;
use crate::publish::error::PublishError;
use crate::registry::RegistryError;
use crate::saved::error::SavedError;
use crate::session::error::SessionError;
use crate::source::dump::error::DumpError;
use crate::source::error::SourceError;
use crate::source::full_sync::rejected::RequestRejected;

/// An error that ends a session or the program.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// All faults of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The program cannot start its own parts.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// A session cannot start, or must not continue.
    #[error(transparent)]
    Session(Box<SessionError>),
    /// The saved state of the source cannot be used.
    #[error(transparent)]
    Saved(Box<SavedError>),
    /// The saved position cannot be changed as an operator wants.
    #[error(transparent)]
    PositionChange(Box<PositionChangeError>),
    /// A topic must not be written to.
    #[error(transparent)]
    Topic(Box<TopicError>),
    /// The source cannot be used.
    #[error(transparent)]
    SourceUnfit(#[from] SourceError),
    /// A requested full sync is rejected.
    #[error(transparent)]
    RequestRejected(#[from] RequestRejected),
    /// A dump cannot be a source.
    #[error(transparent)]
    Dump(Box<DumpError>),
    /// Records can never be written to Kafka.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The instance cannot be a member of the group that shares the sources.
    #[error(transparent)]
    Instances(#[from] InstancesError),
    /// The stream cannot continue from the saved position without losing or repeating entries.
    #[error(transparent)]
    PositionLost(#[from] Box<PositionLost>),
    /// Another instance has taken over this source, or a command has changed its position.
    #[error(
        "another oplog-producer with the transactional id {transactional_id:?} has taken over the source, or \
         position set or position import has changed its position, so this one writes nothing more. If two \
         instances follow the source, stop one of them, start both with --high-availability, or give one of \
         them its own --topic-prefix. If the position was changed, start this program again: it continues \
         from the new position"
    )]
    Fenced {
        /// The transactional id.
        transactional_id: String,
    },
    /// An entry or a reply of the source cannot be read, or an entry cannot be sent.
    #[error("{0}. The stream stops here, and nothing is skipped")]
    Undecodable(Box<EntryFault>),
    /// The source failed.
    #[error("the source failed: {}", mongo::error_text(.0))]
    Source(mongodb::error::Error),
    /// The source is unreachable, refuses the credentials, or is not supported.
    #[error(transparent)]
    Mongo(#[from] MongoError),
    /// An entry is missing on the member that was read, although its oplog should contain it.
    #[error(
        "entry {0} of a transaction is missing on the member that was queried, although its oplog \
         starts before it: the member lags behind the one that the tail reads"
    )]
    Behind(Timestamp),
    /// A file cannot be read or written.
    #[error("{path} cannot be accessed")]
    File {
        /// Path of the file.
        path: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A Kafka operation failed, and may succeed in a new session.
    #[error("{doing}: {reason}")]
    Kafka {
        /// The operation that failed.
        doing: String,
        /// The error text of Kafka or its client.
        reason: String,
    },
    /// The schema registry does not return the id of a schema.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// A request to Kafka failed.
    #[error("{}", kafka_text(.0))]
    KafkaFailure(KafkaFailure),
    /// The program is shutting down, or another stage has ended.
    #[error("interrupted")]
    Interrupted,
    /// A task ended unexpectedly, or an internal invariant is violated.
    #[error("internal error ({0})")]
    Ended(&'static str),
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
}

/// The action that an error requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// Drop the producer, back off, and open a new session from the checkpoint.
    Retry,
    /// End the program with this exit code.
    Stop(ExitCode),
}

impl ProducerError {
    /// Returns the error for data of the source that cannot be decoded.
    #[must_use]
    pub fn undecodable(source: Malformed) -> Self {
        EntryFault::Malformed { source }.into()
    }

    /// Returns the error for an entry whose contents are damaged.
    #[must_use]
    pub fn damaged(entry: &Entry<'_>, error: &EntryError) -> Self {
        EntryFault::damaged(entry, error).into()
    }

    /// Returns the error for a document that is not an entry, with its time and namespace if it has
    /// them.
    #[must_use]
    pub fn unreadable(document: Document<'_>, error: &EntryError) -> Self {
        EntryFault::unreadable(document, error).into()
    }

    /// Returns the error for a Kafka call that failed.
    pub fn kafka(doing: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Kafka {
            doing: doing.into(),
            reason: reason.to_string(),
        }
    }

    /// Returns true if a broker refuses the credentials.
    #[must_use]
    pub const fn is_refused_login(&self) -> bool {
        matches!(self, Self::KafkaFailure(KafkaFailure::Credentials { .. }))
    }

    /// Returns the action that the error requires.
    #[must_use]
    pub fn directive(&self) -> Directive {
        match self {
            Self::Registry(error) if error.is_transient() => Directive::Retry,
            Self::Config(_) | Self::Registry(_) => Directive::Stop(ExitCode::Usage),
            Self::Startup(error) => Directive::Stop(error.exit_code()),
            Self::Session(error) => Directive::Stop(error.exit_code()),
            Self::Saved(error) => Directive::Stop(error.exit_code()),
            Self::PositionChange(error) => Directive::Stop(error.exit_code()),
            Self::Topic(error) => Directive::Stop(error.exit_code()),
            Self::SourceUnfit(error) => Directive::Stop(error.exit_code()),
            Self::RequestRejected(error) => Directive::Stop(error.exit_code()),
            Self::Dump(error) => Directive::Stop(error.exit_code()),
            Self::Publish(error) => Directive::Stop(error.exit_code()),
            Self::Instances(error) => Directive::Stop(error.exit_code()),
            Self::KafkaFailure(failure) => kafka_directive(failure),
            Self::PositionLost(_) => Directive::Stop(ExitCode::SourcePositionLost),
            Self::Fenced { .. } => Directive::Stop(ExitCode::Fenced),
            Self::Undecodable(_) => Directive::Stop(ExitCode::StoppedByPolicy),
            Self::Source(error) if mongo::is_interrupted(error) => Directive::Retry,
            Self::Mongo(error) if error.is_misconfiguration() => Directive::Stop(ExitCode::Usage),
            Self::Kafka { .. } | Self::Behind(_) => Directive::Retry,
            Self::Source(_) | Self::Mongo(_) | Self::File { .. } => {
                Directive::Stop(ExitCode::Failed)
            }
            Self::Interrupted | Self::Ended(_) | Self::Output(_) => {
                Directive::Stop(ExitCode::Failed)
            }
        }
    }

    /// Returns true if the error may end without the operator: a server cannot be reached, or has
    /// failed. If the program has several sources, the source is then tried again for as long as the
    /// program runs.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Mongo(error) => !error.is_misconfiguration(),
            Self::Source(_) => true,
            _ => self.directive() == Directive::Retry,
        }
    }

    /// Returns the value of the label `kind` of the error counter. The counter's help text in
    /// `telemetry/metrics.rs` names all values.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "usage",
            Self::Registry(_) => "registry",
            Self::PositionLost(_) => "position_lost",
            Self::Fenced { .. } => "fenced",
            Self::Undecodable(_) => "undecodable",
            Self::Source(_) | Self::Mongo(_) | Self::Behind(_) | Self::File { .. } => "source",
            Self::Kafka { .. } => "kafka",
            Self::Interrupted | Self::Ended(_) | Self::Output(_) => "internal",
            Self::Startup(_)
            | Self::Session(_)
            | Self::Saved(_)
            | Self::PositionChange(_)
            | Self::Topic(_)
            | Self::SourceUnfit(_)
            | Self::RequestRejected(_)
            | Self::Dump(_)
            | Self::Publish(_)
            | Self::Instances(_)
            | Self::KafkaFailure(_) => match self.directive() {
                Directive::Stop(ExitCode::Usage) => "usage",
                Directive::Stop(_) | Directive::Retry => "kafka",
            },
        }
    }
}

impl From<EntryFault> for ProducerError {
    fn from(fault: EntryFault) -> Self {
        Self::Undecodable(Box::new(fault))
    }
}

impl From<EntryError> for ProducerError {
    fn from(error: EntryError) -> Self {
        EntryFault::from(error).into()
    }
}

impl From<KafkaFailure> for ProducerError {
    fn from(failure: KafkaFailure) -> Self {
        Self::KafkaFailure(failure)
    }
}

impl From<TopicError> for ProducerError {
    fn from(error: TopicError) -> Self {
        Self::Topic(Box::new(error))
    }
}

impl From<DumpError> for ProducerError {
    fn from(error: DumpError) -> Self {
        Self::Dump(Box::new(error))
    }
}

impl From<SessionError> for ProducerError {
    fn from(error: SessionError) -> Self {
        Self::Session(Box::new(error))
    }
}

impl From<SavedError> for ProducerError {
    fn from(error: SavedError) -> Self {
        Self::Saved(Box::new(error))
    }
}

impl From<PositionChangeError> for ProducerError {
    fn from(error: PositionChangeError) -> Self {
        Self::PositionChange(Box::new(error))
    }
}

/// Returns the message for a failure of Kafka, with its cause.
fn kafka_text(failure: &KafkaFailure) -> String {
    if let KafkaFailure::SettingRefused { setting, .. } = failure {
        return format!("{failure} with --topic-config {}=VALUE", setting.name);
    }
    let text = match std::error::Error::source(failure) {
        Some(cause) => format!("{failure}: {cause}"),
        None => failure.to_string(),
    };
    match failure {
        KafkaFailure::Credentials { .. } => text,
        _ if failure.is_misconfiguration() => text,
        _ if failure.is_transient() => format!("Kafka: {text}"),
        _ => format!("cannot continue: {text}"),
    }
}

fn kafka_directive(failure: &KafkaFailure) -> Directive {
    match failure {
        KafkaFailure::SettingRefused { .. } => Directive::Stop(ExitCode::Usage),
        KafkaFailure::Credentials { .. } => Directive::Retry,
        _ if failure.is_misconfiguration() => Directive::Stop(ExitCode::Usage),
        _ if failure.is_transient() => Directive::Retry,
        _ => Directive::Stop(ExitCode::Failed),
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::position::Position;
    use rdkafka::error::KafkaError;

    use crate::position_lost::Gap;

    use super::*;

    #[test]
    fn a_lost_position_names_both_ends_the_gap_and_the_remedies() {
        let checkpoint = Position {
            ts: Timestamp::new(1000, 1),
            term: 3,
            ord: 0,
        };
        let oldest = Timestamp::new(9000, 1);
        let gap = Gap::between(checkpoint.ts, oldest);
        let lost = PositionLost::RolledOver {
            checkpoint,
            oldest,
            gap,
        };
        let error = ProducerError::from(Box::new(lost));
        let text = error.to_string();
        for part in ["1000:1 (term 3)", "9000:1", "2 h 13 min", "To recover"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(
            error.directive(),
            Directive::Stop(ExitCode::SourcePositionLost)
        );
    }

    #[test]
    fn an_error_of_the_source_is_reported_without_the_reply_of_the_server() {
        let error = mongodb::error::Error::from(std::io::Error::other("gone"));
        let text = ProducerError::Source(error).to_string();
        assert!(text.contains("gone"), "{text}");
        assert!(!text.contains("server response"), "{text}");
    }

    #[test]
    fn errors_end_the_program_or_are_retried() {
        let table = [
            (
                SessionError::RegistryNeeded.into(),
                Directive::Stop(ExitCode::Usage),
            ),
            (
                ProducerError::Fenced {
                    transactional_id: String::new(),
                },
                Directive::Stop(ExitCode::Fenced),
            ),
            (
                EntryFault::DumpTruncated {
                    file: String::new(),
                }
                .into(),
                Directive::Stop(ExitCode::StoppedByPolicy),
            ),
            (
                ProducerError::kafka("committing", "timed out"),
                Directive::Retry,
            ),
            (
                ProducerError::Ended("encoder"),
                Directive::Stop(ExitCode::Failed),
            ),
            (
                MongoError::ConnectionString {
                    reason: String::new(),
                }
                .into(),
                Directive::Stop(ExitCode::Usage),
            ),
            (
                KafkaFailure::Options(KafkaError::Canceled).into(),
                Directive::Stop(ExitCode::Usage),
            ),
        ];
        for (error, directive) in table {
            assert_eq!(error.directive(), directive, "{error}");
        }
    }
}
