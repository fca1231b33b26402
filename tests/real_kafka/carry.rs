//! A golden set on its way.

use anyhow::{Context, Result};
use jiff::Timestamp;
use oplog_relay_kit::model::{Agreement, Model, ModelServer, Scenario, Version};

use crate::topics::Topics;

/// What the target of a replay must not do by itself; what is for change streams of the source
/// alone; and the version of an index, which is each server's own.
const WITHHELD: [&str; 3] = ["expireAfterSeconds", "recordPreImages", "v"];
/// Where a replay notes which commands ran.
pub(crate) const CATALOG: &str = "oplog_relay";

/// The format in which a set is carried: every one that is exact.
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

/// A set that is in Kafka.
pub(crate) struct Carried {
    scenario: Scenario,
    /// What the target holds before.
    before: Model,
    /// A collection with updates that are not the same when applied twice.
    unrepeatable: Option<&'static str>,
    /// Flags of each replay.
    flags: &'static [&'static str],
    pub(crate) topics: Topics,
}

impl Carried {
    /// Carries a set of MongoDB 4.2 into Kafka, under a prefix of its own.
    pub(crate) fn new(name: &str, prefix: &str) -> Result<Carried> {
        Carried::recorded(Scenario::new(name), prefix, Form::Bson)
    }

    /// Carries a set into Kafka, under a prefix of its own.
    pub(crate) fn recorded(scenario: Scenario, prefix: &str, form: Form) -> Result<Carried> {
        let topics = Topics::none(prefix)?;
        topics.produce(&scenario.oplog()?, form.flags())?;
        // What a later server shows of its time series differs.
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

    /// Replays with more flags.
    pub(crate) const fn with(mut self, flags: &'static [&'static str]) -> Carried {
        self.flags = flags;
        self
    }

    /// Replays over a target that holds something already.
    pub(crate) fn over(mut self, before: Model) -> Carried {
        self.before = before;
        self
    }

    /// Expects nothing of a collection when the set is replayed again from its middle.
    pub(crate) const fn unrepeatable(mut self, ns: &'static str) -> Carried {
        self.unrepeatable = Some(ns);
        self
    }

    /// Replays it into a new target.
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

    /// Fails unless the target holds what the source held.
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

/// A set that was replayed.
pub(crate) struct Replayed<'c> {
    carried: &'c Carried,
    target: ModelServer,
    group: String,
}

impl Replayed<'_> {
    /// Replays it again from the beginning.
    pub(crate) fn rewound(&self, processes: usize, agreement: Agreement) -> Result<()> {
        self.reset(&["--to-earliest"])?;
        let scenario = &self.carried.scenario;
        self.pass("from its beginning", processes, scenario, agreement)
    }

    /// Replays it again from the time of its middle entry.
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
