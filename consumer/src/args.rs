//! What can be typed. Nothing is checked here: [`crate::config`] does that, all faults at once.

use clap::{Args, Parser, Subcommand};
use oplog_relay_core::runtime::command_line::{HealthArguments, LogArguments, after_help};

/// Reads the topics that oplog-producer writes: replays them into a MongoDB, emits them as JSON,
/// and proves that source and target agree.
///
/// Progress is a Kafka consumer group's committed offsets: instances with the same --group share
/// the partitions, Kafka's own tools show the lag and reset it. An offset is committed only after
/// what lies before it was acknowledged by the target, or written out.
#[derive(Debug, Clone, Parser)]
#[command(name = "oplog-consumer", version, after_help = after_help(), max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Apply the entries to a MongoDB, in order per document, as idempotent bulk writes.
    Replay(ReplayArguments),
    /// Write one JSON change event a line, in order per partition. At least once: each line
    /// carries source, ts and ord to tell repetitions by.
    Emit(EmitArguments),
    /// Compare two MongoDBs document by document, in bounded memory. Exits with 0 if they are
    /// equal, 7 if they differ, 8 if it could not tell.
    Verify(VerifyArguments),
    /// End a replay: set on the target what the replay withheld from it.
    ///
    /// While a group replays, nothing expires on its target: the expireAfterSeconds of TTL indexes,
    /// time series and clustered collections is kept in the target's oplog_relay.catalog. cutover
    /// sets the true values, one line for each, when the target takes the source's place. The
    /// group must be stopped before, and must not replay into this target afterwards: the target
    /// would delete documents that later entries change. The user needs dbAdmin there. It may run
    /// again.
    Cutover(CutoverArguments),
    /// Exit 0 if the instance that serves HTTP at an address is ready: for container health checks.
    Health(HealthArguments),
}

/// How a group reads: common to `replay` and `emit`.
#[derive(Debug, Clone, Args)]
pub struct GroupArguments {
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// First part of the topics' names, as the producer was given it.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Name of the Kafka consumer group: one for each target or use.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Where a new group begins: earliest, now, an RFC 3339 time, or `<seconds>:<increment>`. All
    /// partitions begin at the same source second. A group that has committed goes on where it was.
    #[arg(long, value_name = "START", default_value = "earliest")]
    pub start: String,
    /// Only these namespaces: db.collection, db, or patterns with *. Repeat or separate by commas.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Not these namespaces; wins over --include-namespaces.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// Stop with exit code 0 when the group has committed everything that the topics held at start.
    #[arg(long)]
    pub until_caught_up: bool,
    /// Memory for records between Kafka and the target, the Kafka client's own queue included.
    /// A single larger record passes too.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub queue_bytes: String,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat for more. Those that
    /// the offsets depend on are refused.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Where to serve /metrics, /livez, /readyz and /status; off for nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    pub http: String,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `oplog-consumer replay`
#[derive(Debug, Clone, Args)]
pub struct ReplayArguments {
    /// How the group reads.
    #[command(flatten)]
    pub group: GroupArguments,
    /// MongoDB connection string of the target. May be read from a file:
    /// file:/run/secrets/target.
    #[arg(long, value_name = "URI")]
    pub target: Option<String>,
    /// Replay formats that lose types (relaxed JSON): numbers may come out with another type.
    #[arg(long)]
    pub allow_lossy: bool,
    /// Run a command (drop, rename, …) that did not run on this target yet although some partition
    /// of the group is committed past its place, as after a reset of some partitions. It acts on
    /// writes that came after it.
    #[arg(long)]
    pub allow_partial_reset: bool,
    /// Print what the replay does about each error code of a target, and why, and exit.
    #[arg(long)]
    pub help_errors: bool,
    /// What to do about an update that finds no document: count it, upsert the fields that it
    /// sets, or stop.
    #[arg(long, value_name = "count|upsert|stop", default_value = "count")]
    pub unmatched: String,
    /// What to do where a full sync is about to fill a collection that has documents on the target
    /// which this group did not bring: fail (stop), merge (replace those of the same _id, leave the
    /// others), drop (drop the collection first).
    #[arg(long, value_name = "fail|merge|drop", default_value = "fail")]
    pub if_target_not_empty: String,
    /// Connections on which the writes of one partition's batch are sent at once. Writes to one
    /// document stay in order.
    #[arg(long, value_name = "N", default_value = "4")]
    pub lanes: String,
}

/// `oplog-consumer emit`
#[derive(Debug, Clone, Args)]
pub struct EmitArguments {
    /// How the group reads.
    #[command(flatten)]
    pub group: GroupArguments,
    /// Where the lines go: stdout, or `file:<path>` (appended to).
    #[arg(long, value_name = "stdout|file:PATH", default_value = "stdout")]
    pub to: String,
    /// Extended JSON of the lines: relaxed (for people and other programs) or canonical (keeps
    /// every type).
    #[arg(long, value_name = "MODE", default_value = "relaxed")]
    pub json: String,
}

/// `oplog-consumer verify`
#[derive(Debug, Clone, Args)]
pub struct VerifyArguments {
    /// MongoDB connection string of the source.
    #[arg(long, value_name = "URI")]
    pub source: Option<String>,
    /// MongoDB connection string of the target.
    #[arg(long, value_name = "URI")]
    pub target: Option<String>,
    /// Only these namespaces: db.collection, db, or patterns with *. Default: everything but
    /// admin, config, local and system collections.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Take documents for equal whose fields differ in order only.
    #[arg(long)]
    pub ignore_field_order: bool,
    /// Write one JSON line for each difference to this file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `oplog-consumer cutover`
#[derive(Debug, Clone, Args)]
pub struct CutoverArguments {
    /// MongoDB connection string of the target. May be read from a file:
    /// file:/run/secrets/target.
    #[arg(long, value_name = "URI")]
    pub target: Option<String>,
    /// Name of the consumer group that replayed into it, stopped now.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}
