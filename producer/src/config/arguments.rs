//! Commands and flags. [`crate::config`] checks their values and reports all faults at once.

use clap::{Args, Parser, Subcommand};
use oplog_relay_runtime::command_line::{
    HealthArguments, LogArguments, ServeArguments, after_help,
};

use crate::config::position_arguments::PositionArguments;

/// Streams a MongoDB oplog into Kafka: every entry exactly once, in order per document.
///
/// Reads the oplog of a replica set, a dump of an oplog, or a change stream, and writes the entries to
/// one topic per collection, keyed by `_id`. Records and the position are committed in one Kafka
/// transaction, so after a crash the program continues from the position that Kafka holds. It never
/// writes to the source.
#[derive(Debug, Clone, Parser)]
#[command(name = "oplog-producer", version, after_help = after_help(), max_term_width = 100)]
pub struct Arguments {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The command to run.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Write the entries of the source to Kafka. A live source is tailed until the program is
    /// stopped.
    Run(Box<RunArguments>),
    /// Print what `run` would produce, as JSON lines. Kafka is not needed.
    Inspect(Box<InspectArguments>),
    /// Ask the running producer of a source to copy collections, or a part of them, into its
    /// topics.
    ///
    /// The command writes a request to the source's state topic. The instance that tails the source
    /// accepts the request within seconds and copies the documents while it continues to tail. If a
    /// collection is already in the topics, its documents replace those with the same _id on a
    /// target, and nothing is deleted there. Nothing is written to the source.
    FullSync(FullSyncArguments),
    /// Show, list, set or import the saved position of a source.
    Position(Box<PositionArguments>),
    /// Exit with 0 if the instance that serves HTTP at an address is ready. For container health
    /// checks.
    Health(HealthArguments),
}

