//! What can go wrong, and what is done about it.

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::config::ConfigError;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::kafka::KafkaFailure;
use oplog_relay_runtime::mongo::{self, MongoError};

/// Why producing ended.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// Faults of the configuration, all of them.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was asked for does not fit what is there.
    #[error("{0}")]
    Usage(String),
    /// The saved position is no longer in the source.
    #[error(transparent)]
    PositionLost(#[from] Box<PositionLost>),
    /// Another instance has taken over this source.
    #[error(
        "another oplog-producer with the transactional id {0:?} has taken over; this one stops. \
         Run one instance per source, or give the other one its own --topic-prefix"
    )]
    Fenced(String),
    /// An entry that cannot be carried.
    #[error("{0}; the stream stops before it, nothing is skipped")]
    Undecodable(String),
    /// The source failed.
    #[error("the source failed: {}", mongo::error_text(.0))]
    Source(mongodb::error::Error),
    /// The source cannot be reached.
    #[error(transparent)]
    Mongo(#[from] MongoError),
    /// An entry is missing on the member that was asked, although its oplog should hold it.
    #[error(
        "entry {0} of a transaction is not on the member that was asked, though its oplog begins \
         before it: the member lags behind the one that the tail reads"
    )]
    Behind(Timestamp),
    /// A dump cannot be read.
    #[error("{path} cannot be read")]
    Dump {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Kafka failed in a way that a new session may repair.
    #[error("{doing}: {reason}")]
    Kafka {
        /// What was tried.
        doing: String,
        /// What Kafka or its client says.
        reason: String,
    },
    /// A broker refuses the credentials.
    #[error("{0}")]
    Credentials(String),
    /// Kafka refused something that a retry cannot repair.
    #[error("Kafka refused: {0}")]
    Refused(String),
    /// The shutdown came inside a transaction.
    #[error("interrupted inside a transaction")]
    Interrupted,
    /// A part of the program ended without a word.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// Drop everything, back off, open a new session from the checkpoint.
    Retry,
    /// End with that code.
    Stop(ExitCode),
}

impl ProducerError {
    /// For bytes that are no BSON.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
    pub fn undecodable(error: Malformed) -> Self {
        Self::Undecodable(format!("the source gave bytes that are no BSON: {error}"))
    }

    /// For an entry that is damaged inside.
    #[must_use]
    pub fn damaged(entry: &Entry<'_>, error: &EntryError) -> Self {
        match error {
            EntryError::Malformed(error) => Self::Undecodable(format!(
                "entry {} of {:?} is damaged: {error}",
                entry.ts, entry.ns
            )),
            // The others name the entry themselves.
            error => Self::Undecodable(format!("an entry cannot be read: {error}")),
        }
    }

    /// For a document that is no entry, with its time and namespace as far as it has them.
    #[must_use]
    pub fn unreadable(document: Document<'_>, error: &EntryError) -> Self {
        if !matches!(error, EntryError::Malformed(_)) {
            return Self::Undecodable(format!("an entry cannot be read: {error}"));
        }
        let field = |name| document.get(name).ok().flatten();
        let ts = field("ts").and_then(|ts| ts.timestamp().ok());
        let ns = field("ns").and_then(|ns| ns.str().ok());
        let ts = ts.map_or_else(|| "without a time".to_owned(), |ts| ts.to_string());
        let ns = ns.map_or_else(|| "no namespace".to_owned(), |ns| format!("{ns:?}"));
        Self::Undecodable(format!("entry {ts} of {ns} cannot be read: {error}"))
    }

