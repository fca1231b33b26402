//! The servers that all cases share: the broker, and a target that acknowledges at once.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::case::{Case, Group, Place};
use super::measure::{Measured, measure};
use super::{target, topic};
use oplog_relay_kit::services::{Kafka, KafkaOptions, wait_for};
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

/// The longest time that the broker may take to remove topics.
const LIMIT: Duration = Duration::from_secs(30);

/// The servers.
#[derive(Debug)]
pub(super) struct Scene {
    kafka: Kafka,
    brokers: String,
    target: StubProcess,
}

impl Scene {
    /// Starts the servers.
    pub(super) fn start() -> Result<Scene> {
        let kafka = Kafka::start(&KafkaOptions {
            heap_mb: 2048,
            for_speed: true,
            properties: vec![("log.segment.delete.delay.ms".into(), "0".into())],
            ..KafkaOptions::default()
        })?;
        Ok(Scene {
            brokers: kafka.brokers(),
            kafka,
            target: StubProcess::start(&Recipe::new(0, Shape::Inserts), Flow::Past)?,
        })
    }

    /// Returns the target that acknowledges at once.
    pub(super) const fn target(&self) -> &StubProcess {
        &self.target
    }

    /// Returns a place with this source and the shared target.
    pub(super) fn place<'p>(
        &'p self,
        source: &'p StubProcess,
        prefix: &str,
        partitions: u32,
        entries: u64,
    ) -> Place<'p> {
        Place {
            source: source.uri(),
            entries,
            bytes: source.bytes(),
            ..self.place_of(prefix, partitions)
        }
    }

    /// Returns a place with the shared target and no source.
    pub(super) fn place_of(&self, prefix: &str, partitions: u32) -> Place<'_> {
        Place {
            prefix: prefix.to_owned(),
            group: format!("{prefix}-group"),
            source: "",
            target: self.target.uri(),
            brokers: &self.brokers,
            partitions,
            collections: 1,
            entries: 0,
            bytes: 0,
        }
    }

    /// Runs a case, samples the MongoDB server that it uses, and checks that every entry arrived.
    pub(super) fn run(&self, case: Case, place: &Place<'_>, server: u32) -> Result<Measured> {
        if case.is_baseline() && case.writes() {
            topic::create(place)?;
        }
        let counted = case.group() == Group::Replay;
        let before = if counted {
            target::acknowledged(place.target)?
        } else {
            0
        };
        let measured = measure(case, place, server)?;
        if case.writes() {
            let found = topic::count_entries(place.brokers, &place.prefix)?;
            ensure!(
                found == place.entries,
                "{}: {found} of {} entries are in Kafka",
                case.name(),
                place.entries,
            );
        }
        if counted || case.group() == Group::Ferretdb {
            target::check(case, place, before)?;
        }
        Ok(measured)
    }

    /// Removes the topics of a prefix and waits until their logs are gone. Otherwise the broker
    /// would still be removing them during the next case.
    pub(super) fn remove(&self, prefix: &str) -> Result<()> {
        topic::remove(&self.brokers, prefix)?;
        wait_for("the logs of removed topics", LIMIT, || {
            Ok((!self.has_logs(prefix)?).then_some(()))
        })
    }

    fn has_logs(&self, prefix: &str) -> Result<bool> {
        let start = format!("{prefix}.");
        for entry in fs::read_dir(self.kafka.directory().join("data"))? {
            let name = entry?.file_name();
            let is_one = name
                .to_str()
                .map(|name| name.trim_start_matches('_').starts_with(&start));
            if is_one == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