/// Source and format of entries: common to `run` and `inspect`.
#[derive(Debug, Clone, Args)]
pub struct StreamArguments {
    /// MongoDB connection string of a replica set or of a mongos (mongodb:// or mongodb+srv://; with
    /// directConnection=true behind a port-forward), or a dump: oplog.bson, oplog.bson.gz, a folder
    /// of segments, or - for standard input. The connection string may be read from a file:
    /// file:/run/secrets/source. `run` follows several sources if the flag is repeated, each as
    /// NAME=URI; in the configuration file, a table `[[source]]` for each source may also have its own
    /// topic_prefix, source_mode, start, sync, include_namespaces and exclude_namespaces.
    #[arg(long, value_name = "[NAME=]URI|PATH|-")]
    pub source: Vec<String>,
    /// How a live source is read: oplog (the oplog of a replica set, the fastest and most exact way),
    /// change-stream (a change stream of a replica set, or of a sharded cluster through mongos) or
    /// auto (the oplog if it can be read, otherwise a change stream). A change stream begins at
    /// --start and copies no existing documents. The mode of a source cannot be changed later.
    #[arg(long, value_name = "auto|oplog|change-stream", default_value = "auto")]
    pub source_mode: String,
    /// Name of the source in topics, records and the transactional id: lower-case letters, digits
    /// and -. The default is the name of the replica set. Required for dumps, and for sources whose
    /// set name is missing or contains other characters.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// First part of the topic names (in internal topics, after __): letters, digits and -.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Format of the record values: raw (batches of unchanged entries; the fastest; only
    /// oplog-consumer reads it), bson (one unchanged entry per record), json (change events) or
    /// avro (change events as Avro records, with their schema in a schema registry).
    #[arg(long, value_name = "FORMAT", default_value = "bson")]
    pub format: String,
    /// Extended JSON mode of --format json and avro: relaxed (for people and other programs) or canonical
    /// (keeps every type, and can be replayed exactly).
    #[arg(long, value_name = "MODE", default_value = "relaxed")]
    pub json: String,
    /// Shape of the values of --format json: change-event (MongoDB's change events), oplog (the fields
    /// of the oplog entry) or debezium (the envelope and the keys of Debezium's MongoDB connector, with
    /// a tombstone after each delete; for readers only).
    #[arg(long, value_name = "SHAPE", default_value = "change-event")]
    pub envelope: String,
    /// Write the schema of each key and value of --envelope debezium beside it, as Kafka Connect does
    /// with schemas.enable=true.
    #[arg(long)]
    pub envelope_schema: bool,
    /// Whether oplog-consumer can replay the topics. With false, topics of change events are for readers
    /// only: they have the changes of documents, but no commands, no barriers, and none of the
    /// bytes that only a replay needs. The default is true, except for --envelope debezium and
    /// --topic-mode snapshot, which are always for readers only.
    #[arg(long, value_name = "true|false")]
    pub replayable: Option<bool>,
    /// Whether an update also has the whole document, for --format json as change events or in Debezium's
    /// envelope: none (only the changed fields) or lookup (the document as the source has it at the
    /// lookup, like fullDocument: "updateLookup" of MongoDB's change streams; null if it is gone). A
    /// lookup reads every updated document from the live source (the user needs `read` on the
    /// databases), which costs throughput.
    #[arg(long, value_name = "none|lookup", default_value = "none")]
    pub full_document: String,
    /// Whether an update or delete also has the document before the change, for the same envelopes: none,
    /// or lookup (in the field fullDocumentBeforeChange, or in the field `before` of Debezium's envelope;
    /// null if the source does not have it). MongoDB 6.0 and later keep these documents in
    /// config.system.preimages for collections with changeStreamPreAndPostImages; the user needs the
    /// privilege find on it.
    #[arg(long, value_name = "none|lookup", default_value = "none")]
    pub full_document_before: String,
    /// Content of the topics: changes (one record per change) or snapshot (the latest state of each
    /// document: compacted topics whose records are documents in Extended JSON, keyed by _id, with a
    /// tombstone for each delete). snapshot needs --format json and a live source, looks up the
    /// documents of updates, and is for readers only.
    #[arg(long, value_name = "changes|snapshot", default_value = "changes")]
    pub topic_mode: String,
    /// Headers for programs that route records: none, full (op, ns, ts, ui, txn and content-type) or
    /// cloudevents (CloudEvents 1.0 in binary mode). They cost throughput; not with --format raw.
    #[arg(long, value_name = "HEADERS", default_value = "none")]
    pub headers: String,
    /// Number of partitions of the data topics that the program creates.
    #[arg(long, value_name = "N", default_value = "4")]
    pub partitions: String,
    /// How the entries of a collection are spread over the partitions of its topic. id: by the
    /// document's _id, which keeps the order of each document. collection: all in one partition,
    /// which keeps the order of the whole collection. auto: by _id, except for collections whose
    /// documents depend on each other (those with a unique index besides _id, with a collation of
    /// their own, and capped ones), which stay in one partition. auto asks a live source about each
    /// collection when it first encounters it (the user needs `read` on the database) and follows
    /// the commands in the oplog. With id, a replay creates unique indexes as non-unique. Topics
    /// for readers only always use id. The choice is saved for the source, and can be changed only
    /// with `run --change-routing`.
    #[arg(long, value_name = "auto|id|collection", default_value = "auto")]
    pub order: String,
    /// Where to begin if no position is saved: oldest, now, an RFC 3339 time, or
    /// `<seconds>:<increment>`. `inspect` does not use a saved position; by default it begins with
    /// oldest, or with now for a change stream.
    #[arg(long, value_name = "START")]
    pub start: Option<String>,
    /// Read only these namespaces: db.collection, db, or patterns with *. Repeat the flag or
    /// separate them by commas; a comma in a name is written `\,`.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Do not read these namespaces. Takes precedence over --include-namespaces.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
}

/// The schema registry of `--format avro`.
#[derive(Debug, Clone, Args)]
pub struct RegistryArguments {
    /// Address of the schema registry of --format avro, for example http://registry:8081. Every
    /// registry with Confluent's REST interface is supported. Repeat the flag or separate addresses by
    /// commas: each one is used only if those before it fail or do not respond.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub registry_url: Vec<String>,
    /// User and password for the registry, as user:password. May be read from a file:
    /// file:/run/secrets/registry.
    #[arg(long, value_name = "USER:PASSWORD")]
    pub registry_login: Option<String>,
    /// Bearer token for the registry. May be read from a file.
    #[arg(long, value_name = "TOKEN")]
    pub registry_token: Option<String>,
    /// File with certificates in PEM that are trusted for https, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub registry_ca: Option<String>,
    /// How the subjects of the schemas are named: topic (`<topic>-key` and `<topic>-value`), record (the
    /// name of the schema, the same for all topics) or topic-record (`<topic>-<name of the schema>`).
    #[arg(
        long,
        value_name = "topic|record|topic-record",
        default_value = "topic"
    )]
    pub registry_subjects: String,
    /// Whether the program registers its schemas. With false they must be in the registry already, under
    /// the same subjects; otherwise the program ends with exit code 2 and names the file to register.
    #[arg(
        long,
        value_name = "true|false",
        default_value = "true",
        action = clap::ArgAction::Set
    )]
    pub registry_auto_register: bool,
}

