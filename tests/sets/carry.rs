//! A golden set on its way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document};
use oplog_relay_tests::model::{Model, ModelServer, Scenario};
use oplog_relay_tests::services::{Kafka, Program};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(300);
/// What the target of a replay must not do by itself; and the version of an index, which is each
/// server's own.
const WITHHELD: [&str; 2] = ["expireAfterSeconds", "v"];
/// Where a replay notes which commands ran.
const CATALOG: &str = "oplog_relay";

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
    kafka: Arc<Kafka>,
    folder: TempDir,
}

impl Carried {
    /// Carries a set into Kafka.
    pub(crate) fn new(name: &str) -> Result<Carried> {
        Carried::except(name, None)
    }

    /// The same with one collection left out, or compared without the order of its fields.
    pub(crate) fn except(name: &str, except: Option<Except>) -> Result<Carried> {
        let scenario = Scenario::new(name);
        let scenario = except.map_or(scenario.clone(), |except| scenario.without(except.ns()));
        let carried = Carried {
            name: name.to_owned(),
            scenario,
            except,
            kafka: Kafka::shared()?,
            folder: tempfile::tempdir()?,
        };
        let path = carried.folder.path().join("oplog.bson");
        std::fs::write(&path, carried.scenario.oplog()?)?;
        let path = path.to_str().context("a path in text")?;
        let mut producer = Program::producer([
            "run",
            "--http=off",
            "--start=oldest",
            "--partitions=8",
            "--source-name=golden",
            "--source",
            path,
            "--brokers",
            &carried.kafka.brokers(),
            "--topic-prefix",
            name,
        ])?;
        let code = producer.wait(LIMIT)?;
        ensure!(code == 0, "{name}: {}", producer.stderr_text()?);
        Ok(carried)
    }

    /// Replays it with so many processes at once, each time by a new group into a new target.
    pub(crate) fn expect_with(&self, processes: &[usize]) -> Result<()> {
        self.expect_from(&Model::default(), processes)
    }

    /// The same into a target that holds something already.
    pub(crate) fn expect_from(&self, model: &Model, processes: &[usize]) -> Result<()> {
        for count in processes {
            let target = ModelServer::start(model.clone())?;
            let group = format!("{}-{count}", self.name);
            self.replay(&target, &group, *count)?;
            self.expect(&target)
                .with_context(|| format!("{} by {count}", self.name))?;
        }
        Ok(())
    }

    /// Replays to the end of the topics.
    pub(crate) fn replay(&self, target: &ModelServer, group: &str, processes: usize) -> Result<()> {
        let start = |_| self.start(target, group, &["--until-caught-up"]);
        let programs: Result<Vec<Program>> = (0..processes).map(start).collect();
        for mut program in programs? {
            let code = program.wait(LIMIT)?;
            ensure!(
                code == 0,
                "{group} ended with {code}: {}",
                program.stderr_text()?
            );
        }
        Ok(())
    }

    pub(crate) fn start(
        &self,
        target: &ModelServer,
        group: &str,
        more: &[&str],
    ) -> Result<Program> {
        let flags = [
            format!("--brokers={}", self.kafka.brokers()),
            format!("--topic-prefix={}", self.name),
            format!("--group={group}"),
            format!("--target={}", target.uri()),
        ];
        let left_out = match self.except {
            Some(Except::LeftOut(ns)) => Some(format!("--exclude-namespaces={ns}")),
            Some(Except::Loose(_)) | None => None,
        };
        let flags = flags.iter().chain(&left_out).map(String::as_str);
        let common = ["replay", "--http=off"];
        Program::consumer(common.into_iter().chain(flags).chain(more.iter().copied()))
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
            ensure!(
                unordered(&found)? == unordered(&expected.context(ns)?)?,
                "{ns} differs"
            );
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
        Ok(Document::from_reader(bytes.as_slice())?
            .into_iter()
            .collect())
    };
    documents.iter().map(read).collect()
}
