//! The flags `--high-availability` and `--takeover-after`.

use std::time::Duration;

use oplog_relay_core::topic::check_prefix;
use oplog_relay_runtime::config::{Faults, parse_duration};

use crate::config::arguments::RunArguments;
use crate::config::{Origin, SourceConfig, Sync};

const FLAG: &str = "--high-availability";
/// The brokers' default of `group.min.session.timeout.ms`.
const LEAST_TAKEOVER: Duration = Duration::from_secs(6);
/// The brokers' default of `group.max.session.timeout.ms`.
const MOST_TAKEOVER: Duration = Duration::from_secs(1800);

/// The group of the instances that share their sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancesConfig {
    /// The Kafka consumer group.
    pub group: String,
    /// Time without heartbeats after which an instance loses its sources.
    pub takeover_after: Duration,
}

/// Returns the group, or adds the faults of arguments with which instances cannot share sources.
pub(super) fn check_instances(
    arguments: &RunArguments,
    sources: &[SourceConfig],
    faults: &mut Faults,
) -> Option<InstancesConfig> {
    let takeover_after = parse_duration(&arguments.takeover_after).and_then(|given| {
        let is_possible = (LEAST_TAKEOVER..=MOST_TAKEOVER).contains(&given);
        is_possible
            .then_some(given)
            .ok_or_else(|| "must be from 6s to 30m".to_owned())
    });
    let takeover_after = faults.take_or("--takeover-after", takeover_after);
    if !arguments.high_availability {
        return None;
    }
    if arguments.until_caught_up || sources.iter().any(is_full_only) {
        faults.add(
            FLAG,
            "is for programs that run until they are stopped: omit --until-caught-up and --sync full",
        );
    }
    let is_dump = |source: &SourceConfig| matches!(source.stream.origin, Origin::Dump(_));
    if sources.iter().any(is_dump) {
        faults.add(
            FLAG,
            "needs live sources: another instance cannot read a dump",
        );
    }
    // An instance joins the group before it can ask the source for the name of its replica set.
    if sources
        .iter()
        .any(|source| source.stream.source_name.is_none())
    {
        faults.add(FLAG, "needs --source-name, or --source NAME=URI");
    }
    let prefix = arguments.stream.topic_prefix.as_deref().map(str::trim);
    let Some(prefix) = prefix else {
        faults.add(FLAG, "needs --topic-prefix, which names the group");
        return None;
    };
    // The check of each source reports an unfit prefix, unless all of them have their own.
    if !sources.is_empty() {
        faults.take_or("--topic-prefix", check_prefix(prefix))?;
    }
    Some(InstancesConfig {
        group: format!("__{prefix}.producers"),
        takeover_after: takeover_after?,
    })
}

fn is_full_only(source: &SourceConfig) -> bool {
    source.full_sync.sync == Some(Sync::Full)
}
