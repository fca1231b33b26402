//! A recorded oplog that is sent to Kafka and replayed.

use anyhow::{Context, Result};
use jiff::Timestamp;
use oplog_relay_kit::model::{Agreement, Model, ModelServer, Scenario, Version};

use crate::topics::Topics;

/// Options and fields that may differ on the target: those that a replay must withhold, those that
/// concern only change streams of the source, and the version of an index, which each server
/// chooses.
const WITHHELD: [&str; 3] = ["expireAfterSeconds", "recordPreImages", "v"];
/// The database in which a replay records the commands that ran.
pub(crate) const CATALOG: &str = "oplog_relay";

/// The format in which an oplog is sent: one of the formats that preserve every type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    Bson,
    CanonicalJson,
}

impl Form {
    pub(crate) const ALL: [Form; 3] = [Form::Raw, Form::Bson, Form::CanonicalJson];

    const fn flags(self) -> &'static [&'static str] {
        match self {
            Form::Raw => &["--format=raw"],
            Form::Bson => &["--format=bson"],
            Form::CanonicalJson => &["--format=json", "--json=canonical"],
        }
    }
}

/// A recorded oplog whose entries are in Kafka.
pub(crate) struct Carried {
    scenario: Scenario,
    /// The content of the target before the replay.
    before: Model,
    /// The collection with updates that are not idempotent. It is not compared after a replay that
    /// begins in the middle.
    unrepeatable: Option<&'static str>,
    /// More flags for each replay.
    flags: &'static [&'static str],
    pub(crate) topics: Topics,
}

impl Carried {
    /// Sends an oplog of MongoDB 4.2 to Kafka, in BSON.
    pub(crate) fn new(name: &str, prefix: &str) -> Result<Carried> {
        Carried::recorded(Scenario::new(name), prefix, Form::Bson)
    }

    /// Sends an oplog to Kafka.
    pub(crate) fn recorded(scenario: Scenario, prefix: &str, form: Form) -> Result<Carried> {
        let topics = Topics::none(prefix)?;
        topics.produce(&scenario.oplog()?, form.flags())?;
        // Servers of different versions list different options of time-series collections.
        let before = match scenario.version() {
            Version::V5_0 => Model::of(Version::V5_0),
            _ => Model::default(),
        };
        Ok(Carried {
            scenario,
            before,
            unrepeatable: None,
            flags: &[],
            topics,
        })
    }

    /// Adds flags to each replay.
    pub(crate) const fn with(mut self, flags: &'static [&'static str]) -> Carried {
        self.flags = flags;
        self
    }

    /// Replays into targets that already have this content.
    pub(crate) fn over(mut self, before: Model) -> Carried {
        self.before = before;
        self
    }

    /// Excludes a collection from the comparison after a replay from the middle.
    pub(crate) const fn unrepeatable(mut self, ns: &'static str) -> Carried {
        self.unrepeatable = Some(ns);
        self
    }

    /// Replays the oplog into a new target.
    pub(crate) fn first(&self, processes: usize) -> Result<Replayed<'_>> {
        let replayed = Replayed {
            carried: self,
            target: ModelServer::start(self.before.clone())?,
            group: format!("{}-{processes}", self.topics.prefix()),
        };
        replayed.pass("first", processes, &self.scenario, Agreement::Bytes)?;
        Ok(replayed)
    }

    /// Replays to the end of the topics.
    pub(crate) fn replay(&self, target: &ModelServer, group: &str, processes: usize) -> Result<()> {
        self.topics
            .replay(target, group, processes, self.flags)
            .map(drop)
    }

    /// Checks that the target has the source's content.
    pub(crate) fn expect(&self, target: &ModelServer) -> Result<()> {
        expect(target, &self.scenario, Agreement::Bytes)
    }
}

fn expect(target: &ModelServer, scenario: &Scenario, agreement: Agreement) -> Result<()> {
    let model = target.model();
    let mut state = model.state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    let mut collections = model.collections();
    collections.remove(CATALOG);
    scenario.expect_collections(&collections, &WITHHELD)?;
    scenario.expect_as(&state, agreement)
}

/// An oplog that was replayed.
pub(crate) struct Replayed<'c> {
    carried: &'c Carried,
    target: ModelServer,
    group: String,
}

impl Replayed<'_> {
    /// Replays the oplog again from the start.
    pub(crate) fn rewound(&self, processes: usize, agreement: Agreement) -> Result<()> {
        self.reset(&["--to-earliest"])?;
        let scenario = &self.carried.scenario;
        self.pass("from its beginning", processes, scenario, agreement)
    }

    /// Replays the oplog again from the time of its middle entry.
    pub(crate) fn rewound_to_middle(&self, processes: usize, agreement: Agreement) -> Result<()> {
        let middle = Timestamp::from_millisecond(self.carried.scenario.middle()?)?;
        let middle = middle.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        self.reset(&["--to-datetime", &middle])?;
        let unrepeatable = self.carried.unrepeatable.into_iter();
        let scenario = self.carried.scenario.clone();
        let scenario = unrepeatable.fold(scenario, Scenario::without);
        self.pass("from its middle", processes, &scenario, agreement)
    }

    fn reset(&self, how: &[&str]) -> Result<()> {
        let how = [&["--all-topics"], how].concat();
        self.carried.topics.reset(&self.group, &how)
    }

    fn pass(
        &self,
        what: &str,
        processes: usize,
        expected: &Scenario,
        agreement: Agreement,
    ) -> Result<()> {
        self.carried.replay(&self.target, &self.group, processes)?;
        let outcome = expect(&self.target, expected, agreement);
        outcome.with_context(|| format!("{}, {what}, by {processes}", expected.name()))
    }
}
