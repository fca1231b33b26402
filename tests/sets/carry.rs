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

/// A collection that is not compared byte for byte.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Except {
    /// It is not replayed.
    LeftOut(&'static str),
    /// The order of its fields does not count.
    Loose(&'static str),
}

impl Except {
    const fn ns(self) -> &'static str {
        match self {
            Except::LeftOut(ns) | Except::Loose(ns) => ns,
        }
    }
}

/// A set that is in Kafka.
pub(crate) struct Carried {
    name: String,
    scenario: Scenario,
    except: Option<Except>,
    pub(crate) topics: Topics,
}

impl Carried {
    /// Carries a set into Kafka, under a prefix of its own.
    pub(crate) fn new(name: &str, prefix: &str) -> Result<Carried> {
        Carried::except(name, prefix, None)
    }

    /// The same with one collection left out, or compared without the order of its fields.
    pub(crate) fn except(name: &str, prefix: &str, except: Option<Except>) -> Result<Carried> {
        let scenario = Scenario::new(name);
        let scenario = except.map_or(scenario.clone(), |except| scenario.without(except.ns()));
        let topics = Topics::carry(prefix, &scenario.oplog()?)?;
        let name = name.to_owned();
        Ok(Carried {
            name,
            scenario,
            except,
            topics,
        })
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
        let left_out = match self.except {
            Some(Except::LeftOut(ns)) => Some(format!("--exclude-namespaces={ns}")),
            Some(Except::Loose(_)) | None => None,
        };
        let more: Vec<&str> = left_out.iter().map(String::as_str).collect();
        self.topics
            .replay(target, group, processes, &more)
            .map(drop)
    }

    /// Fails unless the target holds what the source held.
    pub(crate) fn expect(&self, target: &ModelServer) -> Result<()> {
        let model = target.model();
        let mut state = model.state();
        state.retain(|ns, _| !ns.starts_with(CATALOG));
        let mut collections = model.collections();
        collections.remove(CATALOG);
        if let Some(Except::Loose(ns)) = self.except {
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
