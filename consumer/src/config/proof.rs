//! The configuration of what proves: `verify` and `audit`.

use std::path::PathBuf;
use std::time::Duration;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::topic::check_prefix;
use oplog_relay_runtime::config::{ConfigError, Faults, Secret, parse_duration};
use oplog_relay_runtime::kafka::{CONSUMER_OWNED, KafkaOptions, parse_options};
use oplog_relay_runtime::telemetry::LogOptions;

use super::{check_uri, no_faults, required};
use crate::config::arguments::{AuditArguments, ReplayPlaceArguments, VerifyArguments};

/// The replay that leads to a target.
#[derive(Debug, Clone)]
pub struct ReplayPlace {
    /// How to reach Kafka.
    pub kafka: KafkaOptions,
    /// First part of topic names.
    pub prefix: String,
    /// Its consumer group.
    pub group: String,
    /// Name of the source, where it was given.
    pub source_name: Option<String>,
}

/// How thoroughly `verify` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyMode {
    /// Numbers of documents.
    Count,
    /// So many documents of each side's collection.
    Sample(u32),
    /// Every document.
    Full,
}

/// The configuration of `verify`.
#[derive(Debug, Clone)]
pub struct VerifyConfig {
    /// The source.
    pub source: Secret,
    /// The target.
    pub target: Secret,
    /// Which namespaces are compared.
    pub filter: NamespaceFilter,
    /// How thoroughly.
    pub mode: VerifyMode,
    /// Whether the order of fields counts.
    pub ignore_field_order: bool,
    /// Documents of a range.
    pub range_documents: u64,
    /// Ranges at once.
    pub ranges_at_once: usize,
    /// Where to write each difference.
    pub report: Option<PathBuf>,
    /// Whether the report is gone on with.
    pub resume: bool,
    /// Whether the target is repaired.
    pub repair: bool,
    /// The replay, where it was given.
    pub replay: Option<ReplayPlace>,
    /// How long to wait for the replay to pass a moment.
    pub patience: Duration,
    /// What was asked for, in words that a resumed comparison must share.
    pub question: String,
    /// Logging.
    pub log: LogOptions,
}

/// The configuration of `audit`.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// How to reach Kafka.
    pub kafka: KafkaOptions,
    /// First part of topic names.
    pub prefix: String,
    /// Only these topics; all where empty.
    pub topics: Vec<String>,
    /// Where to write each fault.
    pub report: Option<PathBuf>,
    /// Logging.
    pub log: LogOptions,
}

impl VerifyConfig {
    /// Checks the arguments of `verify`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(arguments: &VerifyArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let source = check_uri("--source", arguments.source.as_deref(), &mut faults);
        let target = check_uri("--target", arguments.target.as_deref(), &mut faults);
        let included = arguments
            .namespaces
            .iter()
            .chain(&arguments.include_namespaces);
        let excluded = arguments.exclude_namespaces.iter().map(String::as_str);
        let filter = NamespaceFilter::new(included.map(String::as_str), excluded);
        let filter = faults.take_or("--namespaces, --exclude-namespaces", filter);
        let mode = check_mode(arguments, &mut faults);
        let range = &arguments.range_documents;
        let range_documents = check_number("--range-documents", range, 1 << 30, &mut faults);
        let at_once = &arguments.ranges_at_once;
        let ranges_at_once = check_number("--ranges-at-once", at_once, 64, &mut faults);
        let replay = check_replay_place(&arguments.replay, &mut faults);
        let patience = faults.take_or("--patience", parse_duration(&arguments.replay.patience));
        if arguments.resume && arguments.report.is_none() {
            faults.add("--resume", "needs the --report to go on with");
        }
        if arguments.repair && arguments.mode != "full" {
            faults.add("--repair", "needs --mode full");
        }
        let log = arguments.log.check(&mut faults);
        let checked = source.zip(target).zip(filter.zip(mode));
        let numbers = range_documents.zip(ranges_at_once);
        let more = numbers.zip(replay.zip(patience)).zip(log);
        let checked = checked.zip(more);
        faults.finish()?;
        let (((source, target), (filter, mode)), more) = checked.ok_or_else(no_faults)?;
        let (((range_documents, ranges_at_once), (replay, patience)), log) = more;
        Ok(Self {
            source,
            target,
            filter,
            mode,
            ignore_field_order: arguments.ignore_field_order,
            range_documents,
            ranges_at_once: usize::try_from(ranges_at_once).unwrap_or(1),
            report: arguments.report.as_ref().map(PathBuf::from),
            resume: arguments.resume,
            repair: arguments.repair,
            replay,
            patience,
            question: question(arguments),
            log,
        })
    }
}

