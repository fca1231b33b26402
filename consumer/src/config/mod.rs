//! Checked settings. An invalid configuration cannot be constructed, and all faults are reported at
//! once.
//!
//! # Modules
//!
//! - `arguments` defines the commands and flags
//! - `settings` checks the arguments of `replay`, `emit`, `cutover` and `dead-letters`
//! - `proof` checks those of `verify` and `audit`
//! - `input` checks the options that select the input
//! - `shard_collections` reads the shard keys of the collections that a replay creates

pub mod arguments;
mod input;
mod proof;
mod settings;
mod shard_collections;

use oplog_relay_core::filter::{NamespaceFilter, with_commas};
use oplog_relay_runtime::config::{
    ConfigError, Faults, Secret, parse_bytes, parse_start, resolve_secret,
};
use oplog_relay_runtime::kafka::{CONSUMER_OWNED, KafkaOptions, OwnedOption, parse_options};

use crate::config::arguments::{
    CutoverArguments, DeadLettersArguments, EmitArguments, GroupArguments, ReplayArguments,
};
use crate::dead_letter::{Reason, parse_reasons};
use crate::replay::catalog::Subscription;
use input::Consent;

pub use proof::{AuditConfig, ReplayPlace, VerifyConfig, VerifyMode};
pub use settings::{
    CutoverConfig, DeadLettersConfig, Destination, EmitConfig, GroupConfig, LineForm, NotEmpty,
    RefusedOptions, RemovedRecords, ReplayConfig, Unmatched, Unrepeatable,
};
pub use shard_collections::ShardKeys;

/// The reasons for dead letters that `--dead-letter` of a replay accepts.
const REPLAY_REASONS: [Reason; 3] = [Reason::Undecodable, Reason::Command, Reason::Write];

/// Options of the Kafka client that this program sets itself, in addition to those of every consumer.
const OWNED: &[OwnedOption] = &[
    OwnedOption::new("queued.max.messages.kbytes", "it is part of --queue-bytes"),
    OwnedOption::new("queued.min.messages", "memory is bounded by --queue-bytes"),
    OwnedOption::new(
        "fetch.max.bytes",
        "it follows from --queue-bytes and the compression ratio of the records",
    ),
    OwnedOption::new(
        "fetch.message.max.bytes",
        "it follows from --queue-bytes and the compression ratio of the records",
    ),
    OwnedOption::new(
        "receive.message.max.bytes",
        "it must hold the largest record that the topics accept",
    ),
];

/// The smallest value of `--queue-bytes`. Half of it is the budget for chunks, which is eight
/// chunks of the smallest size.
const MIN_QUEUE_BYTES: u64 = 1 << 20;
const MAX_LANES: u64 = 64;

impl ReplayConfig {
    /// Checks the arguments of `replay`.
    ///
    /// # Errors
    /// Returns all faults at once.
    pub fn check(arguments: &ReplayArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let consent = input::consent_of_replay(arguments, &mut faults);
        let group = check_group(&arguments.group, consent, &REPLAY_REASONS, &mut faults);
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
        let lanes = check_number("--lanes", &arguments.lanes, MAX_LANES, &mut faults);
        let shard_collections = shard_collections::check(&arguments.shard_collections, &mut faults);
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
            shard_collections,
            lanes: usize::try_from(lanes).expect("--lanes is limited"),
        })
    }
}

impl EmitConfig {
    /// Checks the arguments of `emit`.
    ///
    /// # Errors
    /// Returns all faults at once.
    pub fn check(arguments: &EmitArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let consent = input::consent_of_emit();
        let reasons = [Reason::Undecodable];
        let group = check_group(&arguments.group, consent, &reasons, &mut faults);
        let to = match arguments.to.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Destination::File(path.into())),
            None if arguments.to == "stdout" => Ok(Destination::Stdout),
            _ => Err("must be stdout or file:<path>"),
        };
        let to = faults.take_or("--to", to);
        let mode = faults.take_or("--json", arguments.json.parse());
        let envelope = faults.take_or("--envelope", arguments.envelope.parse());
        let lines = mode
            .zip(envelope)
            .map(|(mode, envelope)| LineForm { mode, envelope });
        let checked = group.zip(to.zip(lines));
        faults.finish()?;
        let (mut group, (to, lines)) = checked.ok_or_else(no_faults)?;
        group.removed = RemovedRecords::TakeRest;
        Ok(Self { group, to, lines })
    }
}

