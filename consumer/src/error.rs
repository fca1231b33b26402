//! The errors of the program and their exit codes.

use oplog_relay_core::format::Format;
use oplog_relay_runtime::config::ConfigError;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::kafka::KafkaFailure;
use oplog_relay_runtime::mongo::MongoError;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::error::KafkaError;

use crate::group::start::error::StartError;
use crate::record_fault::RecordFault;
use crate::record_position::RecordPosition;
use crate::replay::plan::PlanError;

/// The reason why the program stopped with an error.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The configuration has faults, all of which are reported at once.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A flag does not fit the topics, the target or the environment.
    #[error("{0}")]
    Usage(String),
    /// The group cannot start, or cannot continue, at its offsets.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Records or committed offsets that the group needs no longer exist.
    #[error("{0}")]
    OffsetsLost(String),
    /// A record that cannot be decoded.
    #[error(
        "{position}: the record cannot be decoded; everything before it is applied and committed, \
         and the group's offset is at this record (--dead-letter undecodable writes it to the \
         dead-letter topic and continues)"
    )]
    Undecodable {
        /// The position of the record.
        position: RecordPosition,
        /// The reason.
        #[source]
        source: Box<RecordFault>,
    },
    /// An entry that cannot be replayed.
    #[error(
        "{position}: the record cannot be replayed; everything before it is applied and committed, \
         and the group's offset is at this record"
    )]
    Unplayable {
        /// The position of the record.
        position: RecordPosition,
        /// The entry and the reason.
        #[source]
        source: Box<PlanError>,
    },
    /// Something that the program can neither apply nor skip, for example a write that the target
    /// refuses, or a topic that no source claims.
    #[error("{0}")]
    Refused(String),
    /// A command that the target refuses.
    #[error("{0}")]
    CommandRefused(String),
    /// A request to Kafka failed permanently.
    #[error(transparent)]
    KafkaFailure(#[from] KafkaFailure),
    /// A call of the Kafka client failed permanently.
    #[error("{doing} failed")]
    Kafka {
        /// The operation that failed.
        doing: String,
        /// The error of Kafka or of its client.
        #[source]
        source: KafkaError,
    },
    /// MongoDB cannot be used.
    #[error(transparent)]
    Mongo(#[from] MongoError),
    /// The output cannot be written.
    #[error("{0} cannot be written")]
    Output(String, #[source] std::io::Error),
    /// The instance that was probed is not ready.
    #[error("{0}")]
    Unready(String),
    /// Standard output was closed by its reader.
    #[error("standard output was closed by its reader")]
    OutputClosed,
    /// A part of the program ended without returning an error, for example by a panic.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// The work was abandoned because of a shutdown with this exit code.
    #[error("interrupted by shutdown")]
    Interrupted(ExitCode),
}

impl ConsumerError {
    /// Returns the error of a Kafka call that failed.
    pub fn kafka(doing: impl Into<String>, source: KafkaError) -> Self {
        Self::Kafka {
            doing: doing.into(),
            source,
        }
    }

    /// Returns the error for work that was abandoned because of a shutdown.
    #[must_use]
    pub fn interrupted(shutdown: &Shutdown) -> Self {
        Self::Interrupted(shutdown.exit_code().unwrap_or(ExitCode::Failed))
    }

    /// Returns the error for a format that loses types, which a replay refuses.
    #[must_use]
    pub fn lossy(topic: &str, format: Format) -> Self {
        Self::Usage(format!(
            "topic {topic} has the format {format}, which loses types: 1 and 1.0 are written \
             identically. Produce bson, raw or canonical JSON for a replay, or set --allow-lossy"
        ))
    }

    /// Returns the error for a topic whose format is for other readers, so that this program cannot
    /// use it.
    #[must_use]
    pub fn for_readers(topic: &str, format: Format) -> Self {
        Self::Usage(format!(
            "topic {topic} has the format {format}, which is for readers only: it has neither commands \
             nor barriers. Run a producer with another --format under another --topic-prefix for \
             oplog-consumer"
        ))
    }

    /// Returns the exit code of the program for this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Usage(_) => ExitCode::Usage,
            Self::KafkaFailure(failure) if failure.is_misconfiguration() => ExitCode::Usage,
            Self::Mongo(error) if error.is_misconfiguration() => ExitCode::Usage,
            Self::Start(error) => error.exit_code(),
            Self::OffsetsLost(_) => ExitCode::OffsetsLost,
            Self::Undecodable { .. }
            | Self::Unplayable { .. }
            | Self::Refused(_)
            | Self::CommandRefused(_) => ExitCode::StoppedByPolicy,
            Self::OutputClosed => ExitCode::Done,
            Self::Interrupted(code) => *code,
            Self::KafkaFailure(_)
            | Self::Kafka { .. }
            | Self::Mongo(_)
            | Self::Output(..)
            | Self::Unready(_)
            | Self::Ended(_) => ExitCode::Failed,
        }
    }

    /// Returns the value of the error counter's `kind` label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::Usage(_) => "usage",
            Self::OffsetsLost(_) | Self::Start(_) => "offsets_lost",
            Self::Undecodable { .. } => "undecodable",
            Self::Unplayable { .. } => "unplayable",
            Self::Refused(_) | Self::CommandRefused(_) => "refused",
            Self::KafkaFailure(_) | Self::Kafka { .. } => "kafka",
            Self::Mongo(_) => "target",
            Self::Output(..) | Self::OutputClosed => "output",
            Self::Ended(_) | Self::Unready(_) | Self::Interrupted(_) => "internal",
        }
    }

    /// Returns the message of this error and its causes, without repetitions.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(self)
    }
}

/// Returns the message of an error and its causes, without repetitions.
#[must_use]
pub fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let message = next.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = next.source();
    }
    text
}
