//! Checked settings of each command. The check of a command's arguments reports all faults at once.
//!
//! # Modules
//!
//! - `arguments` defines the commands and flags
//! - `sources` splits the values of `--source`, of which each has a configuration of its own
//! - `source_mode` checks the way in which a live source is read
//! - `instances` checks the flags of several instances that share their sources
//! - `format` checks the flags that describe the format of record values
//! - `lookup` checks the flags that select the documents to look up
//! - `position_arguments` defines the commands and flags of `position`, `position` checks them,
//!   and `position_values` has the values of the flags
//! - `registry` checks the flags of the schema registry

pub mod arguments;
mod format;
mod instances;
mod lookup;
pub mod position;
pub mod position_arguments;
mod position_values;
mod registry;
mod source_mode;
mod sources;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::Format;
use oplog_relay_core::state::{OrderRule, RequestRecord, STATE_VERSION};
use oplog_relay_core::topic::{check_prefix, check_source_name};
use oplog_relay_runtime::config::{
    ConfigError, Faults, Secret, Start, parse_bytes, parse_start, resolve_secret,
};
use oplog_relay_runtime::http::ServeOptions;
use oplog_relay_runtime::kafka::{
    KafkaOption, KafkaOptions, OwnedOption, PRODUCER_OWNED, TopicSetting, parse_options,
};
use oplog_relay_runtime::telemetry::LogOptions;

use crate::config::arguments::{
    FullSyncArguments, InspectArguments, KafkaArguments, RunArguments, StreamArguments,
};
pub use crate::config::instances::InstancesConfig;
use crate::config::instances::check_instances;
pub use crate::config::lookup::Lookups;
use crate::config::registry::check_registry;
pub use crate::config::source_mode::WantedMode;
use crate::config::source_mode::{check_copy, check_source_mode};
use crate::config::sources::{check_each, given_sources};
use crate::encode::router_headers::RouterHeaders;
use crate::prepare::topics::parse_topic_setting;
use crate::publish::{Oversize, TRANSACTION_TIMEOUT_OPTION};
use crate::registry::RegistryConfig;
use crate::source::full_sync::parse_filter;

/// The source of entries.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A live replica set or sharded cluster, by its connection string.
    Live(Secret),
    /// A dump: a path, or `-` for standard input.
    Dump(String),
}

/// The part of the configuration that determines the records.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// The source of entries.
    pub origin: Origin,
    /// The way in which a live source is read.
    pub mode: WantedMode,
    /// Name of the source, if it is given with `--source-name` or `--source NAME=URI`.
    pub source_name: Option<String>,
    /// First part of topic names.
    pub topic_prefix: String,
    /// Format of record values.
    pub format: Format,
    /// The documents that are looked up on the source.
    pub lookups: Lookups,
    /// Headers for routers.
    pub headers: RouterHeaders,
    /// Number of partitions of new topics.
    pub partitions: u32,
    /// Rule by which collections are spread over partitions.
    pub order: OrderRule,
    /// Start of the stream if no position is saved.
    pub start: Option<Start>,
    /// Filter of the namespaces to read.
    pub filter: NamespaceFilter,
}

/// The configuration of `run`.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The sources, at least one.
    pub sources: Vec<SourceConfig>,
    /// The group of instances that share the sources, if there is one.
    pub instances: Option<InstancesConfig>,
    /// The schema registry, if the format has schemas.
    pub registry: Option<RegistryConfig>,
    /// The HTTP address, and the time without progress after which a stall is reported.
    pub serve: ServeOptions,
    /// Settings of the log.
    pub log: LogOptions,
}

/// The configuration of one source of `run`.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Settings that determine the records.
    pub stream: StreamConfig,
    /// Connection settings of Kafka.
    pub kafka: KafkaOptions,
    /// Replication factor of new topics; -1 for the broker's default.
    pub replication_factor: i32,
    /// Settings of the data topics that the program creates.
    pub topic_config: Vec<TopicSetting>,
    /// Handling of records that are too large for their topic.
    pub oversize: Oversize,
    /// True if the saved order and format may be changed.
    pub change_routing: bool,
    /// True if the filter may select more namespaces than the saved one.
    pub change_namespaces: bool,
    /// True if the program stops when it has caught up.
    pub until_caught_up: bool,
    /// Settings of full syncs.
    pub full_sync: FullSyncConfig,
}

/// The action if no position is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Copy the existing documents, then stop.
    Full,
    /// Only follow the oplog.
    Tail,
    /// Copy the existing documents, then follow the oplog.
    FullThenTail,
}

/// The part of the configuration that concerns full syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullSyncConfig {
    /// The value of `--sync`.
    pub sync: Option<Sync>,
    /// Number of concurrent reads.
    pub readers: usize,
    /// Maximum number of bytes read per second; `None` for no limit.
    pub rate: Option<u64>,
}

