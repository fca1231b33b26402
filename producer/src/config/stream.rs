//! Checks the flags that determine the records.

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::Format;
use oplog_relay_core::state::OrderRule;
use oplog_relay_core::topic::check_source_name;
use oplog_relay_runtime::config::{Faults, Secret, Start, parse_start, resolve_secret};

use crate::config::arguments::StreamArguments;
use crate::config::format;
use crate::config::lookup::{self, Lookups};
use crate::config::required::{required, required_prefix};
use crate::config::source_mode::{WantedMode, check_source_mode};
use crate::encode::router_headers::RouterHeaders;

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

/// Checks the flags of a stream. `inspect` writes to no topics, so its prefix is optional.
pub(super) fn check_stream(
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
pub(super) fn is_connection_string(address: &str) -> bool {
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
