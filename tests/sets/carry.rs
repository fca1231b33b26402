//! A golden set on its way.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oplog_relay_tests::model::{Model, ModelServer, Scenario};
use oplog_relay_tests::services::{Kafka, Program};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(300);
/// What the target of a replay must not do by itself.
const WITHHELD: [&str; 1] = ["expireAfterSeconds"];
/// Where a replay notes which commands ran.
const CATALOG: &str = "oplog_relay";

/// A set that is in Kafka.
pub(crate) struct Carried {
    name: String,
    scenario: Scenario,
    kafka: Arc<Kafka>,
    folder: TempDir,
}

impl Carried {
    /// Carries a set into Kafka.
    pub(crate) fn new(name: &str) -> Result<Carried> {
        let carried = Carried {
            name: name.to_owned(),
            scenario: Scenario::new(name),
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
        for count in processes {
            let target = ModelServer::start(Model::default())?;
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
        let flags = flags.iter().map(String::as_str);
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
        self.scenario.expect_collections(&collections, &WITHHELD)?;
        self.scenario.expect(&state)
    }
}
