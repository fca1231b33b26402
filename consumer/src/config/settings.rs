//! What the checked settings are.

use std::path::PathBuf;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::json::Mode;
use oplog_relay_runtime::config::{Secret, Start};
use oplog_relay_runtime::http::HttpAddress;
use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::telemetry::LogOptions;

use crate::dead_letter::Reasons;
use crate::replay::catalog::Subscription;
use crate::replay::plan::Planner;

/// How a group reads.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// How to reach Kafka.
    pub kafka: KafkaOptions,
    /// First part of topic names.
    pub prefix: String,
    /// The consumer group.
    pub group: String,
    /// Where a new group begins.
    pub start: Start,
    /// Whether a group that ran before begins at `start` again although its offsets are gone.
    pub start_again: bool,
    /// What a new group does about records that Kafka has removed before it began.
    pub removed: RemovedRecords,
    /// Which namespaces pass.
    pub filter: NamespaceFilter,
    /// Stop when caught up.
    pub until_caught_up: bool,
    /// Whether a command runs although a partition is past its barrier.
    pub allow_partial_reset: bool,
    /// The namespaces as they were given: all members of a group that replays have the same.
    pub subscription: Subscription,
    /// What goes to the dead-letter topic.
    pub dead_letter: Reasons,
    /// Bytes between Kafka and the sink; half of it is the Kafka client's own queue.
    pub queue_bytes: usize,
    /// Where to serve HTTP.
    pub http: HttpAddress,
    /// Logging.
    pub log: LogOptions,
}

/// What a new group does about records that Kafka has removed before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedRecords {
    /// Take what is left of each partition.
    TakeRest,
    /// Stop: the target would be incomplete.
    Refuse,
    /// Begin at the first second of which all partitions hold every record.
    BeginLater,
}

/// What to do about an update that finds no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// Count it.
    Count,
    /// Create a document of the fields that it sets.
    Upsert,
    /// Write it to the dead-letter topic.
    DeadLetter,
    /// Stop.
    Stop,
}

/// What to do about an update that is not the same when it is applied twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrepeatable {
    /// Stop.
    Stop,
    /// Send it as it is.
    Apply,
    /// Write it to the dead-letter topic.
    DeadLetter,
}

/// What to do about an option of a command that the target does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedOptions {
    /// Stop.
    Stop,
    /// Run the command without it.
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

/// What to do about documents of a collection that a full sync is about to fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotEmpty {
    /// Stop.
    Fail,
    /// Leave them.
    Merge,
    /// Drop the collection.
    Drop,
}

/// The configuration of `replay`.
#[derive(Debug, Clone)]
pub struct ReplayConfig {
    /// How the group reads.
    pub group: GroupConfig,
    /// The target.
    pub target: Secret,
    /// Whether formats that lose types are replayed.
    pub allow_lossy: bool,
    /// What to do about an update that finds no document.
    pub unmatched: Unmatched,
    /// What to do about an update that is not the same when it is applied twice.
    pub unrepeatable: Unrepeatable,
    /// Whether the group's namespaces become those of this member.
    pub change_subscription: bool,
    /// What to do about documents where a full sync begins.
    pub if_not_empty: NotEmpty,
    /// What to do about an option of a command that the target does not know.
    pub refused_options: RefusedOptions,
    /// Lanes for each partition's batch.
    pub lanes: usize,
}

impl ReplayConfig {
    /// What plans its batches.
    #[must_use]
    pub fn planner(&self) -> Planner {
        let planner = Planner::new(self.lanes);
        match self.unrepeatable {
            Unrepeatable::Apply => planner.applying_unrepeatable(),
            Unrepeatable::Stop | Unrepeatable::DeadLetter => planner,
        }
    }
}

/// Where `emit` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// The configuration of `emit`.
#[derive(Debug, Clone)]
pub struct EmitConfig {
    /// How the group reads.
    pub group: GroupConfig,
    /// Where the lines go.
    pub to: Destination,
    /// Form of the lines.
    pub mode: Mode,
}

/// The configuration of `cutover`.
#[derive(Debug, Clone)]
pub struct CutoverConfig {
    /// The target.
    pub target: Secret,
    /// The group that replayed into it.
    pub group: String,
    /// Logging.
    pub log: LogOptions,
}

/// The configuration of `dead-letters`.
#[derive(Debug, Clone)]
pub struct DeadLettersConfig {
    /// How to reach Kafka.
    pub kafka: KafkaOptions,
    /// The group.
    pub group: String,
    /// Logging.
    pub log: LogOptions,
}
