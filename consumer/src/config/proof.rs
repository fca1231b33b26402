//! The configuration of `verify` and `audit`.

use std::path::PathBuf;
use std::time::Duration;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::topic::check_prefix;
use oplog_relay_runtime::config::{ConfigError, Faults, Secret, parse_duration};
use oplog_relay_runtime::kafka::{CONSUMER_OWNED, KafkaOptions, parse_options};
use oplog_relay_runtime::telemetry::LogOptions;

use super::{check_number, check_uri, no_faults, required};
use crate::config::arguments::{AuditArguments, ReplayPlaceArguments, VerifyArguments};

/// The replay that writes into a target.
#[derive(Debug, Clone)]
pub struct ReplayPlace {
    /// Connection to Kafka.
    pub kafka: KafkaOptions,
    /// The topic prefix.
    pub prefix: String,
    /// The consumer group of the replay.
    pub group: String,
    /// Name of the source, if it was given.
    pub source_name: Option<String>,
}

/// The thoroughness of `verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyMode {
    /// Compares only the document counts in the servers' metadata.
    Count,
    /// Compares this number of documents of each collection of each side.
    Sample(u32),
    /// Compares every document.
    Full,
}

/// The configuration of `verify`.
#[derive(Debug, Clone)]
pub struct VerifyConfig {
    /// Connection string of the source.
    pub source: Secret,
    /// Connection string of the target.
    pub target: Secret,
    /// The namespaces that are compared.
    pub filter: NamespaceFilter,
    /// The thoroughness of the comparison.
    pub mode: VerifyMode,
    /// True if the order of fields is ignored.
    pub ignore_field_order: bool,
    /// Number of documents in a range.
    pub range_documents: u64,
    /// Number of ranges of a collection that are compared concurrently.
    pub ranges_at_once: usize,
    /// The file for the report.
    pub report: Option<PathBuf>,
    /// True if the comparison that wrote the report is continued.
    pub resume: bool,
    /// True if the target is repaired.
    pub repair: bool,
    /// The replay, if it was given.
    pub replay: Option<ReplayPlace>,
    /// Maximum time to wait for the replay to catch up with the source.
    pub patience: Duration,
    /// The options that determine the result, as text. A resumed comparison must have the same text.
    pub question: String,
    /// Logging.
    pub log: LogOptions,
}

/// The configuration of `audit`.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Connection to Kafka.
    pub kafka: KafkaOptions,
    /// The topic prefix.
    pub prefix: String,
    /// The topics to audit; if empty, all topics of the prefix.
    pub topics: Vec<String>,
    /// The file for the report.
    pub report: Option<PathBuf>,
    /// Logging.
    pub log: LogOptions,
}

impl VerifyConfig {
    /// Checks the arguments of `verify`.
    ///
    /// # Errors
    /// Returns all faults at once.
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
            faults.add("--resume", "needs --report, the report to continue");
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
            ranges_at_once: usize::try_from(ranges_at_once).expect("--ranges-at-once is limited"),
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

/// Returns the options that determine the result, as text: a comparison is not resumed with other
/// options.
fn question(arguments: &VerifyArguments) -> String {
    let VerifyArguments {
        namespaces,
        include_namespaces,
        exclude_namespaces,
        mode,
        sample,
        ignore_field_order,
        ..
    } = arguments;
    // The other modes do not use the size of the sample.
    let size = if mode == "sample" {
        format!(" of {sample}")
    } else {
        String::new()
    };
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
        "{mode}{size} of [{}] without [{excluded}]{order}",
        included.join(",")
    )
}

fn check_mode(arguments: &VerifyArguments, faults: &mut Faults) -> Option<VerifyMode> {
    let sample = check_number("--sample", &arguments.sample, 1_000_000, faults)?;
    let mode = match arguments.mode.as_str() {
        "count" => Ok(VerifyMode::Count),
        "sample" => Ok(VerifyMode::Sample(
            u32::try_from(sample).expect("--sample is at most 1,000,000"),
        )),
        "full" => Ok(VerifyMode::Full),
        _ => Err("must be count, sample or full"),
    };
    faults.take_or("--mode", mode)
}

/// Checks the options of the replay: either all required ones are given, or none of them.
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
    /// Returns all faults at once.
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::arguments::{Arguments, Command};

    fn question_of(flags: &[&str]) -> String {
        let common = [
            "oplog-consumer",
            "verify",
            "--source=mongodb://a",
            "--target=mongodb://b",
        ];
        let arguments = Arguments::try_parse_from([&common, flags].concat()).unwrap();
        let Command::Verify(arguments) = arguments.command else {
            unreachable!("the command is verify");
        };
        question(&arguments)
    }

    #[test]
    fn a_comparison_is_not_resumed_with_another_size_of_the_sample() {
        let sampled = question_of(&["--mode=sample", "--sample=10"]);
        assert_ne!(sampled, question_of(&["--mode=sample", "--sample=11"]));
        assert_eq!(question_of(&[]), question_of(&["--sample=11"]));
    }
}