/// What was asked, in words: an answer to another question must not be gone on with.
fn question(arguments: &VerifyArguments) -> String {
    let VerifyArguments {
        namespaces,
        include_namespaces,
        exclude_namespaces,
        mode,
        ignore_field_order,
        ..
    } = arguments;
    let included: Vec<&str> = namespaces
        .iter()
        .chain(include_namespaces)
        .map(String::as_str)
        .collect();
    let excluded = exclude_namespaces.join(",");
    let order = if *ignore_field_order {
        ", any field order"
    } else {
        ""
    };
    format!(
        "{mode} of [{}] without [{excluded}]{order}",
        included.join(",")
    )
}

fn check_mode(arguments: &VerifyArguments, faults: &mut Faults) -> Option<VerifyMode> {
    let sample = check_number("--sample", &arguments.sample, 1_000_000, faults)?;
    let mode = match arguments.mode.as_str() {
        "count" => Ok(VerifyMode::Count),
        "sample" => Ok(VerifyMode::Sample(
            u32::try_from(sample).unwrap_or(u32::MAX),
        )),
        "full" => Ok(VerifyMode::Full),
        _ => Err("must be count, sample or full"),
    };
    faults.take_or("--mode", mode)
}

fn check_number(flag: &str, text: &str, most: u64, faults: &mut Faults) -> Option<u64> {
    let number = match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from 1 to {most}")),
    };
    faults.take_or(flag, number)
}

/// All of it or nothing.
#[expect(clippy::option_option, reason = "faulty, or not given")]
fn check_replay_place(
    arguments: &ReplayPlaceArguments,
    faults: &mut Faults,
) -> Option<Option<ReplayPlace>> {
    let given = [
        &arguments.brokers,
        &arguments.topic_prefix,
        &arguments.group,
        &arguments.source_name,
    ];
    let options = parse_options(&arguments.kafka_option, &[CONSUMER_OWNED], faults);
    if given.iter().all(|value| value.is_none()) {
        return Some(None);
    }
    let brokers = required("--brokers", arguments.brokers.as_deref(), faults);
    let prefix = check_topic_prefix(arguments.topic_prefix.as_deref(), faults);
    let group = required("--group", arguments.group.as_deref(), faults);
    Some(Some(ReplayPlace {
        kafka: KafkaOptions {
            brokers: brokers?,
            options,
        },
        prefix: prefix?,
        group: group?,
        source_name: arguments.source_name.clone(),
    }))
}

pub(super) fn check_topic_prefix(prefix: Option<&str>, faults: &mut Faults) -> Option<String> {
    let prefix = required("--topic-prefix", prefix, faults)?;
    faults.take_or("--topic-prefix", check_prefix(&prefix).map(|()| prefix))
}

impl AuditConfig {
    /// Checks the arguments of `audit`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(arguments: &AuditArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let brokers = required("--brokers", arguments.brokers.as_deref(), &mut faults);
        let prefix = check_topic_prefix(arguments.topic_prefix.as_deref(), &mut faults);
        let options = parse_options(&arguments.kafka_option, &[CONSUMER_OWNED], &mut faults);
        let log = arguments.log.check(&mut faults);
        let checked = brokers.zip(prefix).zip(log);
        faults.finish()?;
        let ((brokers, prefix), log) = checked.ok_or_else(no_faults)?;
        Ok(Self {
            kafka: KafkaOptions { brokers, options },
            prefix,
            topics: arguments.topic.clone(),
            report: arguments.report.as_ref().map(PathBuf::from),
            log,
        })
    }
}
