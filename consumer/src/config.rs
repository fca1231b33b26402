//! Checked settings: an invalid configuration cannot be constructed, and all faults are reported at once.

mod proof;

use std::path::PathBuf;

use oplog_relay_core::filter::{NamespaceFilter, with_commas};
use oplog_relay_core::json::Mode;
use oplog_relay_runtime::config::{
    ConfigError, Faults, Secret, Start, parse_bytes, parse_start, resolve_secret,
};
use oplog_relay_runtime::http::HttpAddress;
use oplog_relay_runtime::kafka::{CONSUMER_OWNED, KafkaOptions, parse_options};
use oplog_relay_runtime::telemetry::LogOptions;

use crate::args::{
    CutoverArguments, DeadLettersArguments, EmitArguments, GroupArguments, ReplayArguments,
};
use crate::catalog::Subscription;
use crate::dead_letter::{Reason, Reasons, parse_reasons};
use crate::plan::Planner;

pub use proof::{AuditConfig, ReplayPlace, VerifyConfig, VerifyMode};

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
    fn read(word: &str) -> Result<Self, &'static str> {
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

/// What a replay may write to the dead-letter topic by `--dead-letter`.
const OF_REPLAY: [Reason; 3] = [Reason::Undecodable, Reason::Command, Reason::Write];

/// Options of the Kafka client that this program needs, beside those that every consumer needs.
const OWNED: &[(&str, &str)] = &[
    (
        "queued.max.messages.kbytes",
        "it is a part of --queue-bytes",
    ),
    ("queued.min.messages", "memory is bounded by --queue-bytes"),
    (
        "fetch.max.bytes",
        "it follows --queue-bytes and how far the records are compressed",
    ),
    (
        "fetch.message.max.bytes",
        "it follows --queue-bytes and how far the records are compressed",
    ),
    (
        "receive.message.max.bytes",
        "it must hold the largest record that the topics take",
    ),
];

/// Smallest budget: below it every chunk would be a stall.
const LEAST_QUEUE_BYTES: u64 = 1 << 20;
const MAX_LANES: usize = 64;

impl ReplayConfig {
    /// Checks the arguments of `replay`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(arguments: &ReplayArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let group = check_group(&arguments.group, &OF_REPLAY, &mut faults);
        let target = check_uri("--target", arguments.target.as_deref(), &mut faults);
        let unmatched = match arguments.unmatched.as_str() {
            "count" => Ok(Unmatched::Count),
            "upsert" => Ok(Unmatched::Upsert),
            "dead-letter" => Ok(Unmatched::DeadLetter),
            "stop" => Ok(Unmatched::Stop),
            _ => Err("must be count, upsert, dead-letter or stop"),
        };
        let unmatched = faults.take_or("--unmatched", unmatched);
        let unrepeatable = match arguments.unrepeatable.as_str() {
            "stop" => Ok(Unrepeatable::Stop),
            "apply" => Ok(Unrepeatable::Apply),
            "dead-letter" => Ok(Unrepeatable::DeadLetter),
            _ => Err("must be stop, apply or dead-letter"),
        };
        let unrepeatable = faults.take_or("--unrepeatable", unrepeatable);
        let if_not_empty = match arguments.if_target_not_empty.as_str() {
            "fail" => Ok(NotEmpty::Fail),
            "merge" => Ok(NotEmpty::Merge),
            "drop" => Ok(NotEmpty::Drop),
            _ => Err("must be fail, merge or drop"),
        };
        let if_not_empty = faults.take_or("--if-target-not-empty", if_not_empty);
        let refused_options = RefusedOptions::read(&arguments.refused_options);
        let refused_options = faults.take_or("--refused-options", refused_options);
        let lanes = match arguments.lanes.parse() {
            Ok(lanes) if (1..=MAX_LANES).contains(&lanes) => Ok(lanes),
            _ => Err(format!("must be a number from 1 to {MAX_LANES}")),
        };
        let lanes = faults.take_or("--lanes", lanes);
        let policies = unmatched.zip(unrepeatable).zip(if_not_empty);
        let checked = group
            .zip(target)
            .zip(policies.zip(refused_options).zip(lanes));
        faults.finish()?;
        let ((mut group, target), (policies, lanes)) = checked.ok_or_else(no_faults)?;
        let (((unmatched, unrepeatable), if_not_empty), refused_options) = policies;
        group.allow_partial_reset = arguments.allow_partial_reset;
        if arguments.allow_missing_records {
            group.removed = RemovedRecords::BeginLater;
        }
        if unmatched == Unmatched::DeadLetter {
            group.dead_letter.insert(Reason::Unmatched);
        }
        if unrepeatable == Unrepeatable::DeadLetter {
            group.dead_letter.insert(Reason::Unrepeatable);
        }
        Ok(Self {
            group,
            target,
            allow_lossy: arguments.allow_lossy,
            unmatched,
            unrepeatable,
            change_subscription: arguments.change_subscription,
            if_not_empty,
            refused_options,
            lanes,
        })
    }
}

