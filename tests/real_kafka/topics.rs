//! The topics of one prefix, and the programs that write and read them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::model::ModelServer;
use oplog_relay_kit::services::{Kafka, Program};
use oplog_relay_kit::topic_reader::{TopicRecord, read_undecoded};

/// A limit above the duration of every step, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// The topics of one prefix.
pub(crate) struct Topics {
    kafka: Arc<Kafka>,
    prefix: String,
}

impl Topics {
    /// Sends a dump to topics of eight partitions.
    pub(crate) fn carry(prefix: &str, oplog: &[u8]) -> Result<Topics> {
        let topics = Topics::none(prefix)?;
        topics.produce(oplog, &[])?;
        Ok(topics)
    }

    /// Returns a prefix on the shared broker, without topics yet.
    pub(crate) fn none(prefix: &str) -> Result<Topics> {
        Ok(Topics::on(Kafka::shared()?, prefix))
    }

    /// Returns a prefix on another broker, without topics yet.
    pub(crate) fn on(kafka: Arc<Kafka>, prefix: &str) -> Topics {
        let prefix = prefix.to_owned();
        Topics { kafka, prefix }
    }

    /// Sends the part of a dump after the saved position.
    pub(crate) fn produce(&self, oplog: &[u8], more: &[&str]) -> Result<()> {
        self.produce_to_code(oplog, more, (0, ""))
    }

