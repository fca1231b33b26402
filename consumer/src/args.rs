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
    /// Compare two MongoDBs document by document, in bounded memory, and mend the target. Exits
    /// with 0 if they are equal, 7 if they differ, 8 if it could not tell.
    ///
    /// Both may be written to meanwhile: with --brokers, --topic-prefix and --group only what
    /// still differs after the replay has passed it is told. Without them what differs is looked
    /// at a few times more; a replay that is behind by longer than that shows as differences.
    Verify(Box<VerifyArguments>),
    /// Read the topics back, committed records only: every record can be decoded, each key's
    /// entries are in order, none comes twice. Counts them. Commits no offsets. Exits with 0 if
    /// all is well, 7 if not, 8 if it could not tell.
    Audit(AuditArguments),
    /// End a replay: set on the target what the replay withheld from it.
    ///
    /// While a group replays, nothing expires on its target: the expireAfterSeconds of TTL indexes,
    /// time series and clustered collections is kept in the target's oplog_relay.catalog. cutover
    /// sets the true values, one line for each, when the target takes the source's place. The
    /// group must be stopped before, and must not replay into this target afterwards: the target
    /// would delete documents that later entries change. The user needs dbAdmin there. It may run
    /// again.
    Cutover(CutoverArguments),
    /// List the dead letters of a group: lines for people on a terminal, else one JSON object a
    /// line.
    ///
    /// Each names its position in the topic `__<group>.dead-letters`, when and why it was written, and
    /// topic, partition and offset of the record. The topic keeps them until it is deleted.
    DeadLetters(DeadLettersArguments),
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
    /// partitions begin at the same source second, except that emit takes all that is left where
    /// Kafka has removed records. A group that has committed goes on where it was.
    #[arg(long, value_name = "START", default_value = "earliest")]
    pub start: String,
    /// Begin at --start although this group ran before and its committed offsets are gone: they
    /// expired, or were deleted. Without it such a group ends with code 4. A replay knows its groups
    /// by the target's catalog, emit by the lines in its file. Give it once, not in a unit file: what
    /// was written between the last commit and --start is left out.
    #[arg(long)]
    pub start_again: bool,
    /// Only these namespaces: db.collection, db, or patterns with *. Repeat or separate by commas; a
    /// comma in a name is written `\,`.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Not these namespaces; wins over --include-namespaces.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// Stop with exit code 0 when the group has committed everything that the topics held at start.
    #[arg(long)]
    pub until_caught_up: bool,
    /// What goes to the topic `__<group>.dead-letters` instead of ending the program with code 6:
    /// undecodable (records that cannot be read); of a replay also command (commands that are
    /// unknown, that no replay can run, or that the target refuses; a refused drop,
    /// renameCollection or emptycapped stops always) and write (documents that the target refuses,
    /// and those that a unique index still refuses where a command comes). Repeat or separate by
    /// commas. Kafka acknowledges a dead letter before its record counts as done; after a crash it
    /// may be there twice. Later entries of the same document or collection are applied as usual, as
    /// if that one had not been.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    pub dead_letter: Vec<String>,
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
    /// Begin a new group although Kafka no longer has all records from --start on. All partitions
    /// then begin at the first second of which every one of them holds every record; what was written
    /// before is not replayed. Without it such a start ends with code 4.
    #[arg(long)]
    pub allow_missing_records: bool,
    /// Print what the replay does about each error code of a target, and why, and exit.
    #[arg(long)]
    pub help_errors: bool,
    /// What to do about an update that finds no document: count it, upsert the fields that it
    /// sets, write it to the dead-letter topic, or stop.
    #[arg(
        long,
        value_name = "count|upsert|dead-letter|stop",
        default_value = "count"
    )]
    pub unmatched: String,
    /// What to do about an update that may not be the same when it is applied twice: $inc, $push and
    /// others in an applyOps that a user sent, which the source logs as it was sent. stop; apply:
    /// send it as it is, which is right once and doubled wherever a stretch is applied again (after
    /// a kill, a rewind, a write that was repeated); dead-letter.
    #[arg(long, value_name = "stop|apply|dead-letter", default_value = "stop")]
    pub unrepeatable: String,
    /// Give the group this member's --include-namespaces and --exclude-namespaces, which the
    /// target's catalog keeps: a member with others ends with code 2, also one that runs. Stop all
    /// members before, and start one with this. What was left out until now is not on the target: it
    /// needs a full sync.
    #[arg(long)]
    pub change_subscription: bool,
    /// What to do where a full sync is about to fill a collection that has documents on the target
    /// which this group did not bring: fail (stop), merge (replace those of the same _id, leave the
    /// others), drop (drop the collection first).
    #[arg(long, value_name = "fail|merge|drop", default_value = "fail")]
    pub if_target_not_empty: String,
    /// What to do about an option of a create, createIndexes or collMod command that the target does
    /// not know (of a newer server, or one that an old server kept without knowing it): stop with
    /// code 6, or leave-out: run the command without it and warn. Options without any effect on the
    /// documents are left out in any case.
    #[arg(long, value_name = "stop|leave-out", default_value = "stop")]
    pub refused_options: String,
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

