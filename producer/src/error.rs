//! Errors of the producer, and how each of them is handled.

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::config::ConfigError;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::kafka::KafkaFailure;
use oplog_relay_runtime::mongo::{self, MongoError};

use crate::registry::RegistryError;

/// An error that ends a session or the program.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// All faults of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration or a request does not fit the source, the cluster or the environment.
    #[error("{0}")]
    Usage(String),
    /// The stream cannot continue from the saved position without losing or repeating entries.
    #[error(transparent)]
    PositionLost(#[from] Box<PositionLost>),
    /// Another instance has taken over this source.
    #[error(
        "another oplog-producer with the transactional id {0:?} has taken over, so this instance stops. \
         Run one instance per source, or give the other one its own --topic-prefix"
    )]
    Fenced(String),
    /// An entry or a reply of the source cannot be read, or an entry cannot be sent.
    #[error("{0}. The stream stops here, and nothing is skipped")]
    Undecodable(String),
    /// The source failed.
    #[error("the source failed: {}", mongo::error_text(.0))]
    Source(mongodb::error::Error),
    /// The source cannot be used: it is unreachable, refuses the credentials, or is not supported.
    #[error(transparent)]
    Mongo(#[from] MongoError),
    /// An entry is missing on the member that was read, although its oplog should contain it.
    #[error(
        "entry {0} of a transaction is missing on the member that was queried, although its oplog \
         starts before it: the member lags behind the one that the tail reads"
    )]
    Behind(Timestamp),
    /// A dump cannot be read.
    #[error("{path} cannot be read")]
    Dump {
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
    /// The schema registry gives no id.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// A broker rejects the credentials.
    #[error("{0}")]
    Credentials(String),
    /// Kafka refused an operation, or the saved state cannot be read. A retry cannot succeed.
    #[error("cannot continue: {0}")]
    Refused(String),
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
    #[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
    pub fn undecodable(error: Malformed) -> Self {
        Self::Undecodable(format!(
            "the source returned data that cannot be decoded: {error}"
        ))
    }

    /// Returns the error for an entry whose contents are damaged.
    #[must_use]
    pub fn damaged(entry: &Entry<'_>, error: &EntryError) -> Self {
        match error {
            EntryError::Malformed(error) => Self::Undecodable(format!(
                "entry {} of {:?} is damaged: {error}",
                entry.ts, entry.ns
            )),
            // The other errors name the entry themselves.
            error => Self::Undecodable(format!("an entry cannot be read: {error}")),
        }
    }

    /// Returns the error for a document that is not an entry, with its time and namespace if it has
    /// them.
    #[must_use]
    pub fn unreadable(document: Document<'_>, error: &EntryError) -> Self {
        if !matches!(error, EntryError::Malformed(_)) {
            return Self::Undecodable(format!("an entry cannot be read: {error}"));
        }
        let field = |name| document.get(name).ok().flatten();
        let ts = field("ts").and_then(|ts| ts.timestamp().ok());
        let ns = field("ns").and_then(|ns| ns.str().ok());
        let ts = ts.map_or_else(|| "without a ts".to_owned(), |ts| ts.to_string());
        let ns = ns.map_or_else(|| "an unknown namespace".to_owned(), |ns| format!("{ns:?}"));
        Self::Undecodable(format!("entry {ts} of {ns} cannot be read: {error}"))
    }

    /// Returns the error for a Kafka call that failed.
    pub fn kafka(doing: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Kafka {
            doing: doing.into(),
            reason: reason.to_string(),
        }
    }

    /// Returns the action that the error requires.
    #[must_use]
    pub fn directive(&self) -> Directive {
        match self {
            Self::Registry(error) if error.is_transient() => Directive::Retry,
            Self::Config(_) | Self::Usage(_) | Self::Registry(_) => {
                Directive::Stop(ExitCode::Usage)
            }
            Self::PositionLost(_) => Directive::Stop(ExitCode::SourcePositionLost),
            Self::Fenced(_) => Directive::Stop(ExitCode::Fenced),
            Self::Undecodable(_) => Directive::Stop(ExitCode::StoppedByPolicy),
            Self::Source(error) if mongo::is_interrupted(error) => Directive::Retry,
            Self::Mongo(error) if error.is_misconfiguration() => Directive::Stop(ExitCode::Usage),
            Self::Kafka { .. } | Self::Behind(_) | Self::Credentials(_) => Directive::Retry,
            Self::Source(_) | Self::Mongo(_) | Self::Dump { .. } => {
                Directive::Stop(ExitCode::Failed)
            }
            Self::Refused(_) | Self::Interrupted | Self::Ended(_) | Self::Output(_) => {
                Directive::Stop(ExitCode::Failed)
            }
        }
    }

    /// Returns the label of the error counter.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::Usage(_) => "usage",
            Self::Registry(_) => "registry",
            Self::PositionLost(_) => "position_lost",
            Self::Fenced(_) => "fenced",
            Self::Undecodable(_) => "undecodable",
            Self::Source(_) | Self::Mongo(_) | Self::Behind(_) | Self::Dump { .. } => "source",
            Self::Kafka { .. } | Self::Credentials(_) | Self::Refused(_) => "kafka",
            Self::Interrupted | Self::Ended(_) | Self::Output(_) => "internal",
        }
    }
}

