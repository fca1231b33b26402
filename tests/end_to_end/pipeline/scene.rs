//! A dump that is sent to Kafka and replayed into a target of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka, Program};
use tempfile::TempDir;

use crate::pipeline::history::{History, State};

pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// The servers and topics of one test.
pub(crate) struct Scene {
    pub(crate) kafka: Arc<Kafka>,
    pub(crate) target: FerretDb,
    pub(crate) prefix: String,
    pub(crate) folder: TempDir,
}

impl Scene {
    pub(crate) fn new(prefix: &str) -> Result<Self> {
        Ok(Self {
            kafka: Kafka::shared()?,
            target: FerretDb::start(&FerretDbOptions::target())?,
            prefix: prefix.to_owned(),
            folder: tempfile::tempdir()?,
        })
    }

    /// Sends a history to Kafka.
    pub(crate) fn produce(&self, history: &History, more: &[&str]) -> Result<()> {
        let path = history.dump(self.folder.path())?;
        let source = path.to_str().context("the path is not UTF-8")?;
        let (brokers, common) = (
            self.kafka.brokers(),
            ["run", "--http=off", "--start=oldest"],
        );
        let flags = [
            format!("--source={source}"),
            format!("--brokers={brokers}"),
            format!("--topic-prefix={}", self.prefix),
            "--source-name=made".to_owned(),
        ];
        let flags = flags.iter().map(String::as_str);
        let mut program =
            Program::producer(common.into_iter().chain(flags).chain(more.iter().copied()))?;
        let code = program.wait(LIMIT)?;
        ensure!(code == 0, "{}", program.stderr_text()?);
        Ok(())
    }

    /// Starts `oplog-consumer`; `more` begins with the subcommand.
    pub(crate) fn consume(&self, group: &str, more: &[&str]) -> Result<Program> {
        let flags = [
            format!("--brokers={}", self.kafka.brokers()),
            format!("--topic-prefix={}", self.prefix),
            format!("--group={group}"),
        ];
        let flags = flags.iter().map(String::as_str);
        Program::consumer(more.iter().copied().chain(flags))
    }

    pub(crate) fn start_replay(&self, group: &str, more: &[&str]) -> Result<Program> {
        let target = format!("--target={}", self.target.uri());
        // SQLite, which stores the target's data, takes one writer at a time.
        let common = ["replay", "--http=off", "--lanes=1", target.as_str()];
        self.consume(group, &[&common, more].concat())
    }

    /// Replays to the end of the topics and returns the exit code with the text of standard error.
    pub(crate) fn replay(&self, group: &str, more: &[&str]) -> Result<(i32, String)> {
        let mut program = self.start_replay(group, &[more, &["--until-caught-up"]].concat())?;
        let code = program.wait(LIMIT)?;
        Ok((code, program.stderr_text()?))
    }

    pub(crate) fn replay_all(&self, group: &str) -> Result<()> {
        let (code, said) = self.replay(group, &[])?;
        ensure!(code == 0, "replay ended with {code}: {said}");
        Ok(())
    }

    /// Checks that each of these collections of the target has exactly these documents.
    pub(crate) async fn expect(&self, expected: &State) -> Result<()> {
        let client = Client::with_uri_str(self.target.uri()).await?;
        for (ns, documents) in expected {
            let (db, collection) = ns.split_once('.').context("no namespace")?;
            let collection = client.database(db).collection::<Document>(collection);
            let found: Vec<Document> = collection.find(doc! {}).await?.try_collect().await?;
            ensure!(
                found.len() == documents.len(),
                "{ns}: {} documents, not {}",
                found.len(),
                documents.len()
            );
            for document in found {
                let wanted = documents.get(&document["_id"].to_string());
                ensure!(
                    wanted == Some(&document),
                    "{ns}: {document} is not {wanted:?}"
                );
            }
        }
        Ok(())
    }

    /// Runs `kafka-consumer-groups`.
    pub(crate) fn groups(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kafka.tool("kafka-consumer-groups", arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns the lag of every partition of a group, as Kafka's own tool shows it.
    pub(crate) fn lags(&self, group: &str) -> Result<Vec<String>> {
        let described = self.groups(&["--describe", "--group", group])?;
        let lines = described.lines().filter(|line| line.starts_with(group));
        Ok(lines
            .filter_map(|line| line.split_whitespace().nth(5))
            .map(str::to_owned)
            .collect())
    }
}
