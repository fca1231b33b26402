//! Both programs, between a source at an even rate and a target that measures times.

use anyhow::{Context, Result};
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::stub::{StubProcess, TimedInsert};

use super::STARTED_WITHIN;
use crate::comparison::case::{Case, Place};
use crate::comparison::sample::peak_kib;
use crate::comparison::scene::Scene;
use crate::comparison::{target, topic};

/// The programs and their servers.
pub(super) struct Pair<'s> {
    scene: &'s Scene,
    prefix: &'static str,
    partitions: u32,
    source: StubProcess,
    target: StubProcess,
    producer: Program,
    consumer: Program,
    leases: [Port; 2],
}

impl<'s> Pair<'s> {
    /// Creates the topic of the first collection, starts both programs, and waits until they run.
    pub(super) fn start(
        scene: &'s Scene,
        source: StubProcess,
        prefix: &'static str,
        partitions: u32,
    ) -> Result<Pair<'s>> {
        let target = StubProcess::timing()?;
        let place = Place {
            target: target.uri(),
            ..scene.place(&source, prefix, partitions, 0)
        };
        topic::create(&place)?;
        let leases = [Port::lease()?, Port::lease()?];
        let http = leases
            .each_ref()
            .map(|port| format!("--http=127.0.0.1:{}", port.number()));
        let producer = Case::Bson.start_producer(&place, &[&http[0]])?;
        let consumer = Case::ReplayInserts.start_consumer(&place, &[&http[1]])?;
        for (program, case) in [(&producer, Case::Bson), (&consumer, Case::ReplayInserts)] {
            wait_until("the programs", STARTED_WITHIN, || {
                let log = program.stderr_text();
                log.is_ok_and(|log| log.contains(case.mark()))
            })?;
        }
        Ok(Pair {
            scene,
            prefix,
            partitions,
            source,
            target,
            producer,
            consumer,
            leases,
        })
    }

    /// Returns the servers and topics of the programs.
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            target: self.target.uri(),
            ..self
                .scene
                .place(&self.source, self.prefix, self.partitions, 0)
        }
    }

    /// Returns the HTTP ports of the producer and the consumer.
    pub(super) fn ports(&self) -> [u16; 2] {
        self.leases.each_ref().map(Port::number)
    }

    /// Returns the producer's peak memory so far.
    pub(super) fn producer_peak_mib(&self) -> Result<f64> {
        let peak = peak_kib(self.producer.id()).context("the producer is gone")?;
        Ok(peak as f64 / 1024.0)
    }

    /// Returns the inserts into the target so far.
    pub(super) fn inserts(&self) -> Result<Vec<TimedInsert>> {
        target::timed_inserts(self.target.uri())
    }

    /// Stops both programs, removes their topics, and returns the inserts into the target.
    pub(super) fn stop(mut self) -> Result<Vec<TimedInsert>> {
        let inserts = self.inserts()?;
        for program in [&mut self.producer, &mut self.consumer] {
            program.terminate()?;
            program.wait(STARTED_WITHIN)?;
        }
        self.scene.remove(self.prefix)?;
        Ok(inserts)
    }
}
