//! The programs and the settings in `examples/`, used as its README describes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_kit::services::{Program, python_with, run_java};
use oplog_relay_kit::topic_reader::wait_until_settled;

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

fn example(name: &str) -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().context("no parent")?;
    Ok(root.join("examples").join(name))
}

/// Returns topics with 200 inserts and 200 updates as change events.
fn topics(prefix: &str) -> Result<Topics> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..200 {
        made.insert("s.a", 1, id)?;
        made.set("s.a", 1, id, doc! { "n": id })?;
    }
    let topics = Topics::none(prefix)?;
    topics.produce(&made.oplog()?, &["--format=json"])?;
    // The readers stop at the last stable offsets at their start, which may still be before the
    // records: a transaction is committed before all of its markers are written.
    let topic = format!("{}.s.a", topics.prefix());
    let partitions = (0..8).map(|partition| (topic.as_str(), partition));
    wait_until_settled(&topics.brokers(), partitions)?;
    Ok(topics)
}

/// Checks that a reader printed no event twice, and every event of a document that `emit` writes.
fn check_printed(topics: &Topics, group: &str, printed: &str) -> Result<()> {
    let emitted = topics.emit(group)?;
    let mut lines: BTreeSet<&str> = BTreeSet::new();
    for event in printed.lines() {
        // A barrier is in every partition, as an event that changes nothing. `emit` omits barriers.
        let is_barrier = event.contains("\"operationType\":\"noop\"");
        let is_new = is_barrier || lines.insert(event);
        ensure!(is_new, "printed twice: {event}");
    }
    // In the topic, the event of a command names its barriers; `emit` omits them. So only events of
    // documents are compared.
    let documents = emitted
        .lines()
        .filter(|line| line.contains("\"documentKey\""));
    let missing = documents.clone().find(|line| !lines.contains(line));
    ensure!(missing.is_none(), "not printed: {missing:?}");
    ensure!(
        documents.count() == 400,
        "expected 200 inserts and 200 updates"
    );
    Ok(())
}

#[test]
fn the_java_reader_prints_every_change_event_once() -> Result<()> {
    let topics = topics("example-java")?;
    let brokers = topics.brokers();
    let arguments = [brokers.as_str(), topics.prefix(), "example-java", "once"];
    let printed = run_java(&example("JsonTopicReader.java")?, &arguments)?;
    check_printed(&topics, "emit-beside-java", &printed)
}

/// The test passes without a check if the machine has no Python that can install the client,
/// because the project does not require Python.
#[test]
fn the_python_reader_prints_every_change_event_once() -> Result<()> {
    let Some(python) = python_with("confluent-kafka==2.16.1") else {
        eprintln!("not checked: no Python that can install confluent-kafka");
        return Ok(());
    };
    let topics = topics("example-python")?;
    let brokers = topics.brokers();
    let ran = Command::new(python)
        .arg(example("json_topic_reader.py")?)
        .args([brokers.as_str(), topics.prefix(), "example-python", "once"])
        .output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{said}");
    check_printed(
        &topics,
        "emit-beside-python",
        &String::from_utf8(ran.stdout)?,
    )
}

#[test]
fn the_settings_are_valid() -> Result<()> {
    // One value is wrong on purpose: it must be the only reported fault.
    for (program, command, file, more, fault) in [
        (
            "oplog-producer",
            "run",
            "producer.toml",
            ["--source=mongodb://localhost", "--partitions=none"],
            "--partitions",
        ),
        (
            "oplog-consumer",
            "replay",
            "replay.toml",
            ["--target=mongodb://localhost", "--lanes=none"],
            "--lanes",
        ),
        (
            "oplog-consumer",
            "emit",
            "emit.toml",
            ["--group=other", "--json=none"],
            "--json",
        ),
    ] {
        let path = example(file)?;
        let config = format!("--config={}", path.display());
        let arguments = [&[command, config.as_str()], &more[..]].concat();
        let mut run = Program::start(program, arguments, &[])?;
        let code = run.wait(LIMIT)?;
        let said = run.stderr_text()?;
        let expected = format!("error: {fault}: ");
        ensure!(
            code == 2 && said.starts_with(&expected) && said.lines().count() == 1,
            "{file}: {code}: {said}"
        );
    }
    Ok(())
}
