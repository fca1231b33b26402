//! The cases that are compared with one another, with one number of partitions.

use anyhow::{Context, Result};

use super::case::{Case, Group, Place};
use super::measure::Measured;
use super::options::Options;
use super::sample::child;
use super::scene::Scene;
use super::table::Table;
use super::target;
use oplog_relay_kit::services::{FerretDb, FerretDbOptions};
use oplog_relay_kit::stub::{Contents, Flow, Recipe, Shape, StubProcess};

/// A run of the cases with one number of partitions.
#[derive(Debug)]
pub(super) struct Ratios<'b> {
    pub(super) scene: &'b Scene,
    pub(super) options: &'b Options,
    /// A source that serves inserts.
    pub(super) source: &'b StubProcess,
    pub(super) partitions: u32,
    pub(super) inputs: Vec<Input>,
}

/// A topic that consumers read.
#[derive(Debug, Clone)]
pub(super) struct Input {
    format: Case,
    shape: Shape,
    entries: u64,
    prefix: String,
    bytes: u64,
}

impl Ratios<'_> {
    /// Runs and compares the selected cases of a group; returns `None` if there are none.
    pub(super) fn table(&mut self, group: Group) -> Result<Option<Table>> {
        let cases = self.options.cases.iter().copied();
        let cases: Vec<Case> = cases.filter(|case| case.group() == group).collect();
        if cases.is_empty() {
            return Ok(None);
        }
        let ferretdb = match group {
            Group::Ferretdb => Some(FerretDb::start(&FerretDbOptions::target())?),
            _ => None,
        };
        let documents = match group {
            Group::FullSync => Some(self.documents()?),
            _ => None,
        };
        let source = documents.as_ref().unwrap_or(self.source);
        // Java compiles the code that it runs often. A first run keeps that cost out of the first
        // case.
        if matches!(group, Group::Produce | Group::FullSync) {
            eprintln!("warming up");
            let straight = match group {
                Group::FullSync => Case::RangesLoop,
                _ => Case::Loop,
            };
            self.produce(straight, "warm", source)?;
        }
        let mut table = Table::new(self.partitions);
        for round in 1..=self.options.rounds {
            for case in &cases {
                let measured = match (group, &ferretdb) {
                    (Group::Produce | Group::FullSync, _) => {
                        self.produce(*case, &round.to_string(), source)?
                    }
                    (_, Some(ferretdb)) => self.write_ferretdb(*case, round, ferretdb)?,
                    (_, None) => self.consume(*case, round)?,
                };
                eprintln!("round {round}: {} in {:.2?}", case.name(), measured.total);
                table.add(*case, measured);
            }
        }
        Ok(Some(table))
    }

    /// Removes the topics that were read.
    pub(super) fn close(self) -> Result<()> {
        self.inputs
            .iter()
            .try_for_each(|input| self.scene.remove(&input.prefix))
    }

    /// Returns a source with as many documents as there are entries.
    fn documents(&self) -> Result<StubProcess> {
        StubProcess::with_documents(Contents {
            documents: self.options.entries,
            large_every: 0,
        })
    }

    fn produce(&self, case: Case, round: &str, source: &StubProcess) -> Result<Measured> {
        let prefix = format!("{}-{}-{round}", case.name(), self.partitions);
        let (partitions, entries) = (self.partitions, self.options.entries);
        let place = self.scene.place(source, &prefix, partitions, entries);
        let measured = self.scene.run(case, &place, source.id())?;
        if case.writes() {
            self.scene.remove(&prefix)?;
        }
        Ok(measured)
    }

    fn reading(&mut self, case: Case, round: u32, entries: u64) -> Result<Place<'_>> {
        let input = self.input(case, entries)?;
        let Ratios { scene, source, .. } = *self;
        let mut place = scene.place(source, &input.prefix, self.partitions, entries);
        place.group = format!("{}-{}-{round}", case.name(), self.partitions);
        place.bytes = input.bytes;
        Ok(place)
    }

    fn consume(&mut self, case: Case, round: u32) -> Result<Measured> {
        let (scene, entries) = (self.scene, self.options.entries);
        let place = self.reading(case, round, entries)?;
        scene.run(case, &place, scene.target().id())
    }

    fn write_ferretdb(&mut self, case: Case, round: u32, ferretdb: &FerretDb) -> Result<Measured> {
        let (scene, entries) = (self.scene, self.options.ferretdb_entries);
        let uri = ferretdb.uri();
        target::clear(&uri)?;
        let server = child("ferretdb").context("FerretDB is not a child of this process")?;
        let place = Place {
            target: &uri,
            ..self.reading(case, round, entries)?
        };
        scene.run(case, &place, server)
    }

    /// Returns the topic that a case reads, or for a baseline that reads none, the topic of the
    /// cases that it is compared with. The topic is created when it is first needed.
    fn input(&mut self, case: Case, entries: u64) -> Result<Input> {
        let (format, shape) = (case.reads().unwrap_or(Case::Bson), case.shape());
        let is_it = |input: &&Input| {
            input.format == format && input.shape == shape && input.entries == entries
        };
        if let Some(input) = self.inputs.iter().find(is_it) {
            return Ok(input.clone());
        }
        let prefix = format!(
            "input-{}-{}-{entries}-{}",
            format.name(),
            shape.name(),
            self.partitions
        );
        eprintln!("creating {prefix}");
        let source = StubProcess::start(&Recipe::new(entries, shape), Flow::Past)?;
        let place = self.scene.place(&source, &prefix, self.partitions, entries);
        self.scene.run(format, &place, source.id())?;
        let input = Input {
            format,
            shape,
            entries,
            prefix,
            bytes: source.bytes(),
        };
        self.inputs.push(input.clone());
        Ok(input)
    }
}
