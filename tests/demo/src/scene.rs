//! The servers of the demo, and the command lines of its programs.

use anyhow::Result;
use bson::doc;
use mongodb::Client;
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka, KafkaOptions, Port, Program};

use crate::tour::{DATABASE, GROUP, PREFIX};

/// The servers and the ports of the programs.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) kafka: Kafka,
    pub(crate) source: FerretDb,
    pub(crate) target: FerretDb,
    pub(crate) producer_port: Port,
    pub(crate) replay_port: Port,
    pub(crate) emit_port: Port,
}

impl Scene {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self {
            kafka: Kafka::start(&KafkaOptions::default())?,
            source: FerretDb::start(&FerretDbOptions::source())?,
            target: FerretDb::start(&FerretDbOptions::target())?,
            producer_port: Port::lease()?,
            replay_port: Port::lease()?,
            emit_port: Port::lease()?,
        })
    }

    fn produce(&self, more: &[String]) -> Result<Program> {
        let common = [
            "run".to_owned(),
            format!("--source={}", self.source.uri()),
            format!("--brokers={}", self.kafka.brokers()),
            format!("--topic-prefix={PREFIX}"),
            "--format=bson".to_owned(),
            "--start=oldest".to_owned(),
        ];
        Program::producer([&common, more].concat())
    }

    pub(crate) fn producer(&self) -> Result<Program> {
        self.produce(&[format!("--http=127.0.0.1:{}", self.producer_port.number())])
    }

    pub(crate) fn producer_until_caught_up(&self) -> Result<Program> {
        self.produce(&["--http=off".to_owned(), "--until-caught-up".to_owned()])
    }

    fn consume(&self, command: &str, group: &str, more: &[String]) -> Result<Program> {
        let common = [
            command.to_owned(),
            format!("--brokers={}", self.kafka.brokers()),
            format!("--topic-prefix={PREFIX}"),
            format!("--group={group}"),
        ];
        Program::consumer([&common, more].concat())
    }

    pub(crate) fn replay(&self, until_caught_up: bool) -> Result<Program> {
        let mut more = vec![
            format!("--target={}", self.target.uri()),
            format!("--http=127.0.0.1:{}", self.replay_port.number()),
            // SQLite, which stores the target's data, takes one writer at a time.
            "--lanes=1".to_owned(),
        ];
        if until_caught_up {
            more.push("--until-caught-up".to_owned());
        }
        self.consume("replay", GROUP, &more)
    }

    pub(crate) fn emit(&self) -> Result<Program> {
        let http = format!("--http=127.0.0.1:{}", self.emit_port.number());
        self.consume("emit", "demo-emit", &["--to=stdout".to_owned(), http])
    }

    /// Starts `oplog-consumer verify`. It checks differences again after the replay has passed
    /// them.
    pub(crate) fn verify(&self) -> Result<Program> {
        let ends = [
            format!("--source={}", self.source.uri()),
            format!("--target={}", self.target.uri()),
        ];
        self.consume("verify", GROUP, &ends)
    }

    /// Returns true if Kafka's own tool shows no lag of either group in any partition.
    pub(crate) fn lag_is_zero(&self) -> bool {
        [GROUP, "demo-emit"].iter().all(|group| {
            let described = self
                .kafka
                .tool("kafka-consumer-groups", &["--describe", "--group", group]);
            let Ok(described) = described else {
                return false;
            };
            let text = String::from_utf8_lossy(&described.stdout).into_owned();
            let lags: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with(group))
                .filter_map(|line| line.split_whitespace().nth(5))
                .collect();
            !lags.is_empty() && lags.iter().all(|lag| *lag == "0")
        })
    }

    /// Returns the number of inserts, updates and deletes in the source's oplog.
    pub(crate) async fn source_entries(&self) -> Result<usize> {
        let client = Client::with_uri_str(self.source.uri()).await?;
        let oplog = client
            .database("local")
            .collection::<bson::Document>("oplog.rs");
        let mut count = 0;
        let mut cursor = oplog.find(doc! {}).await?;
        while cursor.advance().await? {
            let entry = cursor.current();
            let op = entry.get_str("op").unwrap_or_default();
            let ns = entry.get_str("ns").unwrap_or_default();
            if matches!(op, "i" | "u" | "d") && ns.starts_with(&format!("{DATABASE}.")) {
                count += 1;
            }
        }
        Ok(count)
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.kafka.stop()?;
        self.source.stop()?;
        self.target.stop()
    }
}