impl EmitConfig {
    /// Checks the arguments of `emit`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(arguments: &EmitArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let group = check_group(&arguments.group, &[Reason::Undecodable], &mut faults);
        let to = match arguments.to.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Destination::File(path.into())),
            None if arguments.to == "stdout" => Ok(Destination::Stdout),
            _ => Err("must be stdout or file:<path>"),
        };
        let to = faults.take_or("--to", to);
        let mode = match arguments.json.as_str() {
            "relaxed" => Ok(Mode::Relaxed),
            "canonical" => Ok(Mode::Canonical),
            _ => Err("must be relaxed or canonical"),
        };
        let mode = faults.take_or("--json", mode);
        let checked = group.zip(to.zip(mode));
        faults.finish()?;
        let (mut group, (to, mode)) = checked.ok_or_else(no_faults)?;
        group.removed = RemovedRecords::TakeRest;
        Ok(Self { group, to, mode })
    }
}

impl DeadLettersConfig {
    /// Checks the arguments of `dead-letters`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(arguments: &DeadLettersArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let brokers = required("--brokers", arguments.brokers.as_deref(), &mut faults);
        let group = required("--group", arguments.group.as_deref(), &mut faults);
        let options = parse_options(&arguments.kafka_option, &[CONSUMER_OWNED], &mut faults);
        let log = arguments.log.check(&mut faults);
        let checked = brokers.zip(group.zip(log));
        faults.finish()?;
        let (brokers, (group, log)) = checked.ok_or_else(no_faults)?;
        let kafka = KafkaOptions { brokers, options };
        Ok(Self { kafka, group, log })
    }
}

impl CutoverConfig {
    /// Checks the arguments of `cutover`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(arguments: &CutoverArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let target = check_uri("--target", arguments.target.as_deref(), &mut faults);
        let group = required("--group", arguments.group.as_deref(), &mut faults);
        let log = arguments.log.check(&mut faults);
        let checked = target.zip(group.zip(log));
        faults.finish()?;
        let (target, (group, log)) = checked.ok_or_else(no_faults)?;
        Ok(Self { target, group, log })
    }
}

/// A value is missing only where a fault was added, so this is never seen.
fn no_faults() -> ConfigError {
    ConfigError::Faults(Vec::new())
}

fn required(flag: &str, value: Option<&str>, faults: &mut Faults) -> Option<String> {
    match value.map(str::trim) {
        Some(value) if !value.is_empty() => Some(value.to_owned()),
        _ => {
            faults.add(flag, "is required");
            None
        }
    }
}

fn check_uri(flag: &str, value: Option<&str>, faults: &mut Faults) -> Option<Secret> {
    let value = required(flag, value, faults)?;
    let secret = faults.take_or(flag, resolve_secret(&value))?;
    let uri = secret.expose();
    if uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://") {
        return Some(secret);
    }
    faults.add(flag, "must begin with mongodb:// or mongodb+srv://");
    None
}

