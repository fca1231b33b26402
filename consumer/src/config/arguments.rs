//! Commands and flags. [`crate::config`] checks their values and reports all faults at once.

use clap::{Args, Parser, Subcommand};
use oplog_relay_runtime::command_line::{
    HealthArguments, LogArguments, ServeArguments, after_help,
};

/// Reads the topics that oplog-producer writes: replays them into a MongoDB deployment, emits them
/// as JSON, and verifies that source and target are equal.
///
/// Progress is kept as the committed offsets of a Kafka consumer group. Instances with the same
/// --group share the partitions, and Kafka's own tools show the lag and reset the offsets. An
/// offset is committed only after the target has acknowledged every entry before it or, with emit,
/// after these entries were written to the output.
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
    /// Apply the entries to a MongoDB deployment, in order per document, as idempotent bulk writes.
    Replay(ReplayArguments),
    /// Write one JSON change event per line, in order per partition. Delivery is at least once:
    /// each line contains the identity of its entry, by which a repeated line can be recognized.
    Emit(EmitArguments),
    /// Compare two MongoDB deployments document by document, in bounded memory, and optionally
    /// repair the target. Exits with 0 if they are equal, 7 if they differ, and 8 if the result is
    /// inconclusive.
    ///
    /// Both sides may receive writes during the comparison. With --brokers, --topic-prefix and
    /// --group, a difference is reported only if it remains after the replay has passed the moment
    /// at which it was seen. Without them, each difference is checked again a few times, and
    /// entries that the replay has not applied by then are reported as differences.
    Verify(Box<VerifyArguments>),
    /// Read the committed records of the topics and check them: every record can be decoded, the
    /// entries of each key are in order, and none occurs twice. Prints counts and commits no
    /// offsets. Exits with 0 if everything is correct, 7 if not, and 8 if the result is
    /// inconclusive.
    Audit(AuditArguments),
    /// Complete a migration: set the expireAfterSeconds values that the replay withheld from the
    /// target.
    ///
    /// While a group replays, nothing expires on its target: the expireAfterSeconds of TTL indexes,
    /// time series and clustered collections is stored in the target's oplog_relay.catalog. When
    /// the target replaces the source, cutover sets the real values and prints one line for each.
    /// Stop the group first, and do not replay into this target afterwards: the target would delete
    /// documents that later entries change. The user needs dbAdmin on the target. The command may
    /// be run again.
    Cutover(CutoverArguments),
    /// List the dead letters of a group. A terminal gets a table; a pipe or file gets one JSON object
    /// per line.
    ///
    /// Each dead letter is shown with its position in the topic `__<group>.dead-letters`, the time,
    /// the reason, and the topic, partition and offset of the original record. The topic keeps dead
    /// letters until it is deleted.
    DeadLetters(DeadLettersArguments),
    /// Exit with 0 if the instance that serves HTTP at an address is ready. For container health
    /// checks.
    Health(HealthArguments),
}

