//! The reasons why a source cannot be used.

use oplog_relay_core::topic::NameError;
use oplog_relay_runtime::exit::ExitCode;

/// The reason why a source cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The source is a standalone server.
    #[error(
        "the source has no oplog (local.oplog.rs): it is a standalone server. Make it a replica \
         set of one member: start mongod with --replSet rs0 and run rs.initiate() once; no other \
         change is needed"
    )]
    NoOplog,
    /// The source is a mongos.
    #[error(
        "the source is a mongos, which has no oplog, and the oplogs of its shards cannot be merged into \
         one order. Give --source-mode change-stream (or omit the flag), or point --source at a replica \
         set that is not a shard"
    )]
    Mongos,
    /// The source is a shard.
    #[error(
        "the source is a shard of a sharded cluster: each shard logs its own copy of a command and only a \
         part of every collection, so one shard's oplog is not a complete history. Point --source at a \
         mongos of the cluster and give --source-mode change-stream, or at a replica set that is not a \
         shard"
    )]
    Shard,
    /// A change stream cannot be read from its beginning.
    #[error(
        "--start oldest needs --source-mode oplog: a change stream does not report the oldest entry \
         of the oplog. Give --start now or --start <time>; if the oplog no longer reaches back to that time, \
         the program exits with code 3"
    )]
    NoOldestEvent,
    /// A change stream cannot start at the current time.
    #[error(
        "the source does not report its logical time (operationTime), so --start now cannot be resolved: \
         give --start <time>"
    )]
    NoLogicalTime,
    /// The source or the configuration does not permit a change stream.
    #[error("the change stream cannot be opened: {meaning} (error {code}: {reason})")]
    StreamRefused {
        /// The meaning of the server's code.
        meaning: &'static str,
        /// The server's code.
        code: i32,
        /// The server's error.
        reason: String,
    },
    /// Documents before changes cannot be looked up for a change stream.
    #[error(
        "--full-document-before lookup cannot be used with a change stream: the document before a \
         change is found by the index of the operation in its oplog entry, which a change event does not \
         contain. Omit the flag, or give --source-mode oplog"
    )]
    BeforeLookupOfEvents,
    /// The source has no name.
    #[error("--source-name is required: the source has no set name")]
    NoName,
    /// The name of the source is not valid.
    #[error("{name:?} is not a valid source name: it {reason}; set --source-name")]
    InvalidName {
        /// The name.
        name: String,
        /// The rule that it breaks, as a predicate.
        reason: NameError,
    },
    /// Documents cannot be looked up in a dump.
    #[error("documents can be looked up only on a live source: a dump has no documents")]
    DumpWithoutDocuments,
    /// The source's user may not read documents.
    #[error(
        "the source's user is not permitted to look up documents of {ns}: grant it the role read on {db}, \
         exclude the namespace, or omit --full-document lookup and --topic-mode snapshot"
    )]
    CurrentLookupForbidden {
        /// Namespace of the documents.
        ns: String,
        /// Its database.
        db: String,
    },
    /// The source's user may not read documents before changes.
    #[error(
        "the source's user is not permitted to read config.system.preimages: grant it the privilege find \
         on this collection, or omit --full-document-before lookup"
    )]
    BeforeLookupForbidden,
    /// The oplog has no entry from which a full sync could continue.
    #[error(
        "the source's oplog is empty, so a full sync has no start position: write any document to the \
         source first"
    )]
    OplogEmpty,
    /// Collections are created and dropped so often that a full sync cannot determine its start
    /// position.
    #[error(
        "collections of the source are created and dropped continuously, so no start position of a full \
         sync could be determined. Exclude them (--exclude-namespaces)"
    )]
    CollectionsChange,
    /// The buckets of a time series are not listed.
    #[error(
        "{ns} is a time series collection whose buckets the server does not list; a full sync cannot \
         copy it. Exclude it with --exclude-namespaces"
    )]
    BucketsUnlisted {
        /// Namespace of the time series.
        ns: String,
    },
}

impl SourceError {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
