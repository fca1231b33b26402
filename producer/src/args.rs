//! What can be typed. Nothing is checked here: [`crate::config`] does that, all faults at once.

use clap::{Args, Parser, Subcommand};
use oplog_relay_core::runtime::command_line::{HealthArguments, LogArguments, after_help};

/// Streams a MongoDB oplog into Kafka, every entry exactly once, in order per document.
///
/// Reads the oplog of a replica set (or a dump of one) and writes its entries to one topic per
/// collection, keyed by `_id`. Records and position commit in one Kafka transaction: after a crash
/// it goes on where Kafka says it was. It never writes to the source.
#[derive(Debug, Clone, Parser)]
#[command(name = "oplog-producer", version, after_help = after_help(), max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Tail the source into Kafka until it is told to stop.
    Run(Box<RunArguments>),
    /// Print what `run` would produce, as JSON lines, without Kafka.
    Inspect(InspectArguments),
    /// Ask the running producer of a source to copy collections, or a part of them, into its stream.
    ///
    /// It writes a request into the source's state topic; the instance that tails the source takes
    /// it within seconds and copies beside its tail. A collection that the stream carries already
    /// gets its documents alone: they replace those of the same _id at a target, and nothing is
    /// deleted there. Nothing is written to the source.
    FullSync(FullSyncArguments),
    /// Exit 0 if the instance that serves HTTP at an address is ready: for container health checks.
    Health(HealthArguments),
}

/// Where entries come from and how they are written: common to `run` and `inspect`.
#[derive(Debug, Clone, Args)]
pub struct StreamArguments {
    /// MongoDB connection string of a replica set (mongodb://…, mongodb+srv://…; behind a
    /// port-forward with directConnection=true), or a dump: oplog.bson, oplog.bson.gz, a folder
    /// of segments, or - for standard input. A connection string may be read from a file:
    /// file:/run/secrets/source.
    #[arg(long, value_name = "URI|PATH|-")]
    pub source: Option<String>,
    /// Name of the source in topics, records and the transactional id: lower-case letters, digits
    /// and -. Default: the replica-set name. Needed for dumps and sources without a set name.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// First part of every topic name: letters, digits and -.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Format of the records' values: raw (frames of untouched entries, fastest, needs our
    /// consumer), bson (one untouched entry each), json (change events).
    #[arg(long, value_name = "FORMAT", default_value = "bson")]
    pub format: String,
    /// Extended JSON of --format json: relaxed (for people and other programs) or canonical
    /// (keeps every type; can be replayed exactly).
    #[arg(long, value_name = "MODE", default_value = "relaxed")]
    pub json: String,
    /// Partitions of topics that are created.
    #[arg(long, value_name = "N", default_value = "4")]
    pub partitions: String,
    /// How a collection's entries spread over its topic's partitions: id (by the document's _id:
    /// each document has its order), collection (all in one partition: the collection has its
    /// order), or auto: by id, but for collections whose documents depend on each other (those
    /// with a unique index besides _id, capped ones, those with a collation of their own), which
    /// keep to one partition. auto learns that from a live source when it meets a collection (its
    /// user needs `read` on the database) and from commands in the oplog. With id a replay makes
    /// unique indexes plain ones on its target. It is saved with the routes: one topic prefix
    /// keeps one --order, until `run --change-routing`.
    #[arg(long, value_name = "auto|id|collection", default_value = "auto")]
    pub order: String,
    /// Where to begin when no position is saved: oldest, now, an RFC 3339 time, or
    /// `<seconds>:<increment>`.
    #[arg(long, value_name = "START")]
    pub start: Option<String>,
    /// Only these namespaces: db.collection, db, or patterns with *. Repeat or separate by commas; a
    /// comma in a name is written `\,`.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Not these namespaces; wins over --include-namespaces.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
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
    /// Replication factor of topics that are created; -1 is the broker's default.
    #[arg(
        long,
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true
    )]
    pub replication_factor: String,
    /// A setting of the data topics that are created, as name=value. Repeat for more. It replaces
    /// the program's own value: retention.ms=-1, and max.message.bytes=104857600 or less where the
    /// cluster allows less. cleanup.policy and message.timestamp.type cannot be set.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub topic_config: Vec<String>,
    /// What to do with a record that is larger than its topic takes (max.message.bytes): stop
    /// (exit code 6), or split: it becomes several records of one Kafka transaction, which
    /// oplog-consumer puts together again (raw and bson). Raise the topic's limit where other
    /// programs read it.
    #[arg(long, value_name = "stop|split", default_value = "stop")]
    pub oversize: String,
    /// Go on under another --order or --format than the saved ones: behind barriers, so that no
    /// replay lets a later entry overtake an earlier one. Without it a start with others ends with
    /// exit code 2.
    #[arg(long)]
    pub change_routing: bool,
    /// Go on with --include-namespaces or --exclude-namespaces that let more pass than until now.
    /// The topics of what is new begin with changes of documents that were never sent, until
    /// `oplog-producer full-sync --namespaces` copies these. Without it such a start ends with exit
    /// code 2. Letting less pass needs no flag.
    #[arg(long)]
    pub change_namespaces: bool,
    /// Stop with exit code 0 when everything up to the source's newest entry at start is
    /// committed. A dump always ends so.
    #[arg(long)]
    pub until_caught_up: bool,
    /// What to do where no position is saved: full-then-tail (copy the documents that are there and
    /// follow the oplog from that moment on), full (copy, then exit 0), tail (follow; needs
    /// --start). Without it and without --start it is full-then-tail, unless data topics are there
    /// already. With a saved position it goes on from there, with a copy that was not finished too.
    #[arg(long, value_name = "full|tail|full-then-tail")]
    pub sync: Option<String>,
    /// Reads of a full sync at once.
    #[arg(long, value_name = "N", default_value = "4")]
    pub full_sync_readers: String,
    /// Bytes of documents that a full sync reads in a second at most, such as 50MiB.
    #[arg(long, value_name = "BYTES")]
    pub full_sync_rate: Option<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat for more. Those that
    /// exactly-once needs are refused.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Where to serve /metrics, /livez, /readyz and /status; off for nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    pub http: String,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `oplog-producer full-sync`
#[derive(Debug, Clone, Args)]
pub struct FullSyncArguments {
    /// Name of the source, as its `run` has it: by default the replica-set name.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// First part of every topic name.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// What to copy: db.collection, db, or patterns with *. Repeat or separate by commas.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Only documents that fit this query, as Extended JSON: {"at": {"$gte": {"$date": "…"}}}.
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `oplog-producer inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArguments {
    /// Source and format.
    #[command(flatten)]
    pub stream: StreamArguments,
    /// Stop after that many records.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}
