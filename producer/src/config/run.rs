//! Checks the arguments of `run`.

use oplog_relay_runtime::config::{ConfigError, Faults, parse_bytes};
use oplog_relay_runtime::http::ServeOptions;
use oplog_relay_runtime::kafka::{KafkaOptions, PRODUCER_OWNED, TopicSetting, parse_options};
use oplog_relay_runtime::telemetry::LogOptions;

use crate::config::arguments::RunArguments;
use crate::config::format;
use crate::config::instances::{InstancesConfig, check_instances};
use crate::config::kafka::{
    OWNED, check_topic_config, check_transaction_timeout, parse_replication_factor,
};
use crate::config::registry::check_registry;
use crate::config::required::required;
use crate::config::source_mode::check_copy;
use crate::config::sources::{check_each, given_sources};
use crate::config::stream::{Origin, StreamConfig, check_stream};
use crate::publish::Oversize;
use crate::registry::RegistryConfig;

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