/// The configuration of `full-sync`.
#[derive(Debug, Clone)]
pub struct RequestConfig {
    /// Connection settings of Kafka.
    pub kafka: KafkaOptions,
    /// First part of topic names.
    pub topic_prefix: String,
    /// Name of the source.
    pub source_name: String,
    /// The request to write to the state topic.
    pub request: RequestRecord,
    /// Settings of the log.
    pub log: LogOptions,
}

/// The configuration of `inspect`.
#[derive(Debug, Clone)]
pub struct InspectConfig {
    /// Settings that determine the records.
    pub stream: StreamConfig,
    /// Maximum number of records; `None` for no limit.
    pub limit: Option<u64>,
    /// Settings of the log.
    pub log: LogOptions,
}

/// Options of the Kafka client that this program sets itself, besides those that every producer sets.
const OWNED: &[OwnedOption] = &[
    OwnedOption::new(
        "queue.buffering.max.kbytes",
        "it bounds memory and must hold the largest record",
    ),
    OwnedOption::new(
        "delivery.report.only.error",
        "the program expects reports of failed deliveries only",
    ),
];

impl RunConfig {
    /// Checks the arguments of `run`.
    ///
    /// # Errors
    /// The error contains all faults.
    pub fn check(arguments: &RunArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let log = arguments.log.check(&mut faults);
        let serve = arguments.serve.check(&mut faults);
        let given = given_sources(&arguments.stream, &mut faults);
        let sources = check_each(&given, &mut faults, |source, faults| {
            SourceConfig::check(&source.apply(arguments), faults)
        });
        // The check of each source reports the faults of the format.
        let format = format::check_format(&arguments.stream, &mut Faults::new());
        let registry = check_registry(
            &arguments.registry,
            format,
            arguments.change_routing,
            &mut faults,
        );
        let instances = check_instances(arguments, &sources, &mut faults);
        faults.finish()?;
        // A check without a result has added a fault, so `finish` has already returned an error.
        let (Some(log), Some(serve)) = (log, serve) else {
            return Err(ConfigError::Faults(Vec::new()));
        };
        Ok(Self {
            sources,
            instances,
            registry,
            serve,
            log,
        })
    }
}

impl SourceConfig {
    /// Checks the arguments of `run` with one source.
    fn check(arguments: &RunArguments, faults: &mut Faults) -> Option<Self> {
        let stream = check_stream(&arguments.stream, true, faults);
        let brokers = required("--brokers", arguments.brokers.as_deref(), faults);
        let options = parse_options(&arguments.kafka_option, &[PRODUCER_OWNED, OWNED], faults);
        check_transaction_timeout(&options, faults);
        let replication_factor = faults.take_or(
            "--replication-factor",
            parse_replication_factor(&arguments.replication_factor),
        );
        let topic_config = check_topic_config(&arguments.topic_config, faults);
        let oversize = check_oversize(arguments, faults);
        let full_sync = check_full_sync(arguments, stream.as_ref(), faults);
        Some(Self {
            stream: stream?,
            kafka: KafkaOptions {
                brokers: brokers?,
                options,
            },
            replication_factor: replication_factor?,
            full_sync: full_sync?,
            topic_config,
            oversize: oversize?,
            change_routing: arguments.change_routing,
            change_namespaces: arguments.change_namespaces,
            until_caught_up: arguments.until_caught_up,
        })
    }
}

impl RequestConfig {
    /// Checks the arguments of `full-sync`.
    ///
    /// # Errors
    /// The error contains all faults.
    pub fn check(arguments: &FullSyncArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let kafka = check_kafka(&arguments.kafka, &mut faults);
        let topic_prefix = required_prefix(arguments.topic_prefix.as_deref(), &mut faults);
        let source_name = required_name(arguments.source_name.as_deref(), &mut faults);
        if arguments.namespaces.is_empty() {
            faults.add("--namespaces", "is required; * means all");
        }
        let patterns = arguments.namespaces.iter().map(String::as_str);
        faults.take_or("--namespaces", NamespaceFilter::new(patterns, []));
        let filter = arguments.filter.as_deref().map(parse_filter).transpose();
        faults.take_or("--filter", filter);
        faults.finish()?;
        // A check without a result has added a fault, so `finish` has already returned an error.
        let none = || ConfigError::Faults(Vec::new());
        let (kafka, log) = kafka.ok_or_else(none)?;
        Ok(Self {
            kafka,
            topic_prefix: topic_prefix.ok_or_else(none)?,
            source_name: source_name.ok_or_else(none)?,
            request: RequestRecord {
                v: STATE_VERSION,
                namespaces: arguments.namespaces.clone(),
                filter: arguments.filter.clone(),
            },
            log,
        })
    }
}