impl DeadLettersConfig {
    /// Checks the arguments of `dead-letters`.
    ///
    /// # Errors
    /// Returns all faults at once.
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
    /// Returns all faults at once.
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

/// Returns an error that is never shown, because a value is missing only where a fault was added.
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

/// Checks a flag whose value is a number from 1 to `most`.
fn check_number(flag: &str, text: &str, most: u64, faults: &mut Faults) -> Option<u64> {
    let number = match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from 1 to {most}")),
    };
    faults.take_or(flag, number)
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
    consent: Consent,
    reasons: &[Reason],
    faults: &mut Faults,
) -> Option<GroupConfig> {
    let brokers = required("--brokers", arguments.brokers.as_deref(), faults);
    let input = input::check(arguments, consent, faults);
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
    let serve = arguments.serve.check(faults);
    let log = arguments.log.check(faults);
    Some(GroupConfig {
        kafka: KafkaOptions {
            brokers: brokers?,
            options,
        },
        input: input?,
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
        serve: serve?,
        log: log?,
    })
}

fn check_queue_bytes(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    if bytes < MIN_QUEUE_BYTES {
        return Err("must be at least 1MiB".to_owned());
    }
    usize::try_from(bytes).map_err(|_| "is more than this machine can address".to_owned())
}

#[cfg(test)]
mod tests {
    use oplog_relay_runtime::config::Start;

    use super::*;
    use crate::config::arguments::{Arguments, Command};
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
    fn all_faults_are_reported_at_once() {
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
            "--shard-collections",
            "shop.orders",
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
            "--shard-collections",
        ];
        for place in places {
            assert!(text.contains(place), "{place} in {text}");
        }
    }

    #[test]
    fn the_required_flags_are_sufficient() {
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
    fn the_flags_for_topics_of_another_program_are_checked() {
        let common = ["--brokers=k:9092", "--group=g", "--target=mongodb://t/"];
        let check = |flags: &[&str]| replay(&[&common, flags].concat());
        let fits = ["--input=debezium", "--topics=a,b.*", "--allow-unordered"];
        let input = check(&fits).unwrap().group.input;
        let foreign = input.foreign().unwrap();
        assert_eq!(foreign.topics.text(), "a,b.*");
        assert!(foreign.accepts_any_order && !foreign.accepts_lossy);
        assert!(foreign.rules(1).writer.name() == "debezium" && !foreign.rules(3).checks_keys);
        let input = check(&["--input=debezium", "--topics=a"])
            .unwrap()
            .group
            .input;
        let foreign = input.foreign().unwrap();
        assert!(foreign.rules(3).checks_keys && !foreign.rules(1).checks_keys);
        for (flags, faults) in [
            (&["--input=kafka"][..], &["--input", "--topics"][..]),
            (&["--input=debezium"], &["--topics"]),
            (&["--input=debezium", "--topics=__a"], &["--topics"]),
            (
                &["--input=debezium", "--topics=a", "--topic-prefix=cdc"],
                &["--topic-prefix"],
            ),
            (&["--topics=a", "--topic-prefix=cdc"], &["--topics"]),
            (
                &["--topic-prefix=cdc", "--allow-unordered"],
                &["--allow-unordered"],
            ),
        ] {
            let text = check(flags).unwrap_err().to_string();
            for fault in faults {
                assert!(text.contains(&format!("{fault}:")), "{flags:?}: {text}");
            }
        }
    }

    #[test]
    fn help_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
