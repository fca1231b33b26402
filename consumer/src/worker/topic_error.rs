//! The reasons why a topic cannot be read by this program.

use oplog_relay_core::foreign::Writer;
use oplog_relay_core::format::{FORMAT_VERSION, Format};
use oplog_relay_runtime::exit::ExitCode;

/// The reason why a topic cannot be read by this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No source has claimed the topic.
    #[error(
        "topic {topic} has records, but no state topic __{prefix}.state.* has a claim for it, so their \
         source and format are unknown. Only oplog-producer may write to topics of the prefix \
         {prefix}; remove the topic, or consume with the prefix that its producer has{}",
        hint(*writer)
    )]
    Unclaimed {
        /// The topic.
        topic: String,
        /// The prefix, or the topics, that this program reads.
        prefix: String,
        /// The other program that seems to have written the first record.
        writer: Option<Writer>,
    },
    /// A topic of another program is no longer there.
    #[error(
        "topic {topic} has records that were read, but it no longer exists, or this user may no longer \
         read it. If it was deleted, run again without it in --topics"
    )]
    Vanished {
        /// The topic.
        topic: String,
    },
    /// A newer producer writes the topic.
    #[error(
        "topic {topic} has format version {version}; this program reads versions up to \
         {FORMAT_VERSION}: use the consumer that came with its producer"
    )]
    NewerFormat {
        /// The topic.
        topic: String,
        /// Its format version.
        version: u32,
    },
    /// The format of the topic loses types, which a replay refuses.
    #[error(
        "topic {topic} has the format {format}, which loses types: 1 and 1.0 are written identically. \
         Produce bson, raw or canonical JSON for a replay, or set --allow-lossy"
    )]
    Lossy {
        /// The topic.
        topic: String,
        /// Its format.
        format: Format,
    },
    /// The format of the topic is for other readers.
    #[error(
        "topic {topic} has the format {format}, which is for readers only: it has neither commands nor \
         barriers. Run a producer with another --format under another --topic-prefix for oplog-consumer"
    )]
    ForReaders {
        /// The topic.
        topic: String,
        /// Its format.
        format: Format,
    },
    /// Topics of another program do not exist.
    #[error(
        "--topics: topic {} does not exist, or this user may not read it: give the names of the topics \
         that the other program writes",
        topics.join(", ")
    )]
    Missing {
        /// The names, or the patterns that no topic matches.
        topics: Vec<String>,
    },
    /// The audit is restricted to a topic that does not exist.
    #[error("--topic: the prefix {prefix} has no topic {topic}")]
    NotOfPrefix {
        /// The topic.
        topic: String,
        /// The prefix.
        prefix: String,
    },
}

fn hint(writer: Option<Writer>) -> String {
    writer.map_or_else(String::new, |writer| {
        format!(
            ". Its first record looks like one of another program; to read it, use --input {} --topics \
             with the names of its topics",
            writer.name()
        )
    })
}

impl TopicError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unclaimed { .. } | Self::Vanished { .. } | Self::NewerFormat { .. } => {
                ExitCode::StoppedByPolicy
            }
            Self::Lossy { .. }
            | Self::ForReaders { .. }
            | Self::Missing { .. }
            | Self::NotOfPrefix { .. } => ExitCode::Usage,
        }
    }
}