    /// For a Kafka call that failed.
    pub fn kafka(doing: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Kafka {
            doing: doing.into(),
            reason: reason.to_string(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn directive(&self) -> Directive {
        match self {
            Self::Config(_) | Self::Usage(_) => Directive::Stop(ExitCode::Usage),
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

    /// A word for the error counter.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::Usage(_) => "usage",
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
            return Self::Usage(format!("{failure} by {flag}"));
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

/// The ways on after a lost position.
const WAYS_ON: &str = "Entries between the two may be missing in Kafka. Ways on: restore the \
    missing oplog (a dump of it can be sent as a source of the same --source-name), or start again \
    under another --topic-prefix with a new copy of the data; a larger oplog \
    (replSetResizeOplog, oplogMinRetentionHours) keeps it from happening again";

/// The source no longer has what follows the checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PositionLost {
    /// The oplog begins after the checkpoint.
    #[error(
        "position lost: the checkpoint is {checkpoint}, the oldest entry of the source is {oldest}, \
         {gap} later. {WAYS_ON}"
    )]
    RolledOver {
        /// What was saved (or asked for).
        checkpoint: Position,
        /// Where the oplog begins now.
        oldest: Timestamp,
        /// The time between them.
        gap: Gap,
    },
    /// The oplog spans the checkpoint, but its entry is another one or gone.
    #[error(
        "position lost: the entry of the checkpoint {checkpoint} is not in the source, which has \
         {found} in its place (oldest entry: {oldest}); it was rolled back, or this is another or \
         a restored replica set. {WAYS_ON}"
    )]
    RolledBack {
        /// What was saved.
        checkpoint: Position,
        /// What stands there or after it.
        found: Position,
        /// Where the oplog begins.
        oldest: Timestamp,
    },
    /// The commit of a transaction is there, an earlier entry of it is not.
    #[error(
        "position lost: the transaction committed at {commit} has operations in an entry at \
         {part}, which is not in the source any more; it cannot be sent whole. {WAYS_ON}"
    )]
    ChainGone {
        /// Where it was committed.
        commit: Timestamp,
        /// The entry that is missing.
        part: Timestamp,
    },
    /// The state topic says that the source was running, and no position is saved.
    #[error(
        "position lost: topic {position_topic} holds no position, although this source has been \
         running ({state_topic} says so, or this process itself has committed; its last position: \
         {last}). The topic was deleted, emptied or created again. --start does not apply: it would \
         skip entries, or send them twice. Ways on: write the last position back, if it is known \
         (from /status, the log, or a backup of the topic), as a record of {position_topic} with \
         the key {source_name} and the value \
         {{\"v\":1,\"ts\":\"<seconds>:<increment>\",\"term\":<term>,\"ord\":0,\"routing\":1,\"state\":true}}; \
         or begin again under another --topic-prefix with a new copy of the data; or, where missing \
         or repeated entries do no harm, delete {state_topic} as well and give --start"
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
         restored, or a replica that lagged behind was elected). Going on would send entries twice. \
         Check the data topics (oplog-consumer audit); a restart accepts the position that is \
         there now"
    )]
    WentBack {
        /// Name of the position topic.
        position_topic: String,
        /// What is saved.
        saved: Position,
        /// What was committed.
        committed: Position,
    },
    /// A position is saved, and the state topic has lost what it held.
    #[error(
        "position lost: topic {state_topic} does not say any more who the source is, which topics it \
         owns and where its collections go, although {position_topic} holds {saved}. The topic was \
         deleted, emptied or created again; later entries could overtake earlier ones. Ways on: \
         restore {state_topic} from a backup, or begin again under another --topic-prefix with a new \
         copy of the data"
    )]
    StateForgotten {
        /// Name of the position topic.
        position_topic: String,
        /// Name of the state topic.
        state_topic: String,
        /// What is saved.
        saved: Position,
    },
    /// An entry of a transaction is missing although the oplog begins before it, for so long that
    /// no lag explains it.
    #[error(
        "position lost: entry {part} of a transaction is not on any member that was asked, though \
         their oplogs begin before it, and it does not come: the oplog has a hole there, or all \
         members that the connection string allows lag far behind (read from the primary then). \
         {WAYS_ON}"
    )]
    Hole {
        /// The entry that is missing.
        part: Timestamp,
    },
}

/// A stretch of source time, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Seconds.
    pub seconds: u32,
}

impl Gap {
    /// From one time to a later one.
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
    fn a_lost_position_names_both_ends_the_gap_and_the_ways_on() {
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
        for part in ["1000:1 (term 3)", "9000:1", "2 h 13 min", "Ways on"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(
            error.directive(),
            Directive::Stop(ExitCode::SourcePositionLost)
        );
    }

    #[test]
    fn an_error_of_the_source_is_told_without_the_servers_reply() {
        let error = mongodb::error::Error::from(std::io::Error::other("gone"));
        let text = ProducerError::Source(error).to_string();
        assert!(text.contains("gone"), "{text}");
        assert!(!text.contains("server response"), "{text}");
    }

    #[test]
    fn every_error_has_its_directive() {
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