/// `oplog-producer run`
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Source and format.
    #[command(flatten)]
    pub stream: StreamArguments,
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// Replication factor of the topics that the program creates; -1 is the broker's default.
    #[arg(
        long,
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true
    )]
    pub replication_factor: String,
    /// A setting for the data topics that the program creates, as name=value. Repeat the flag for
    /// more. It replaces the program's own value, such as retention.ms=-1, retention.bytes=-1, or
    /// the largest max.message.bytes up to 104857600 that the cluster allows. cleanup.policy and
    /// message.timestamp.type cannot be set.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub topic_config: Vec<String>,
    /// What to do with a record that exceeds its topic's max.message.bytes: stop (exit code 6), or
    /// split it into several records of one Kafka transaction, which oplog-consumer joins again
    /// (raw and bson only). If other programs read the topic, raise its limit instead.
    #[arg(long, value_name = "stop|split", default_value = "stop")]
    pub oversize: String,
    /// Continue with an --order or --format that differs from the saved one. Barriers in the topics
    /// keep a replay from applying a later entry before an earlier one. Without this flag such a
    /// start ends with exit code 2.
    #[arg(long)]
    pub change_routing: bool,
    /// Continue with --include-namespaces or --exclude-namespaces that select more than before. The
    /// topics of the added namespaces contain changes to documents that were never sent, until
    /// `oplog-producer full-sync --namespaces` has copied those. Without this flag such a start
    /// ends with exit code 2. Selecting less needs no flag.
    #[arg(long)]
    pub change_namespaces: bool,
    /// Stop with exit code 0 when everything up to the newest entry that the source had at the
    /// start is committed, or when a full sync that starts or resumes is complete. A dump always
    /// ends this way, at its last entry.
    #[arg(long)]
    pub until_caught_up: bool,
    /// What to do if no position is saved: full-then-tail (copy the existing documents and follow
    /// the oplog from that moment), full (copy, then exit with 0) or tail (follow the oplog only;
    /// needs --start). The default is tail with --start, and otherwise full-then-tail; if data
    /// topics already exist, --sync or --start is required. If a position is saved, the program
    /// continues from it, and also finishes a copy that was interrupted.
    #[arg(long, value_name = "full|tail|full-then-tail")]
    pub sync: Option<String>,
    /// Share the sources with other instances: each source is followed by one of the instances with this
    /// flag and the same --topic-prefix, while the others stand by for it. They form a Kafka consumer
    /// group, `__<prefix>.producers`, so the user needs Read on it. If an instance ends or stops sending
    /// heartbeats, another one takes over its sources. Each source needs a name.
    #[arg(long)]
    pub high_availability: bool,
    /// Time without heartbeats after which an instance loses its sources to another one: from 6s to
    /// 30m, and between the brokers' group.min.session.timeout.ms and group.max.session.timeout.ms.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub takeover_after: String,
    /// Number of concurrent reads of a full sync.
    #[arg(long, value_name = "N", default_value = "4")]
    pub full_sync_readers: String,
    /// Maximum number of bytes of documents that a full sync reads per second, for example 50MiB.
    #[arg(long, value_name = "BYTES")]
    pub full_sync_rate: Option<String>,
    /// The registry of the schemas of --format avro.
    #[command(flatten)]
    pub registry: RegistryArguments,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat the flag for more.
    /// Options on which exactly-once delivery depends are refused.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// The HTTP address, and the time without progress after which a stall is reported.
    #[command(flatten)]
    pub serve: ServeArguments,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// The Kafka cluster, and the logging, of the commands that only write to internal topics or read them.
#[derive(Debug, Clone, Args)]
pub struct KafkaArguments {
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat the flag for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `oplog-producer full-sync`
#[derive(Debug, Clone, Args)]
pub struct FullSyncArguments {
    /// Name of the source, as given to `run`, whose default is the name of the replica set.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// First part of the topic names, as given to `run`.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// What to copy: db.collection, db, or patterns with *. Repeat the flag or separate them by
    /// commas.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Copy only the documents that match this query, as Extended JSON: {"at": {"$gte": {"$date":
    /// "…"}}}.
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArguments,
}

/// `oplog-producer inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArguments {
    /// Source and format.
    #[command(flatten)]
    pub stream: StreamArguments,
    /// Stop after this number of records.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}