impl From<EntryError> for ProducerError {
    fn from(error: EntryError) -> Self {
        Self::Undecodable(format!("an entry cannot be read: {error}"))
    }
}

impl From<KafkaFailure> for ProducerError {
    fn from(failure: KafkaFailure) -> Self {
        if let KafkaFailure::SettingRefused { setting, .. } = &failure {
            let flag = format!("--topic-config {}=VALUE", setting.name);
            return Self::Usage(format!("{failure} with {flag}"));
        }
        let mut reason = failure.to_string();
        if let Some(source) = std::error::Error::source(&failure) {
            reason = format!("{reason}: {source}");
        }
        match failure {
            KafkaFailure::Credentials { .. } => Self::Credentials(reason),
            _ if failure.is_misconfiguration() => Self::Usage(reason),
            _ if failure.is_transient() => Self::kafka("Kafka", reason),
            _ => Self::Refused(reason),
        }
    }
}

/// The remedies for a lost position.
const REMEDIES: &str = "Entries may be missing in Kafka. To recover: restore the missing oplog (a \
    dump of it can be sent as a source with the same --source-name), or start again under another \
    --topic-prefix with a new copy of the data; a larger oplog \
    (replSetResizeOplog, oplogMinRetentionHours) prevents this in the future";

/// The reason why the stream cannot continue from the checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PositionLost {
    /// The oplog starts after the checkpoint.
    #[error(
        "position lost: the checkpoint is {checkpoint}, the oldest entry of the source is {oldest}, \
         {gap} later. {REMEDIES}"
    )]
    RolledOver {
        /// The position that was saved or requested.
        checkpoint: Position,
        /// Time of the oldest entry of the oplog.
        oldest: Timestamp,
        /// The time between them.
        gap: Gap,
    },
    /// The oplog spans the checkpoint, but the entry at its position is a different one or missing.
    #[error(
        "position lost: the oplog of the source does not contain the entry at the checkpoint \
         {checkpoint}; it contains {found} instead (oldest entry: {oldest}). The entry was rolled \
         back, or this is a different or a restored replica set. {REMEDIES}"
    )]
    RolledBack {
        /// The saved position.
        checkpoint: Position,
        /// Position of the entry that was found at the checkpoint or after it.
        found: Position,
        /// Time of the oldest entry of the oplog.
        oldest: Timestamp,
    },
    /// A change stream does not continue from the checkpoint.
    #[error(
        "position lost: the change stream cannot continue after {position}: {reason}. Events may be \
         missing in Kafka. To recover: start again under another --topic-prefix with a new copy of the \
         data; a larger oplog on every member and shard (replSetResizeOplog, oplogMinRetentionHours) \
         prevents this in the future"
    )]
    StreamEnded {
        /// The position that was reached.
        position: Position,
        /// The meaning of the server's error.
        reason: String,
    },
    /// The commit of a transaction is in the oplog, but an earlier entry of it is not.
    #[error(
        "position lost: the transaction committed at {commit} includes an entry at {part} that is \
         no longer in the oplog of the source, so the transaction cannot be sent completely. \
         {REMEDIES}"
    )]
    ChainGone {
        /// Time of the commit.
        commit: Timestamp,
        /// The entry that is missing.
        part: Timestamp,
    },
    /// The state topic or this process shows that the source has been running, but no position is
    /// saved.
    #[error(
        "position lost: topic {position_topic} holds no position, although this source has been \
         running (according to {state_topic}, or because this process has committed; last known \
         position: {last}). The topic was deleted, emptied or created again. --start does not apply: \
         it would skip entries, or send them twice. To recover: write the last position back, if it \
         is known (from /status, the log, or a backup of the topic), as a record of \
         {position_topic} with the key {source_name} and the value \
         {{\"v\":1,\"ts\":\"<seconds>:<increment>\",\"term\":<term>,\"ord\":0,\"routing\":1,\"state\":true}}; \
         or start again under another --topic-prefix with a new copy of the data; or, if missing or \
         repeated entries are acceptable, delete {state_topic} as well and give --start"
    )]
    Forgotten {
        /// Name of the position topic.
        position_topic: String,
        /// Name of the state topic.
        state_topic: String,
        /// Name of the source.
        source_name: String,
        /// The last position that this process knows.
        last: String,
    },
    /// The saved position is older than one that this process has committed.
    #[error(
        "position lost: topic {position_topic} holds {saved}, but this process has committed \
         {committed}: records that Kafka had acknowledged are gone (the topic was created again or \
         restored, or an out-of-sync replica was elected leader). Continuing would send entries \
         twice. Check the data topics (oplog-consumer audit); a restart accepts the position that \
         the topic holds now"
    )]
    WentBack {
        /// Name of the position topic.
        position_topic: String,
        /// The saved position.
        saved: Position,
        /// The committed position.
        committed: Position,
    },
    /// A position is saved, but the records of the state topic are lost.
    #[error(
        "position lost: topic {state_topic} no longer contains the identity, the topics and the \
         routes of the source, although {position_topic} holds {saved}. The topic was deleted, \
         emptied or created again; later entries could overtake earlier ones. To recover: \
         restore {state_topic} from a backup, or start again under another --topic-prefix with a \
         new copy of the data"
    )]
    StateForgotten {
        /// Name of the position topic.
        position_topic: String,
        /// Name of the state topic.
        state_topic: String,
        /// The saved position.
        saved: Position,
    },
    /// An entry of a transaction is missing although the oplog starts before it, for longer than
    /// replication lag can explain.
    #[error(
        "position lost: entry {part} of a transaction is missing on every member that was queried, \
         although their oplogs start before it: the oplog has a gap there, or all members that the \
         connection string selects lag far behind (if so, read from the primary). {REMEDIES}"
    )]
    Hole {
        /// The entry that is missing.
        part: Timestamp,
    },
}

/// A duration in whole seconds, printed in readable units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Length in seconds.
    pub seconds: u32,
}

impl Gap {
    /// Returns the time from one timestamp to a later one.
    #[must_use]
    pub const fn between(earlier: Timestamp, later: Timestamp) -> Self {
        Self {
            seconds: later.seconds.saturating_sub(earlier.seconds),
        }
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hours, minutes) = (self.seconds / 3600, self.seconds / 60 % 60);
        match (hours, minutes) {
            (0, 0) => write!(f, "{} s", self.seconds),
            (0, minutes) => write!(f, "{minutes} min {} s", self.seconds % 60),
            (hours, minutes) => write!(f, "{hours} h {minutes} min"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError;

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
                ProducerError::Usage(String::new()),
                Directive::Stop(ExitCode::Usage),
            ),
            (
                ProducerError::Fenced(String::new()),
                Directive::Stop(ExitCode::Fenced),
            ),
            (
                ProducerError::Undecodable(String::new()),
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
