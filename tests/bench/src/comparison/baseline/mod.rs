//! The baseline cases, which use only the client libraries. Each case runs in a child process.
//!
//! | file | cases |
//! | --- | --- |
//! | `produce` | `cursor`, `producer`, `loop` |
//! | `ranges` | `ranges`, `ranges-loop` |
//! | `consume` | `consume` |
//! | `commands` | `commands-…` |

mod commands;
mod consume;
pub(super) mod produce;
mod ranges;

use anyhow::{Result, bail};

use super::case::{Case, Group};
use super::topic;
use produce::Sink;

/// The line on standard error that marks the end of the start: the connections are open. The
/// consumer prints it at its first record, because librdkafka does not report an earlier moment.
pub(super) const MARK: &str = "connected";

/// Runs a case. The arguments are its name, the MongoDB server, the brokers, the topic of the first
/// collection, the number of its partitions, the number of collections and the number of entries.
/// Each collection has its own topic.
pub(super) fn run(args: &[String]) -> Result<()> {
    let [
        name,
        server,
        brokers,
        topic,
        partitions,
        collections,
        entries,
    ] = args
    else {
        bail!("seven arguments expected");
    };
    let (partitions, entries) = (partitions.parse()?, entries.parse()?);
    let Some(case) = Case::from_name(name).filter(|case| case.is_baseline()) else {
        bail!("{name} is not a baseline case");
    };
    let sink = || Sink::open(brokers, topic, partitions);
    match (case, case.group()) {
        (Case::Cursor, _) => produce::read_only(server, entries),
        (Case::Producer, _) => produce::write_only(&sink()?, entries),
        (Case::Ranges, _) => ranges::read_only(server, entries),
        (Case::RangesLoop, _) => ranges::read_and_write(server, sink()?, entries),
        (Case::Consume, _) => {
            let topics = topic::all(topic, collections.parse()?);
            consume::run(brokers, topics, partitions, entries)
        }
        (_, Group::Replay | Group::Ferretdb) => commands::run(case, server, partitions, entries),
        (_, Group::Produce | Group::FullSync | Group::Emit) => {
            produce::read_and_write(server, &sink()?, entries)
        }
    }
}