/// How a group reads: common to `replay` and `emit`.
#[derive(Debug, Clone, Args)]
pub struct GroupArguments {
    /// Kafka brokers: host:port,host:port.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// First part of the topic names, as given to the producer.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// The program that writes the topics, and the format of its records: oplog-relay, or
    /// mongoshake-bson, mongoshake-json, mongoshake-raw (tunnel.message of MongoShake),
    /// mongo-kafka-json, mongo-kafka-bson (output.format.value of MongoDB's Kafka source connector),
    /// debezium (its MongoDB connector with JSON converters). Other programs need --topics.
    #[arg(long, value_name = "PROGRAM", default_value = "oplog-relay")]
    pub input: String,
    /// The topics of another program (--input): names, or patterns with *. Repeat the flag or separate
    /// them by commas. Internal topics, which begin with __, are never read.
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    pub topics: Vec<String>,
    /// Name of the Kafka consumer group. Use one for each target or purpose.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Where a new group begins: earliest, now, an RFC 3339 time, or `<seconds>:<increment>`. All
    /// partitions begin at the same second of the source. If Kafka no longer has all records from
    /// there on, emit starts each affected partition at its first remaining record; for a replay,
    /// see --allow-missing-records. A group with committed offsets continues from them.
    #[arg(long, value_name = "START", default_value = "earliest")]
    pub start: String,
    /// Begin at --start although this group ran before and its committed offsets are gone, because
    /// they expired or were deleted. Without this flag a member of such a group exits with code 4.
    /// A replay recognizes its groups by the target's catalog, emit by the lines in its file. Use
    /// the flag for one start only, not in a unit file: entries between the last commit and --start
    /// are skipped.
    #[arg(long)]
    pub start_again: bool,
    /// Read only these namespaces: db.collection, db, or patterns with *. Repeat the flag or
    /// separate them by commas; a comma in a name is written `\,`.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Do not read these namespaces. Takes precedence over --include-namespaces.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// Stop with exit code 0 when the group has committed everything that the topics held at start.
    #[arg(long)]
    pub until_caught_up: bool,
    /// What is written to the topic `__<group>.dead-letters` instead of ending the program with
    /// exit code 6. undecodable: records that cannot be decoded. A replay also accepts command:
    /// commands that are unknown, that cannot be replayed, or that the target refuses (a refused
    /// drop, renameCollection or emptycapped always stops the replay); and write: documents that
    /// the target refuses. A document that an index refuses temporarily becomes a dead letter only
    /// if it is still refused at the next command or, with --until-caught-up, at the end. Repeat
    /// the flag or separate the values by commas. Kafka acknowledges a dead letter before its
    /// record counts as applied; after a crash a dead letter may occur twice. Later entries of the
    /// same document or collection are applied as usual.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    pub dead_letter: Vec<String>,
    /// Memory for records between Kafka and the target or output, including the Kafka client's own
    /// queue. A single larger record is accepted too.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub queue_bytes: String,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat the flag for more.
    /// Options that the program sets itself are refused.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// The HTTP address and the report of stalls.
    #[command(flatten)]
    pub serve: ServeArguments,
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
    /// MongoDB connection string of the target. May be read from a file: file:/run/secrets/target.
    #[arg(long, value_name = "URI")]
    pub target: Option<String>,
    /// Replay formats that lose types (relaxed JSON). Numbers may be stored with another type.
    #[arg(long)]
    pub allow_lossy: bool,
    /// Replay topics of another program (--input) with several partitions although the keys of their
    /// records show that the changes to one document may be in several partitions. An older change
    /// may then overwrite a newer one; compare source and target afterwards.
    #[arg(long)]
    pub allow_unordered: bool,
    /// Continue at a command (drop, rename, …) that has not run on this target yet although the
    /// committed offset of a partition is already past it, for example after the offsets of some
    /// partitions were reset. The command runs if its own partition still reaches it, and then also
    /// affects writes that came after it; otherwise it is skipped. A topic that no longer exists is
    /// not waited for.
    #[arg(long)]
    pub allow_partial_reset: bool,
    /// Begin a new group although Kafka no longer has all records from --start on. All partitions
    /// then begin at the first second from which on each of them still has every record; earlier
    /// entries are not replayed. Without this flag such a start ends with exit code 4.
    #[arg(long)]
    pub allow_missing_records: bool,
    /// Print what the replay does about each error code of a target, and why, then exit.
    #[arg(long)]
    pub help_errors: bool,
    /// What to do about an update that matches no document: count it, upsert the fields that it
    /// sets, write it to the dead-letter topic, or stop.
    #[arg(
        long,
        value_name = "count|upsert|dead-letter|stop",
        default_value = "count"
    )]
    pub unmatched: String,
    /// What to do about an update that is not idempotent: $inc, $push and others in a user's
    /// applyOps command, which the source logs unchanged. stop: stop with exit code 6. dead-letter:
    /// write it to the dead-letter topic. apply: send it unchanged; it is applied twice if its
    /// entry is redelivered (after a crash, a rewind or a retried write).
    #[arg(long, value_name = "stop|apply|dead-letter", default_value = "stop")]
    pub unrepeatable: String,
    /// Give the group the --include-namespaces and --exclude-namespaces of this member. The
    /// target's catalog stores them, and a member whose filters differ exits with code 2, even if
    /// it is already running. Stop all members first, then start one with this flag. Namespaces
    /// that were excluded until now are not on the target and need a full sync.
    #[arg(long)]
    pub change_subscription: bool,
    /// What to do when a full sync is about to fill a collection in which the target has documents
    /// that this group did not write: fail (stop), merge (replace documents with the same _id and
    /// keep the others) or drop (drop the collection first). With fail, a group that is new to the
    /// target also stops if another group has replayed the source into it.
    #[arg(long, value_name = "fail|merge|drop", default_value = "fail")]
    pub if_target_not_empty: String,
    /// What to do about an option of a create, createIndexes or collMod command that the target
    /// does not support, because the source is newer than the target, or because an old server
    /// stored an option that it did not recognize. stop: stop with exit code 6. leave-out: run the
    /// command without the option and log a warning. Options that have no effect on documents are
    /// always left out.
    #[arg(long, value_name = "stop|leave-out", default_value = "stop")]
    pub refused_options: String,
    /// Create a collection sharded by this key on a target that is a sharded cluster:
    /// db.collection=KEY, as in `shop.orders={"customerId":"hashed"}`, or file:PATH with one of them
    /// in each line. Repeat the flag for more collections. A collection is sharded when the replay
    /// creates it, at a full sync, a create command or its first write; one that has documents stays
    /// as it is. The target's user needs the role clusterManager.
    #[arg(long, value_name = "NS=KEY|file:PATH", value_delimiter = '\n')]
    pub shard_collections: Vec<String>,
    /// Number of connections on which the writes of one partition's batch are sent concurrently.
    /// Writes to one document stay in order.
    #[arg(long, value_name = "N", default_value = "4")]
    pub lanes: String,
}

