//! Kafka's own command-line tools, and its Java partitioner as a reference.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::services::kafka::KafkaLine;
use crate::services::kafka::home::Home;
use crate::services::process::{self, Process};
use crate::services::wait::wait_for;
use crate::services::workdir::Workdir;

const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// The error text of a tool for a group whose offsets cannot be reset yet.
const HAS_MEMBERS: &str = "Assignments can only be reset if the group";

/// The scripts of Kafka's `bin` folder by the class that each runs.
const TOOLS: &[(&str, &str)] = &[
    ("kafka-topics", "org.apache.kafka.tools.TopicCommand"),
    (
        "kafka-consumer-groups",
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    ),
    ("kafka-get-offsets", "org.apache.kafka.tools.GetOffsetShell"),
    (
        "kafka-console-consumer",
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
    ),
    (
        "kafka-console-producer",
        "org.apache.kafka.tools.ConsoleProducer",
    ),
    ("kafka-configs", "kafka.admin.ConfigCommand"),
    (
        "kafka-transactions",
        "org.apache.kafka.tools.TransactionsCommand",
    ),
    (
        "kafka-delete-records",
        "org.apache.kafka.tools.DeleteRecordsCommand",
    ),
];

/// Runs a tool to its end. Offsets can be reset once the coordinator knows that the last member has
/// left, which may be a moment after its process ended, so the tool is run again.
pub(crate) fn run(brokers: &str, name: &str, args: &[&str]) -> Result<Output> {
    let of_groups = name == "kafka-consumer-groups";
    let output = wait_for("a group without members", ENDED_WITHIN, || {
        let output = run_once(brokers, name, args)?;
        let has_members = of_groups && text_of(&output).contains(HAS_MEMBERS);
        Ok((!has_members).then_some(output))
    })?;
    let text = text_of(&output);
    let failed = text.lines().any(|line| line.starts_with("Error"));
    ensure!(!(of_groups && failed), "{name} {args:?}: {text}");
    if name == "kafka-topics" && output.status.success() {
        wait_for_change(brokers, args)?;
    }
    Ok(output)
}

fn text_of(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    texts.join("\n")
}

fn run_once(brokers: &str, name: &str, args: &[&str]) -> Result<Output> {
    // The tools of the current line work with brokers of all lines.
    let home = Home::install(KafkaLine::Current)?;
    let known = TOOLS.iter().find(|(script, _)| *script == name);
    let workdir = Workdir::create("kafka-tool")?;
    let mut command = process::tied(home.java());
    command.arg("-Xmx256m");
    home.quick_start_args(&mut command);
    home.common_args(&mut command, "WARN");
    match known {
        Some((_, class)) => command.args([class, "--bootstrap-server", brokers]),
        None => command.arg(name),
    };
    if name == "kafka-consumer-groups" {
        // The tool gives up after five seconds by default, with the exit code of a success.
        command.args(["--timeout", "60000"]);
    }
    command.args(args).stdin(Stdio::null());
    finish(Process::spawn("tool", command, workdir.path())?)
}

/// Waits until the brokers have created or deleted the topic of `args`, for which the tool does not
/// wait.
fn wait_for_change(brokers: &str, args: &[&str]) -> Result<()> {
    let is_created = args.contains(&"--create");
    if !is_created && !args.contains(&"--delete") {
        return Ok(());
    }
    let joined = args.iter().find_map(|arg| arg.strip_prefix("--topic="));
    let parted = args.iter().position(|arg| *arg == "--topic");
    let parted = parted.and_then(|index| args.get(index + 1).copied());
    let topic = joined.or(parted).context("no --topic")?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let client: BaseConsumer = config.create()?;
    wait_for(topic, ENDED_WITHIN, || {
        let metadata = client.fetch_metadata(None, ENDED_WITHIN)?;
        let is_there = metadata.topics().iter().any(|known| known.name() == topic);
        Ok((is_there == is_created).then_some(()))
    })
}

/// Returns the partitions that Kafka's Java producer chooses for these keys, each with the number
/// of partitions of its topic.
pub fn java_partitions(keys: &[(Vec<u8>, i32)]) -> Result<Vec<i32>> {
    const SOURCE: &str = include_str!("../../../services/kafka/PartitionVectors.java");
    let workdir = Workdir::create("partitions")?;
    let mut input = String::new();
    for (key, partitions) in keys {
        for byte in key {
            write!(input, "{byte:02x}")?;
        }
        writeln!(input, " {partitions}")?;
    }
    let answer = run_source(&workdir, SOURCE, &[], &input)?;
    let partitions: Vec<i32> = answer
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("not a list of partitions: {answer}"))?;
    ensure!(
        partitions.len() == keys.len(),
        "expected one partition for each key"
    );
    Ok(partitions)
}

/// Grants rights, one per line.
pub(crate) fn grant(brokers: &str, rights: &[String]) -> Result<()> {
    const SOURCE: &str = include_str!("../../../services/kafka/GrantRights.java");
    let workdir = Workdir::create("rights")?;
    run_source(&workdir, SOURCE, &[brokers], &rights.join("\n")).map(drop)
}

/// Runs a Java program of one file with Kafka's classes; returns its standard output.
pub fn run_java(source: &Path, arguments: &[&str]) -> Result<String> {
    let workdir = Workdir::create("java")?;
    run_source(&workdir, &fs::read_to_string(source)?, arguments, "")
}

fn run_source(workdir: &Workdir, source: &str, args: &[&str], input: &str) -> Result<String> {
    let home = Home::install(KafkaLine::Current)?;
    let path = workdir.path().join("Source.java");
    fs::write(&path, source)?;
    let input_path = workdir.path().join("input");
    fs::write(&input_path, input)?;
    let mut command = process::tied(home.java());
    home.common_args(&mut command, "WARN");
    command.arg(path).args(args).stdin(File::open(input_path)?);
    let output = finish(Process::spawn("java", command, workdir.path())?)?;
    ensure!(
        output.status.success(),
        "a Java program failed: {}",
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn finish(mut process: Process) -> Result<Output> {
    let status = process.wait(ENDED_WITHIN)?;
    Ok(Output {
        status,
        stdout: process.stdout()?,
        stderr: process.stderr()?,
    })
}
