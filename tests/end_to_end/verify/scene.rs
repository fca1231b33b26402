//! Two fake mongods, and a comparison of them in this process.

use anyhow::{Result, bail};
use bson::{Document, doc};
use clap::Parser as _;
use mongodb::{Client, Database};
use oplog_consumer::config::VerifyConfig;
use oplog_consumer::config::arguments::{Arguments, Command};
use oplog_consumer::verify::{Verdict, verify};
use oplog_relay_kit::model::{Model, ModelServer, Version};
use oplog_relay_runtime::shutdown::Shutdown;
use serde_json::Value;
use tempfile::TempDir;

/// A source and a target.
pub(crate) struct Scene {
    pub(crate) source: ModelServer,
    pub(crate) target: ModelServer,
    folder: TempDir,
}

/// The result of a comparison.
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// The lines of its report.
    pub(crate) lines: Vec<Value>,
}

impl Scene {
    pub(crate) fn new() -> Result<Scene> {
        let server = || ModelServer::start(Model::of(Version::V7_0));
        Ok(Scene {
            source: server()?,
            target: server()?,
            folder: tempfile::tempdir()?,
        })
    }

    /// Returns the database `app` of both.
    pub(crate) async fn both(&self) -> Result<[Database; 2]> {
        let source = Client::with_uri_str(self.source.uri()).await?;
        let target = Client::with_uri_str(self.target.uri()).await?;
        Ok([source.database("app"), target.database("app")])
    }

    /// Runs a command on both.
    pub(crate) async fn run(&self, command: Document) -> Result<()> {
        for database in self.both().await? {
            database.run_command(command.clone()).await?;
        }
        Ok(())
    }

    pub(crate) async fn verify(&self, more: &[&str]) -> Result<Outcome> {
        let report = self.folder.path().join("report.jsonl");
        let flags = [
            "oplog-consumer".to_owned(),
            "verify".to_owned(),
            format!("--source={}", self.source.uri()),
            format!("--target={}", self.target.uri()),
            format!("--report={}", report.display()),
        ];
        let words = flags.iter().map(String::as_str).chain(more.iter().copied());
        let Command::Verify(arguments) = Arguments::try_parse_from(words)?.command else {
            bail!("another command");
        };
        let config = VerifyConfig::check(&arguments)?;
        let verdict = Box::pin(verify(&config, &Shutdown::manual())).await?;
        let lines = std::fs::read_to_string(report)?;
        let lines = lines.lines().map(serde_json::from_str);
        Ok(Outcome {
            verdict,
            lines: lines.collect::<Result<_, _>>()?,
        })
    }
}

impl Outcome {
    /// Returns the lines of a kind.
    pub(crate) fn of(&self, kind: &str) -> Vec<&Value> {
        let lines = self.lines.iter();
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// Returns the `_id`s in the lines of a kind, as text.
    pub(crate) fn ids(&self, kind: &str) -> Vec<String> {
        let mut ids: Vec<String> = self
            .of(kind)
            .iter()
            .map(|line| line["_id"].to_string())
            .collect();
        ids.sort();
        ids
    }
}

/// Returns documents `{_id: n, text, part: {a: n}}`.
pub(crate) fn numbered(count: i32) -> impl Iterator<Item = Document> {
    (0..count).map(|n| doc! { "_id": n, "text": format!("text {n}"), "part": { "a": n } })
}