/// `oplog-consumer emit`
#[derive(Debug, Clone, Args)]
pub struct EmitArguments {
    /// How the group reads.
    #[command(flatten)]
    pub group: GroupArguments,
    /// Where the lines are written: stdout, or `file:<path>`, which is appended to.
    #[arg(long, value_name = "stdout|file:PATH", default_value = "stdout")]
    pub to: String,
    /// Extended JSON mode of the lines: relaxed (for people and other programs) or canonical (keeps
    /// every type).
    #[arg(long, value_name = "MODE", default_value = "relaxed")]
    pub json: String,
    /// Shape of the lines: change-event (MongoDB's change events), oplog (the fields of the oplog
    /// entry, and its identity as oplogId) or debezium (key and value as Debezium's MongoDB connector
    /// writes them; changes to documents only).
    #[arg(long, value_name = "SHAPE", default_value = "change-event")]
    pub envelope: String,
}

/// The replay that writes to the target. Its progress is read from Kafka, without joining the group
/// or committing offsets.
#[derive(Debug, Clone, Args)]
pub struct ReplayPlaceArguments {
    /// Kafka brokers of the replay. With --topic-prefix and --group, each difference is checked
    /// again until the replay has passed the moment at which it was seen.
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// First part of the topic names, as given to the producer.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// The consumer group that replays into the target.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Name of the source, if several sources write under the topic prefix. The default is the only
    /// source, or the replica-set name of --source.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat the flag for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Maximum time to wait for the replay to catch up with the source. If it takes longer, the
    /// differences that are still being checked are inconclusive.
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
    /// Compare only these namespaces: db.collection, db, or patterns with *. The default is
    /// everything except admin, config, local, oplog_relay and system collections.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Alias of --namespaces: the name that the producer and replay use.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub include_namespaces: Vec<String>,
    /// Do not compare these namespaces. Takes precedence over those that are included.
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// How thorough the comparison is. full reads every document of both sides. sample reads
    /// --sample random documents of each side and looks them up on the other. count compares only
    /// the document counts in the servers' metadata. All modes compare options, indexes and views.
    #[arg(long, value_name = "count|sample|full", default_value = "full")]
    pub mode: String,
    /// Number of documents that --mode sample reads from each collection on each side.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub sample: String,
    /// Treat documents as equal if they differ only in the order of their fields.
    #[arg(long)]
    pub ignore_field_order: bool,
    /// Number of documents in a range. A range that differs is read again as a whole, and an
    /// interrupted comparison continues with the ranges that are not finished.
    #[arg(long, value_name = "N", default_value = "32768")]
    pub range_documents: String,
    /// Number of ranges of a collection that are compared concurrently.
    #[arg(long, value_name = "N", default_value = "2")]
    pub ranges_at_once: String,
    /// Write JSON Lines to this file: each difference, each finished range and collection, and the
    /// result.
    #[arg(long, value_name = "FILE")]
    pub report: Option<String>,
    /// Continue the comparison that wrote the --report. Starts from the beginning if there is no
    /// such file.
    #[arg(long)]
    pub resume: bool,
    /// Repair the target: send it the source's documents where they still differ, delete documents
    /// that only the target has, create missing collections, views and indexes, and compare again.
    #[arg(long)]
    pub repair: bool,
    /// The replay whose progress is read.
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
    /// First part of the topic names, as given to the producer.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Audit only these topics, by their full names. Repeat the flag or separate them by commas.
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    pub topic: Vec<String>,
    /// An option for the Kafka client (librdkafka), as name=value. Repeat the flag for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Write JSON Lines to this file: each fault, the counts of each topic, and the result.
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
    /// Name of the consumer group that replayed into the target. It must be stopped.
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
    /// An option for the Kafka client (librdkafka), as name=value. Repeat the flag for more.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = '\n')]
    pub kafka_option: Vec<String>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}
