//! The errors of the program and their exit codes.

use oplog_relay_runtime::config::ConfigError;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::kafka::KafkaFailure;
use oplog_relay_runtime::mongo::MongoError;
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::startup_error::StartupError;
use rdkafka::error::KafkaError;

use crate::cutover::error::CutoverError;
use crate::dead_letter::error::DeadLetterError;
use crate::group::start::error::StartError;
use crate::record_fault::RecordFault;
use crate::record_position::RecordPosition;
use crate::replay::catalog::OtherSubscription;
use crate::replay::commands::failure::CommandFailure;
use crate::replay::damage::DamagedDocument;
use crate::replay::held_documents::error::HeldError;
use crate::replay::plan::PlanError;
use crate::replay::request_refused::RequestRefused;
use crate::replay::writes::failure::WriteFailure;
use crate::saved_state_error::SavedStateError;
use crate::verify::error::VerifyError;
use crate::worker::barrier_error::BarrierError;
use crate::worker::record_error::RecordError;
use crate::worker::topic_error::TopicError;

/// The reason why the program stopped with an error.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The configuration has faults, all of which are reported at once.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The program cannot start its own parts.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// A comparison cannot start or continue.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A cutover is not complete.
    #[error(transparent)]
    Cutover(#[from] CutoverError),
    /// The dead-letter topic of a group cannot be used.
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
    /// A member's namespaces differ from those of its group.
    #[error(transparent)]
    OtherSubscription(Box<OtherSubscription>),
    /// The group cannot start, or cannot continue, at its offsets.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A topic cannot be read by this program.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The saved state of a source cannot be read.
    #[error(transparent)]
    SavedState(#[from] SavedStateError),
    /// A record stops the program.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A command cannot run at its barrier.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// Held documents, or indexes that are suspended for them, stop a replay.
    #[error(transparent)]
    Held(Box<HeldError>),
    /// Writes fail permanently.
    #[error(transparent)]
    Write(Box<WriteFailure>),
    /// A command cannot run on the target.
    #[error(transparent)]
    Command(Box<CommandFailure>),
    /// The target refuses another request.
    #[error(transparent)]
    Request(#[from] RequestRefused),
    /// A document on the target or in an entry is damaged.
    #[error(transparent)]
    DamagedDocument(#[from] DamagedDocument),
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
    /// Another process writes to the output file.
    #[error(
        "--to: another process writes to {file}, and the lines of both would be mixed: give each member \
         of the group a file of its own"
    )]
    OutputInUse {
        /// The path of the file.
        file: String,
    },
    /// The output cannot be written.
    #[error("{file} cannot be written")]
    Output {
        /// The path of the file, or a description such as "standard output".
        file: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
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

    /// Returns the exit code of the program for this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Startup(error) => error.exit_code(),
            Self::Verify(error) => error.exit_code(),
            Self::Cutover(error) => error.exit_code(),
            Self::DeadLetter(error) => error.exit_code(),
            Self::OtherSubscription(error) => error.exit_code(),
            Self::OutputInUse { .. } => ExitCode::Usage,
            Self::KafkaFailure(failure) if failure.is_misconfiguration() => ExitCode::Usage,
            Self::Mongo(error) if error.is_misconfiguration() => ExitCode::Usage,
            Self::Start(error) => error.exit_code(),
            Self::Topic(error) => error.exit_code(),
            Self::SavedState(error) => error.exit_code(),
            Self::Record(error) => error.exit_code(),
            Self::Barrier(error) => error.exit_code(),
            Self::Held(error) => error.exit_code(),
            Self::Write(error) => error.exit_code(),
            Self::Command(error) => error.exit_code(),
            Self::Request(error) => error.exit_code(),
            Self::Undecodable { .. } | Self::Unplayable { .. } | Self::DamagedDocument(_) => {
                ExitCode::StoppedByPolicy
            }
            Self::OutputClosed => ExitCode::Done,
            Self::Interrupted(code) => *code,
            Self::KafkaFailure(_)
            | Self::Kafka { .. }
            | Self::Mongo(_)
            | Self::Output { .. }
            | Self::Unready(_)
            | Self::Ended(_) => ExitCode::Failed,
        }
    }

    /// Returns the value of the label `kind` of the error counter. The counter's help text in
    /// `telemetry/metrics.rs` names all values.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "usage",
            Self::Undecodable { .. } => "undecodable",
            Self::Unplayable { .. } => "unplayable",
            Self::KafkaFailure(_) | Self::Kafka { .. } => "kafka",
            Self::Mongo(_) => "target",
            Self::Output { .. } | Self::OutputClosed => "output",
            Self::Ended(_) | Self::Unready(_) | Self::Interrupted(_) => "internal",
            Self::Startup(_)
            | Self::Verify(_)
            | Self::Cutover(_)
            | Self::DeadLetter(_)
            | Self::OtherSubscription(_)
            | Self::OutputInUse { .. }
            | Self::Start(_)
            | Self::Topic(_)
            | Self::SavedState(_)
            | Self::Record(_)
            | Self::Barrier(_)
            | Self::Held(_)
            | Self::Write(_)
            | Self::Command(_)
            | Self::Request(_)
            | Self::DamagedDocument(_) => match self.exit_code() {
                ExitCode::Usage => "usage",
                ExitCode::OffsetsLost => "offsets_lost",
                _ => "refused",
            },
        }
    }

    /// Returns true for an error of the kind `refused`, for example a write that the target refuses
    /// permanently.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.kind() == "refused"
    }

    /// Returns the message of this error and its causes, without repetitions.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(self)
    }
}

impl From<OtherSubscription> for ConsumerError {
    fn from(error: OtherSubscription) -> Self {
        Self::OtherSubscription(Box::new(error))
    }
}

impl From<WriteFailure> for ConsumerError {
    fn from(failure: WriteFailure) -> Self {
        Self::Write(Box::new(failure))
    }
}

impl From<CommandFailure> for ConsumerError {
    fn from(failure: CommandFailure) -> Self {
        Self::Command(Box::new(failure))
    }
}

impl From<HeldError> for ConsumerError {
    fn from(error: HeldError) -> Self {
        Self::Held(Box::new(error))
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