    /// Sends the part of a dump after the saved position, and checks the exit code and a text of
    /// the log.
    pub(crate) fn produce_to_code(
        &self,
        oplog: &[u8],
        more: &[&str],
        (code, part): (i32, &str),
    ) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut producer = self.start_producer(folder.path(), oplog, more)?;
        let ended = producer.wait(LIMIT)?;
        let log = producer.stderr_text()?;
        ensure!(
            ended == code && log.contains(part),
            "{} {more:?} ended with {ended}: {log}",
            self.prefix
        );
        Ok(())
    }

    /// Starts a producer of a live source.
    pub(crate) fn start_tail(&self, uri: &str, more: &[&str]) -> Result<Program> {
        let brokers = self.brokers();
        let common = [
            "run",
            "--source",
            uri,
            "--brokers",
            &brokers,
            "--topic-prefix",
            &self.prefix,
        ];
        Program::producer(common.iter().chain(more))
    }

    /// Starts a producer of a dump, which is written to this folder.
    pub(crate) fn start_producer(
        &self,
        folder: &Path,
        oplog: &[u8],
        more: &[&str],
    ) -> Result<Program> {
        self.start_producer_serving(folder, oplog, "--http=off", more)
    }

    /// Starts the same producer with another value of `--http`.
    pub(crate) fn start_producer_serving(
        &self,
        folder: &Path,
        oplog: &[u8],
        http: &str,
        more: &[&str],
    ) -> Result<Program> {
        let path = folder.join("oplog.bson");
        std::fs::write(&path, oplog)?;
        let path = path.to_str().context("the path is not UTF-8")?;
        let brokers = self.brokers();
        let common = [
            "run",
            http,
            "--start=oldest",
            "--partitions=8",
            "--source-name=golden",
            "--source",
            path,
            "--brokers",
            &brokers,
            "--topic-prefix",
            &self.prefix,
        ];
        Program::producer(common.iter().chain(more))
    }

    /// Emits to the end of the topics; returns the lines.
    pub(crate) fn emit(&self, group: &str) -> Result<String> {
        self.emit_with(group, &[])
    }

    /// Emits with more flags.
    pub(crate) fn emit_with(&self, group: &str, more: &[&str]) -> Result<String> {
        let flags = [
            format!("--brokers={}", self.brokers()),
            format!("--topic-prefix={}", self.prefix),
            format!("--group={group}"),
        ];
        let flags = flags.iter().map(String::as_str);
        let common = ["emit", "--http=off", "--to=stdout", "--until-caught-up"];
        let flags = common.into_iter().chain(flags);
        let mut program = Program::consumer(flags.chain(more.iter().copied()))?;
        let code = program.wait(LIMIT)?;
        ensure!(code == 0, "{group}: {}", program.stderr_text()?);
        program.stdout_text()
    }

    /// Runs one of Kafka's tools, which must succeed.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> Result<()> {
        self.tool_text(name, arguments).map(drop)
    }

    /// Runs one of Kafka's tools, which must succeed; returns its output.
    pub(crate) fn tool_text(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self.kafka.tool(name, arguments)?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {log}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns the prefix.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the records of the only collection, `s.a`: partition after partition, each in order.
    pub(crate) fn records(&self) -> Result<Vec<TopicRecord>> {
        let contents = read_undecoded(&self.brokers(), &self.prefix)?;
        let topic = format!("{}.s.a", self.prefix);
        let others = contents.keys().find(|(name, _)| *name != topic);
        ensure!(others.is_none(), "another topic: {others:?}");
        Ok(contents.into_values().flatten().collect())
    }

    /// Returns Kafka's address.
    pub(crate) fn brokers(&self) -> String {
        self.kafka.brokers()
    }

    /// Returns the broker's directories of the collections' partitions.
    pub(crate) fn directories(&self) -> Result<Vec<PathBuf>> {
        let start = format!("{}.s.", self.prefix);
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(&start)
        };
        let entries = std::fs::read_dir(self.kafka.directory().join("data"))?;
        let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
        paths.map(|all| all.into_iter().filter(is_ours).collect())
    }

    /// Creates a topic of one partition with settings `name=value`.
    pub(crate) fn create_topic(&self, name: &str, settings: &[&str]) -> Result<()> {
        let common = ["--create", "--partitions=1", "--topic", name];
        let settings = settings.iter().flat_map(|setting| ["--config", *setting]);
        let arguments: Vec<&str> = common.into_iter().chain(settings).collect();
        self.tool("kafka-topics", &arguments)
    }

    /// Starts a replay.
    pub(crate) fn start(
        &self,
        target: &ModelServer,
        group: &str,
        more: &[&str],
    ) -> Result<Program> {
        let flags = [
            format!("--brokers={}", self.kafka.brokers()),
            format!("--topic-prefix={}", self.prefix),
            format!("--group={group}"),
            format!("--target={}", target.uri()),
            // With a short session timeout, a killed member is detected soon.
            "--kafka-option=session.timeout.ms=2000".to_owned(),
            "--kafka-option=heartbeat.interval.ms=300".to_owned(),
        ];
        let flags = flags.iter().map(String::as_str);
        let common = ["replay", "--http=off"];
        Program::consumer(common.into_iter().chain(flags).chain(more.iter().copied()))
    }

    /// Replays to the end of the topics with the given number of concurrent processes; returns
    /// their logs.
    pub(crate) fn replay(
        &self,
        target: &ModelServer,
        group: &str,
        processes: usize,
        more: &[&str],
    ) -> Result<String> {
        let more = [more, &["--until-caught-up"]].concat();
        let programs: Result<Vec<Program>> = (0..processes)
            .map(|_| self.start(target, group, &more))
            .collect();
        let mut all = String::new();
        for mut program in programs? {
            let code = program.wait(LIMIT)?;
            let log = program.stderr_text()?;
            ensure!(code == 0, "{group} ended with {code}: {log}");
            all.push_str(&log);
        }
        Ok(all)
    }

    /// Replays with one process, and checks its exit code and a text of its log.
    pub(crate) fn refused(
        &self,
        target: &ModelServer,
        group: &str,
        more: &[&str],
        (code, part): (i32, &str),
    ) -> Result<()> {
        let mut program = self.start(target, group, &[more, &["--until-caught-up"]].concat())?;
        let ended = program.wait(LIMIT)?;
        let log = program.stderr_text()?;
        ensure!(
            ended == code && log.contains(part),
            "ended with {ended}: {log}"
        );
        Ok(())
    }

    /// Resets the group with Kafka's own tool.
    pub(crate) fn reset(&self, group: &str, how: &[&str]) -> Result<()> {
        let common = ["--reset-offsets", "--execute", "--group", group];
        let arguments = [&common, how].concat();
        self.tool("kafka-consumer-groups", &arguments)
    }
}