impl InspectConfig {
    /// Checks the arguments of `inspect`.
    ///
    /// # Errors
    /// The error contains all faults.
    pub fn check(arguments: &InspectArguments) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let given = given_sources(&arguments.stream, &mut faults);
        if given.len() > 1 {
            faults.add("--source", "inspect reads one source");
        }
        let stream = check_each(
            given.get(..1).unwrap_or_default(),
            &mut faults,
            |source, faults| {
                check_stream(&source.apply_to_stream(&arguments.stream), false, faults)
            },
        );
        let stream = stream.into_iter().next();
        let log = arguments.log.check(&mut faults);
        faults.finish()?;
        match (stream, log) {
            (Some(stream), Some(log)) => Ok(Self {
                stream,
                limit: arguments.limit,
                log,
            }),
            _ => Err(ConfigError::Faults(Vec::new())),
        }
    }
}

/// Checks the settings of Kafka and of the log.
fn check_kafka(given: &KafkaArguments, faults: &mut Faults) -> Option<(KafkaOptions, LogOptions)> {
    let log = given.log.check(faults);
    let brokers = required("--brokers", given.brokers.as_deref(), faults);
    let options = parse_options(&given.kafka_option, &[PRODUCER_OWNED, OWNED], faults);
    let brokers = brokers?;
    Some((KafkaOptions { brokers, options }, log?))
}

/// The fault of a flag that is missing.
const IS_REQUIRED: &str = "is required";

fn required(flag: &str, value: Option<&str>, faults: &mut Faults) -> Option<String> {
    match value.map(str::trim) {
        Some(value) if !value.is_empty() => Some(value.to_owned()),
        _ => {
            faults.add(flag, IS_REQUIRED);
            None
        }
    }
}

fn required_prefix(given: Option<&str>, faults: &mut Faults) -> Option<String> {
    let prefix = required("--topic-prefix", given, faults)?;
    faults.take_or("--topic-prefix", check_prefix(&prefix).map(|()| prefix))
}

fn required_name(given: Option<&str>, faults: &mut Faults) -> Option<String> {
    let name = required("--source-name", given, faults)?;
    faults.take_or("--source-name", check_source_name(&name).map(|()| name))
}

fn check_full_sync(
    arguments: &RunArguments,
    stream: Option<&StreamConfig>,
    faults: &mut Faults,
) -> Option<FullSyncConfig> {
    let sync = match arguments.sync.as_deref() {
        None => Ok(None),
        Some("full") => Ok(Some(Sync::Full)),
        Some("tail") => Ok(Some(Sync::Tail)),
        Some("full-then-tail") => Ok(Some(Sync::FullThenTail)),
        Some(_) => Err("must be full, tail or full-then-tail"),
    };
    let sync = faults.take_or("--sync", sync)?;
    let copies = matches!(sync, Some(Sync::Full | Sync::FullThenTail));
    if copies && arguments.stream.start.is_some() {
        faults.add(
            "--sync",
            "a full sync starts at the current position of the source: omit --start",
        );
    }
    check_copy(copies, stream, faults);
    if copies && stream.is_some_and(|stream| matches!(stream.origin, Origin::Dump(_))) {
        faults.add("--sync", "a dump of an oplog holds no documents to copy");
    }
    let readers = faults.take_or(
        "--full-sync-readers",
        match arguments.full_sync_readers.parse() {
            Ok(readers @ 1..=64) => Ok(readers),
            _ => Err("must be a number from 1 to 64"),
        },
    )?;
    let rate = arguments.full_sync_rate.as_deref().map(parse_bytes);
    let rate = faults.take_or("--full-sync-rate", rate.transpose())?;
    Some(FullSyncConfig {
        sync,
        readers,
        rate,
    })
}

/// Refuses timeouts that leave no time for a commit, and those above the default limit of a broker
/// (transaction.max.timeout.ms).
fn check_transaction_timeout(options: &[KafkaOption], faults: &mut Faults) {
    for KafkaOption { name, value } in options {
        let is_fit = value
            .parse()
            .is_ok_and(|millis: u32| (5_000..=900_000).contains(&millis));
        if name == TRANSACTION_TIMEOUT_OPTION && !is_fit {
            faults.add(
                format!("--kafka-option {name}"),
                "must be from 5000 to 900000 (15 minutes)",
            );
        }
    }
}

fn parse_replication_factor(text: &str) -> Result<i32, &'static str> {
    match text.parse() {
        Ok(factor) if factor == -1 || factor > 0 => Ok(factor),
        _ => Err("must be -1 (the broker's default) or a positive number"),
    }
}

fn check_topic_config(given: &[String], faults: &mut Faults) -> Vec<TopicSetting> {
    let given = given.iter();
    given
        .filter_map(|setting| faults.take_or("--topic-config", parse_topic_setting(setting)))
        .collect()
}

