//! What all cases share: the broker, and a target that acknowledges at once.

use anyhow::{Result, ensure};

use super::case::{Case, Group, Place};
use super::measure::{Measured, measure};
use super::{target, topic};
use crate::services::{Kafka, KafkaOptions};
use crate::stub::{Flow, Recipe, Shape, StubProcess};

/// The servers.
#[derive(Debug)]
pub(super) struct Scene {
    kafka: Kafka,
    brokers: String,
    target: StubProcess,
}

impl Scene {
    /// Starts them.
    pub(super) fn start() -> Result<Scene> {
        let kafka = Kafka::start(&KafkaOptions {
            heap_mb: 2048,
            for_speed: true,
            properties: vec![("log.segment.delete.delay.ms".into(), "1000".into())],
        })?;
        Ok(Scene {
            brokers: kafka.brokers(),
            kafka,
            target: StubProcess::start(&Recipe::new(0, Shape::Inserts), Flow::Past)?,
        })
    }

    /// The target that acknowledges at once.
    pub(super) const fn target(&self) -> &StubProcess {
        &self.target
    }

    /// A place with this target.
    pub(super) fn place<'p>(
        &'p self,
        source: &'p StubProcess,
        prefix: &str,
        partitions: u32,
        entries: u64,
    ) -> Place<'p> {
        Place {
            prefix: prefix.to_owned(),
            group: format!("{prefix}-group"),
            source: source.uri(),
            target: self.target.uri(),
            brokers: &self.brokers,
            partitions,
            entries,
            bytes: source.bytes(),
        }
    }

    /// Runs a case beside the process of the MongoDB that it uses, and looks whether every entry
    /// arrived.
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

    /// Removes the topics of a prefix.
    pub(super) fn remove(&self, prefix: &str) -> Result<()> {
        topic::remove(&self.kafka.brokers(), prefix)
    }
}
