//! The reasons why a session cannot start, or must not continue.

use oplog_relay_core::position::Position;
use oplog_relay_runtime::exit::ExitCode;

/// The reason why a session cannot start, or must not continue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// There is no starting point.
    #[error(
        "source {source_name:?} has no saved position under prefix {prefix:?}, and {reason}. Give a \
         starting point: --sync full-then-tail (copy the existing documents, then tail the oplog), --sync \
         full (copy only), --start oldest (everything in the oplog), --start now (only new entries), \
         --start <RFC 3339 time or <seconds>:<increment>>"
    )]
    NoStart {
        /// Name of the source.
        source_name: String,
        /// The prefix.
        prefix: String,
        /// The reason why the existing documents are not copied.
        reason: NoCopy,
    },
    /// Another source has claimed a topic at the same time.
    #[error(
        "topic {topic} was claimed by source {owner:?} at the same time as by this one: two sources \
         cannot share a topic. This source has withdrawn its claim and stops. It has sent entries up to \
         {position}, and those of its last Kafka transaction are in the topic. Give this source its own \
         --topic-prefix, or exclude the namespace from one of the two"
    )]
    TopicContested {
        /// The topic.
        topic: String,
        /// The other source.
        owner: String,
        /// The last position of this source.
        position: Position,
    },
    /// The rest of a transaction needs the registry with which it was begun.
    #[error(
        "the saved position is inside a transaction that was begun in Avro, and the rest of it must be \
         written in Avro too: give --registry-url for this start as well"
    )]
    RegistryNeeded,
}

/// The reason why a new stream does not copy the existing documents, as a clause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCopy {
    /// The source is a dump.
    #[error("a dump of the oplog contains no documents to copy")]
    Dump,
    /// The source is read through a change stream.
    #[error(
        "a full sync cannot run beside a change stream (note a time, copy the documents with mongodump \
         and mongorestore, and give --start with that time)"
    )]
    ChangeStream,
    /// The operator does not want a copy.
    #[error("--sync tail copies nothing")]
    Tail,
    /// There are data topics.
    #[error("data topics already exist ({topic}), so a full sync has to be requested")]
    TopicsExist {
        /// One of the topics.
        topic: String,
    },
    /// Neither a start nor a copy was requested.
    #[error("no starting point is given")]
    NotGiven,
}

impl SessionError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