/// Refuses `--oversize split` with JSON and Avro: other programs could not join the fragments.
fn check_oversize(arguments: &RunArguments, faults: &mut Faults) -> Option<Oversize> {
    let oversize = match arguments.oversize.as_str() {
        "stop" => Ok(Oversize::Stop),
        "split" if matches!(arguments.stream.format.as_str(), "json" | "avro") => {
            Err("split needs --format raw or bson; give stop, and raise max.message.bytes")
        }
        "split" => Ok(Oversize::Split),
        _ => Err("must be stop or split"),
    };
    faults.take_or("--oversize", oversize)
}

/// Checks the flags of a stream. `inspect` writes to no topics, so its prefix is optional.
fn check_stream(
    arguments: &StreamArguments,
    needs_prefix: bool,
    faults: &mut Faults,
) -> Option<StreamConfig> {
    let source = arguments.source.first().map(String::as_str);
    let source = required("--source", source, faults);
    let origin = source.and_then(|source| check_origin(&source, faults));
    let topic_prefix = match arguments.topic_prefix.as_deref() {
        None if !needs_prefix => Some("oplog".to_owned()),
        prefix => required_prefix(prefix, faults),
    };
    let source_name = check_name(arguments.source_name.as_deref(), origin.as_ref(), faults);
    let format = format::check_format(arguments, faults);
    let lookups = lookup::check_lookup(arguments, format, origin.as_ref(), faults);
    let headers = format::check_headers(arguments, faults);
    let partitions = faults.take_or(
        "--partitions",
        match arguments.partitions.parse() {
            Ok(partitions @ 1..=10_000) => Ok(partitions),
            _ => Err("must be a number from 1 to 10000"),
        },
    );
    let order = faults.take_or("--order", arguments.order.parse());
    let order = order
        .zip(format)
        .and_then(|(order, format)| format::check_order(order, format, faults));
    let start = check_start(arguments.start.as_deref(), origin.as_ref(), faults);
    let mode = check_source_mode(arguments, origin.as_ref(), start, faults);
    let filter = check_filter(arguments, faults);
    Some(StreamConfig {
        origin: origin?,
        mode: mode?,
        source_name,
        topic_prefix: topic_prefix?,
        format: format?,
        lookups: lookups?,
        headers: headers?,
        partitions: partitions?,
        order: order?,
        start,
        filter: filter?,
    })
}

fn check_filter(arguments: &StreamArguments, faults: &mut Faults) -> Option<NamespaceFilter> {
    let include = arguments.include_namespaces.iter().map(String::as_str);
    let exclude = arguments.exclude_namespaces.iter().map(String::as_str);
    // Each flag is checked alone first, so that a fault names the flag that has it.
    let included = NamespaceFilter::new(include.clone(), []);
    let included = faults.take_or("--include-namespaces", included);
    let excluded = NamespaceFilter::new([], exclude.clone());
    let excluded = faults.take_or("--exclude-namespaces", excluded);
    included.and(excluded)?;
    NamespaceFilter::new(include, exclude).ok()
}

/// Returns true if an address is a MongoDB connection string.
fn is_connection_string(address: &str) -> bool {
    address.starts_with("mongodb://") || address.starts_with("mongodb+srv://")
}

fn check_origin(source: &str, faults: &mut Faults) -> Option<Origin> {
    let secret = faults.take_or("--source", resolve_secret(source))?;
    let uri = secret.expose();
    if is_connection_string(uri) {
        return Some(Origin::Live(secret));
    }
    if source != "-" && !std::path::Path::new(source).exists() {
        faults.add(
            "--source",
            "is neither a mongodb:// connection string nor an existing file or folder",
        );
        return None;
    }
    Some(Origin::Dump(source.to_owned()))
}

fn check_name(name: Option<&str>, origin: Option<&Origin>, faults: &mut Faults) -> Option<String> {
    match (name, origin) {
        (None, Some(Origin::Dump(_))) => {
            faults.add(
                "--source-name",
                "is required for a dump, which does not contain the name of its source",
            );
            None
        }
        (None, _) => None,
        (Some(name), _) => faults.take_or(
            "--source-name",
            check_source_name(name).map(|()| name.to_owned()),
        ),
    }
}

fn check_start(start: Option<&str>, origin: Option<&Origin>, faults: &mut Faults) -> Option<Start> {
    let start = faults.take_or("--start", start.map(parse_start).transpose())??;
    if start == Start::Now && matches!(origin, Some(Origin::Dump(_))) {
        faults.add(
            "--start",
            "now cannot be used with a dump; oldest reads all of it",
        );
        return None;
    }
    Some(start)
}

#[cfg(test)]
mod tests;