/// The replay that leads to a target, for questions about its progress. Nothing is joined or
/// committed.
#[derive(Debug, Clone, Args)]
pub struct ReplayPlaceArguments {
    /// Kafka brokers of the replay: with --topic-prefix and --group, what differs is looked at
    /// again until the replay has passed the moment it was seen.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// First part of the topics' names, as the producer was given it.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// The consumer group that replays into the target.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Name of the source among those of the prefix. Default: the only one, or the replica-set
    /// name of --source.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// How long to wait for the replay to pass a moment before what differs cannot be told.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub patience: String,
}

/// `oplog-consumer verify`
#[derive(Debug, Clone, Args)]
pub struct VerifyArguments {
    /// MongoDB connection string of the source. May be read from a file: file:/run/secrets/source.
    #[arg(long, value_name = "URI")]
    pub source: Option<String>,
    /// MongoDB connection string of the target.
    #[arg(long, value_name = "URI")]
    pub target: Option<String>,
    /// Only these namespaces: db.collection, db, or patterns with *. Default: everything but
    /// admin, config, local, oplog_relay and system collections.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// The same as --namespaces, by the name that producer and replay have for it.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Not these namespaces; wins over those that are included.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// How thoroughly: full reads every document of both sides; sample a random --sample of each
    /// side's documents, and looks for them on the other; count compares numbers of documents
    /// only, as the servers keep count. All compare options, indexes and views.
    #[arg(long, value_name = "count|sample|full", default_value = "full")]
    pub mode: String,
    /// Documents of each side's collection that --mode sample draws.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub sample: String,
    /// Take documents for equal whose fields differ in order only.
    #[arg(long)]
    pub ignore_field_order: bool,
    /// Documents of a range: what is read once more where something differs, or where an
    /// interrupted comparison goes on.
    #[arg(long, value_name = "N", default_value = "32768")]
    pub range_documents: String,
    /// Ranges of a collection that are compared at once.
    #[arg(long, value_name = "N", default_value = "2")]
    pub ranges_at_once: String,
    /// Write JSON Lines to this file: each difference, each finished range and collection, the
    /// verdict.
    #[arg(long, value_name = "FILE")]
    pub report: Option<String>,
    /// Go on where the comparison ended that wrote the --report; begin anew if there is none.
    #[arg(long)]
    pub resume: bool,
    /// Mend the target: send it the source's documents where they last differ, delete what only
    /// it has, create collections, views and indexes that it lacks, and look again.
    #[arg(long)]
    pub repair: bool,
    /// The replay whose progress is asked for.
    #[command(flatten)]
    pub replay: ReplayPlaceArguments,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `oplog-consumer audit`
#[derive(Debug, Clone, Args)]
pub struct AuditArguments {
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// First part of the topics' names, as the producer was given it.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Only these topics, by their full names. Repeat or separate by commas.
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    pub topic: Vec<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Write JSON Lines to this file: each fault, each partition, the verdict.
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

/// `oplog-consumer dead-letters`
#[derive(Debug, Clone, Args)]
pub struct DeadLettersArguments {
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// Name of the consumer group whose dead letters are listed.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}