fn check_group(
    arguments: &GroupArguments,
    reasons: &[Reason],
    faults: &mut Faults,
) -> Option<GroupConfig> {
    let brokers = required("--brokers", arguments.brokers.as_deref(), faults);
    let prefix = proof::check_topic_prefix(arguments.topic_prefix.as_deref(), faults);
    let group = required("--group", arguments.group.as_deref(), faults);
    let start = faults.take_or("--start", parse_start(&arguments.start));
    let filter = NamespaceFilter::new(
        arguments.include_namespaces.iter().map(String::as_str),
        arguments.exclude_namespaces.iter().map(String::as_str),
    );
    let filter = faults.take_or("--include-namespaces, --exclude-namespaces", filter);
    let dead_letter = parse_reasons(&arguments.dead_letter, reasons);
    let dead_letter = faults.take_or("--dead-letter", dead_letter);
    let queue_bytes = faults.take_or("--queue-bytes", check_queue_bytes(&arguments.queue_bytes));
    let options = parse_options(&arguments.kafka_option, &[CONSUMER_OWNED, OWNED], faults);
    let http = faults.take_or("--http", arguments.http.parse::<HttpAddress>());
    let log = arguments.log.check(faults);
    Some(GroupConfig {
        kafka: KafkaOptions {
            brokers: brokers?,
            options,
        },
        prefix: prefix?,
        group: group?,
        start: start?,
        start_again: arguments.start_again,
        removed: RemovedRecords::Refuse,
        filter: filter?,
        subscription: Subscription::new(
            &with_commas(arguments.include_namespaces.iter().map(String::as_str)),
            &with_commas(arguments.exclude_namespaces.iter().map(String::as_str)),
        ),
        until_caught_up: arguments.until_caught_up,
        allow_partial_reset: false,
        dead_letter: dead_letter?,
        queue_bytes: queue_bytes?,
        http: http?,
        log: log?,
    })
}

fn check_queue_bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    if bytes < LEAST_QUEUE_BYTES {
        return Err("must be at least 1MiB".to_owned());
    }
    usize::try_from(bytes).map_err(|_| "is more than this machine can address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command};
    use clap::Parser;

    fn replay(flags: &[&str]) -> Result<ReplayConfig, ConfigError> {
        let arguments = ["oplog-consumer", "replay"].iter().chain(flags);
        let Command::Replay(arguments) = Arguments::try_parse_from(arguments).unwrap().command
        else {
            panic!()
        };
        ReplayConfig::check(&arguments)
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let flags = [
            "--topic-prefix",
            "a.b",
            "--target",
            "localhost",
            "--lanes",
            "0",
            "--start",
            "soon",
            "--unmatched",
            "maybe",
            "--dead-letter",
            "write,unmatched",
            "--if-target-not-empty",
            "perhaps",
            "--queue-bytes",
            "1k",
            "--kafka-option",
            "enable.auto.commit=true",
        ];
        let text = replay(&flags).unwrap_err().to_string();
        let places = [
            "--brokers",
            "--topic-prefix",
            "--group",
            "--target",
            "--lanes",
            "--start",
            "--unmatched",
            "--dead-letter",
            "--if-target-not-empty",
            "--queue-bytes",
            "--kafka-option",
        ];
        for place in places {
            assert!(text.contains(place), "{place} in {text}");
        }
    }

    #[test]
    fn what_is_needed_suffices() {
        let flags = [
            "--brokers",
            "k:9092",
            "--topic-prefix",
            "cdc",
            "--group",
            "g",
            "--target",
            "mongodb://t/",
        ];
        let config = replay(&flags).unwrap();
        assert_eq!(config.group.start, Start::Oldest);
        assert_eq!(config.group.queue_bytes, 64 << 20);
        assert_eq!((config.lanes, config.unmatched), (4, Unmatched::Count));
    }

    #[test]
    fn help_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
