//! Checked settings of each command. The check of a command's arguments reports all faults at once.
//!
//! # Modules
//!
//! - `arguments` defines the commands and flags
//! - `run` checks the arguments of `run`, and `stream` the flags that determine the records, which
//!   `inspect` has too; `full-sync` and `inspect` are checked here
//! - `sources` splits the values of `--source`, of which each has a configuration of its own
//! - `source_mode` checks the way in which a live source is read
//! - `instances` checks the flags of several instances that share their sources
//! - `format` checks the flags that describe the format of record values
//! - `lookup` checks the flags that select the documents to look up
//! - `position_arguments` defines the commands and flags of `position`, `position` checks them,
//!   and `position_values` has the values of the flags
//! - `registry` checks the flags of the schema registry, `kafka` those of the connection to Kafka, and
//!   `required` the values that a command needs

pub mod arguments;
mod format;
mod instances;
mod kafka;
mod lookup;
pub mod position;
pub mod position_arguments;
mod position_values;
mod registry;
mod required;
mod run;
mod source_mode;
mod sources;
mod stream;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::state::{RequestRecord, STATE_VERSION};
use oplog_relay_runtime::config::{ConfigError, Faults};
use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::telemetry::LogOptions;

use crate::config::arguments::{FullSyncArguments, InspectArguments};
pub use crate::config::instances::InstancesConfig;
use crate::config::kafka::check_kafka;
pub use crate::config::lookup::Lookups;
use crate::config::required::{required_name, required_prefix};
pub use crate::config::run::{FullSyncConfig, RunConfig, SourceConfig, Sync};
pub use crate::config::source_mode::WantedMode;
use crate::config::sources::{check_each, given_sources};
use crate::config::stream::check_stream;
pub use crate::config::stream::{Origin, StreamConfig};
use crate::source::full_sync::parse_filter;

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

#[cfg(test)]
mod tests;
