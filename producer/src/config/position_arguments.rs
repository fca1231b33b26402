//! Commands and flags of `oplog-producer position`.

use clap::{Args, Subcommand};
use oplog_relay_runtime::config::COMMAND_LINE_ONLY;

use crate::config::arguments::KafkaArguments;

/// `oplog-producer position`
#[derive(Debug, Clone, Args)]
pub struct PositionArguments {
    /// The command to run.
    #[command(subcommand)]
    pub command: PositionCommand,
}

/// The command to run.
#[derive(Debug, Clone, Subcommand)]
pub enum PositionCommand {
    /// Print the saved position of a source, and whether the source's oplog still reaches back to it.
    ///
    /// The command only reads, and does not disturb a running producer.
    Show(ShowArguments),
    /// Print the saved positions of all sources, one line each.
    ///
    /// The command only reads, and does not disturb running producers.
    List(ListArguments),
    /// Write a new position for a source that has one.
    ///
    /// The new position is written with the transactional id of the source, so a running producer
    /// is fenced: it cannot write its own position any more, and ends with exit code 5. Of a producer
    /// with several sources, only this source ends, and the others are followed further. The next
    /// start continues from the new position; with `run --high-availability`, an instance does so by
    /// itself. After a position further back, entries are sent again, with the same identities. A
    /// position further ahead skips entries, and needs --allow-gap.
    Set(SetArguments),
    /// Write the first position of a source, taken from the checkpoint of another program.
    Import(ImportArguments),
}

/// The source whose position is shown or changed.
#[derive(Debug, Clone, Args)]
pub struct SavedSourceArguments {
    /// Name of the source, as given to `run`, whose default is the name of the replica set. Not needed
    /// if --source has one.
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// First part of the topic names, as given to `run`.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// MongoDB connection string of the source, with which the position is checked. May be read from
    /// a file: file:/run/secrets/source. If several are given as to `run`, --source-name chooses one.
    /// A dump is ignored.
    #[arg(long, value_name = "[NAME=]URI")]
    pub source: Vec<String>,
}

/// `oplog-producer position show`
#[derive(Debug, Clone, Args)]
pub struct ShowArguments {
    /// The source.
    #[command(flatten)]
    pub of: SavedSourceArguments,
    /// Form of the output: text (lines for people) or json (one object).
    #[arg(long, value_name = "text|json", default_value = "text")]
    pub output: String,
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArguments,
}

/// `oplog-producer position list`
#[derive(Debug, Clone, Args)]
pub struct ListArguments {
    /// List only the sources with this first part of the topic names.
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// Form of the output: text (lines for people) or json (one object per line).
    #[arg(long, value_name = "text|json", default_value = "text")]
    pub output: String,
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArguments,
}

/// What the operator accepts in a change of a position, and the term of the new one.
#[derive(Debug, Clone, Args)]
pub struct ChangeArguments {
    /// Election term of the entry at the new position. Needed only without --source, which reads it.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = COMMAND_LINE_ONLY
    )]
    pub term: Option<String>,
    /// Accept a position after the saved one. The entries between the two are never sent, and are
    /// missing on every target. The gap is recorded in the state topic; `position show` and
    /// `oplog-consumer audit` report it.
    #[arg(long, help_heading = COMMAND_LINE_ONLY)]
    pub allow_gap: bool,
    /// Accept a position before the stream began or before the end of a recorded gap, also if it is
    /// not known when the stream began. A replay then receives commands that it has never run: a drop
    /// or a rename among them can hit a later collection of the same name.
    #[arg(long, help_heading = COMMAND_LINE_ONLY)]
    pub allow_before_start: bool,
    /// Change the position although a producer seems to be running, because a position was saved
    /// within the last minute. The producer is fenced, as described above.
    #[arg(long, help_heading = COMMAND_LINE_ONLY)]
    pub fence: bool,
}

/// `oplog-producer position set`
#[derive(Debug, Clone, Args)]
pub struct SetArguments {
    /// The source.
    #[command(flatten)]
    pub of: SavedSourceArguments,
    /// The new position: `<seconds>:<increment>` of an entry, which counts as sent, as `position
    /// show` prints it; an RFC 3339 time, whose entries and all later ones are sent; now; or, for a
    /// change stream, a resume token (as JSON or its hexadecimal `_data`), whose cluster time is
    /// sent again as a whole. A time and now need --source.
    #[arg(
        long,
        value_name = "POSITION",
        allow_hyphen_values = true,
        help_heading = COMMAND_LINE_ONLY
    )]
    pub to: Option<String>,
    /// What is accepted.
    #[command(flatten)]
    pub change: ChangeArguments,
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArguments,
}

/// `oplog-producer position import`
#[derive(Debug, Clone, Args)]
pub struct ImportArguments {
    /// The source.
    #[command(flatten)]
    pub of: SavedSourceArguments,
    /// The program whose checkpoint is imported: mongoshake, mongo-connector, debezium, mongo-kafka
    /// or mongodump.
    #[arg(long, value_name = "PROGRAM")]
    pub from: Option<String>,
    /// The file with the checkpoint: for mongoshake the documents of its checkpoint collection as
    /// JSON, for mongo-connector its oplog.timestamp, for debezium and mongo-kafka the value of the
    /// source offset as JSON, for mongodump the oplog.bson of the dump.
    #[arg(long, value_name = "PATH")]
    pub file: Option<String>,
    /// The collection in which MongoShake saves its checkpoint, as db.collection, instead of --file.
    /// It is read from --checkpoint-uri.
    #[arg(long, value_name = "NS", default_value = "mongoshake.ckpt_default")]
    pub checkpoint_collection: String,
    /// Connection string of the MongoDB in which MongoShake saves its checkpoint. The default is
    /// --source. May be read from a file: file:/run/secrets/checkpoint.
    #[arg(long, value_name = "URI")]
    pub checkpoint_uri: Option<String>,
    /// Name of the checkpoint, if there are several: the name of the replica set for mongoshake, a
    /// part of the name of the shard for mongo-connector, a part of the key of the offset (as JSON)
    /// for debezium and mongo-kafka.
    #[arg(long, value_name = "NAME")]
    pub checkpoint_name: Option<String>,
    /// Begin this much earlier, for example 1h, because the checkpoint of the other program may be
    /// ahead of what it has delivered. The entries of this time are sent although the other program
    /// has delivered some of them.
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub back: String,
    /// How the source will be read: oplog, change-stream, or auto (as `run` decides; without --source:
    /// change-stream for debezium and mongo-kafka, oplog for the others).
    #[arg(long, value_name = "auto|oplog|change-stream", default_value = "auto")]
    pub source_mode: String,
    /// Import although the source has a saved position, which is then changed as by `position set`.
    #[arg(long, help_heading = COMMAND_LINE_ONLY)]
    pub replace: bool,
    /// Replication factor of the two internal topics, if they do not exist; -1 is the broker's
    /// default.
    #[arg(
        long,
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true
    )]
    pub replication_factor: String,
    /// What is accepted.
    #[command(flatten)]
    pub change: ChangeArguments,
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArguments,
}
