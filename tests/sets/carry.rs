//! A golden set on its way.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document};
use oplog_relay_tests::model::{Model, ModelServer, Scenario};

use crate::topics::Topics;

/// What the target of a replay must not do by itself; and the version of an index, which is each
/// server's own.
const WITHHELD: [&str; 2] = ["expireAfterSeconds", "v"];
/// Where a replay notes which commands ran.
pub(crate) const CATALOG: &str = "oplog_relay";

/// A set that is in Kafka.
pub(crate) struct Carried {
    name: String,
    scenario: Scenario,
    /// A collection of which the order of the fields does not count.
    loose: Option<&'static str>,
    /// Flags of each replay.
    flags: &'static [&'static str],
    pub(crate) topics: Topics,
}

impl Carried {
    /// Carries a set into Kafka, under a prefix of its own.
    pub(crate) fn new(name: &str, prefix: &str) -> Result<Carried> {
        let scenario = Scenario::new(name);
        let topics = Topics::carry(prefix, &scenario.oplog()?)?;
        let name = name.to_owned();
        Ok(Carried {
            name,
            scenario,
            loose: None,
            flags: &[],
            topics,
        })
    }

    /// Compares one collection without the order of its fields.
    pub(crate) fn loose(mut self, ns: &'static str) -> Carried {
        self.scenario = self.scenario.without(ns);
        self.loose = Some(ns);
        self
    }

    /// Replays with more flags.
    pub(crate) const fn with(mut self, flags: &'static [&'static str]) -> Carried {
        self.flags = flags;
        self
    }

    /// Replays it with so many processes at once, each time by a new group into a new target.
    pub(crate) fn expect_with(&self, processes: &[usize]) -> Result<()> {
        self.expect_from(&Model::default(), processes)
    }

    /// The same into a target that holds something already.
    pub(crate) fn expect_from(&self, model: &Model, processes: &[usize]) -> Result<()> {
        for count in processes {
            let target = ModelServer::start(model.clone())?;
            self.replay(&target, &format!("{}-{count}", self.name), *count)?;
            self.expect(&target)
                .with_context(|| format!("{} by {count}", self.name))?;
        }
        Ok(())
    }

    /// Replays to the end of the topics.
    pub(crate) fn replay(&self, target: &ModelServer, group: &str, processes: usize) -> Result<()> {
        self.topics
            .replay(target, group, processes, self.flags)
            .map(drop)
    }

    /// Fails unless the target holds what the source held.
    pub(crate) fn expect(&self, target: &ModelServer) -> Result<()> {
        let model = target.model();
        let mut state = model.state();
        state.retain(|ns, _| !ns.starts_with(CATALOG));
        let mut collections = model.collections();
        collections.remove(CATALOG);
        if let Some(ns) = self.loose {
            let found = state.remove(ns).context(ns)?;
            let expected = Scenario::new(&self.name).expected()?.remove(ns);
            let expected = unordered(&expected.context(ns)?)?;
            ensure!(unordered(&found)? == expected, "{ns} differs");
            let (db, name) = ns.split_once('.').context(ns)?;
            let all = collections.get_mut(db).context(ns)?;
            all.retain(|collection| collection.get_str("name").is_ok_and(|found| found != name));
        }
        self.scenario.expect_collections(&collections, &WITHHELD)?;
        self.scenario.expect(&state)
    }
}

/// Documents without the order of their fields of the first level.
fn unordered(documents: &[Vec<u8>]) -> Result<Vec<BTreeMap<String, Bson>>> {
    let read = |bytes: &Vec<u8>| {
        let document = Document::from_reader(bytes.as_slice())?;
        Ok(document.into_iter().collect())
    };
    documents.iter().map(read).collect()
}
