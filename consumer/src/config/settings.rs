//! The checked settings of `replay`, `emit`, `cutover` and `dead-letters`.

use std::path::PathBuf;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::envelope::Envelope;
use oplog_relay_core::json::Mode;
use oplog_relay_runtime::config::{Secret, Start};
use oplog_relay_runtime::http::ServeOptions;
use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::telemetry::LogOptions;

use crate::config::shard_collections::ShardKeys;
use crate::dead_letter::Reasons;
use crate::input::Input;
use crate::replay::catalog::Subscription;
use crate::replay::plan::Planner;

/// The settings of a group, common to `replay` and `emit`.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Connection to Kafka.
    pub kafka: KafkaOptions,
    /// The topics, and the program that writes them.
    pub input: Input,
    /// The name of the consumer group.
    pub group: String,
    /// The point at which a new group starts.
    pub start: Start,
    /// True if a group that ran before starts again at `start` although its offsets are gone.
    pub start_again: bool,
    /// The policy for records that Kafka removed before a new group started.
    pub removed: RemovedRecords,
    /// The namespaces that are replayed or emitted.
    pub filter: NamespaceFilter,
    /// True if the program ends once the group has caught up.
    pub until_caught_up: bool,
    /// True if the replay continues at a command that has not run although a partition of the group
    /// is already committed past the command or its barrier, and does not wait for topics that are
    /// absent.
    pub allow_partial_reset: bool,
    /// The namespaces as they were given. All members of a replaying group must have the same ones.
    pub subscription: Subscription,
    /// The reasons for which records go to the dead-letter topic.
    pub dead_letter: Reasons,
    /// Memory for records between Kafka and the target or output, in bytes. Half of it is for the Kafka
    /// client's own queue.
    pub queue_bytes: usize,
    /// The HTTP address, and the time without progress after which a stall is reported.
    pub serve: ServeOptions,
    /// Logging.
    pub log: LogOptions,
}

/// The policy for records that Kafka removed before a new group started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedRecords {
    /// Reads the rest of each partition.
    TakeRest,
    /// Stops, because the target would be incomplete.
    Refuse,
    /// Starts at the first second from which every partition still has all of its records.
    BeginLater,
}

/// The policy for an update that matches no document. [`replay`](crate::replay) applies it to the
/// results of writes, and to updates that it rewrites as a replacement of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// Counts it.
    Count,
    /// Creates a document from the fields that the update sets.
    Upsert,
    /// Writes it to the dead-letter topic.
    DeadLetter,
    /// Stops.
    Stop,
}

/// The policy for an update that is not idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrepeatable {
    /// Stops.
    Stop,
    /// Sends it unchanged.
    Apply,
    /// Writes it to the dead-letter topic.
    DeadLetter,
}

/// The policy for a command option that the target does not support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedOptions {
    /// Stops.
    Stop,
    /// Runs the command without the option.
    LeaveOut,
}

impl RefusedOptions {
    pub(super) fn read(word: &str) -> Result<Self, &'static str> {
        match word {
            "stop" => Ok(Self::Stop),
            "leave-out" => Ok(Self::LeaveOut),
            _ => Err("must be stop or leave-out"),
        }
    }
}

/// The policy for existing documents of a collection that a full sync is about to fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotEmpty {
    /// Stops.
    Fail,
    /// Keeps them, but replaces those that have the `_id` of a copied document.
    Merge,
    /// Drops the collection.
    Drop,
}

/// The configuration of `replay`.
#[derive(Debug, Clone)]
pub struct ReplayConfig {
    /// The settings of the group.
    pub group: GroupConfig,
    /// Connection string of the target.
    pub target: Secret,
    /// True if topics in formats that lose types are replayed.
    pub allow_lossy: bool,
    /// The policy for an update that matches no document.
    pub unmatched: Unmatched,
    /// The policy for an update that is not idempotent.
    pub unrepeatable: Unrepeatable,
    /// True if the group adopts the namespaces of this member.
    pub change_subscription: bool,
    /// The policy for existing documents of a collection that a full sync is about to fill.
    pub if_not_empty: NotEmpty,
    /// The policy for a command option that the target does not support.
    pub refused_options: RefusedOptions,
    /// The shard keys of collections that are created sharded on the target.
    pub shard_collections: ShardKeys,
    /// Number of connections for the writes of one partition's batch.
    pub lanes: usize,
}

impl ReplayConfig {
    /// Returns the planner of the batches.
    #[must_use]
    pub fn planner(&self) -> Planner {
        let planner = Planner::new(self.lanes);
        match self.unrepeatable {
            Unrepeatable::Apply => planner.applying_unrepeatable(),
            Unrepeatable::Stop | Unrepeatable::DeadLetter => planner,
        }
    }
}

/// The destination of the lines of `emit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
}

/// The configuration of `emit`.
#[derive(Debug, Clone)]
pub struct EmitConfig {
    /// The settings of the group.
    pub group: GroupConfig,
    /// The destination of the lines.
    pub to: Destination,
    /// The form of the lines.
    pub lines: LineForm,
}

/// The form of the lines of `emit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineForm {
    /// The Extended JSON mode.
    pub mode: Mode,
    /// The shape of each line.
    pub envelope: Envelope,
}

/// The configuration of `cutover`.
#[derive(Debug, Clone)]
pub struct CutoverConfig {
    /// Connection string of the target.
    pub target: Secret,
    /// The group that replayed into the target.
    pub group: String,
    /// Logging.
    pub log: LogOptions,
}

/// The configuration of `dead-letters`.
#[derive(Debug, Clone)]
pub struct DeadLettersConfig {
    /// Connection to Kafka.
    pub kafka: KafkaOptions,
    /// The group whose dead letters are listed.
    pub group: String,
    /// Logging.
    pub log: LogOptions,
}
