//! The programs and settings in `examples/`, as a reader would use them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_tests::services::{Program, run_java};

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

fn example(name: &str) -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().context("no parent")?;
    Ok(root.join("examples").join(name))
}

#[test]
fn the_java_reader_prints_every_change_event_once() -> Result<()> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..200 {
        made.insert("s.a", 1, id)?;
        made.set("s.a", 1, id, doc! { "n": id })?;
    }
    let topics = Topics::none("example")?;
    topics.produce(&made.oplog()?, &["--format=json"])?;
    let brokers = topics.brokers();
    let arguments = [brokers.as_str(), topics.prefix(), "example-java", "once"];
    let printed = run_java(&example("JsonTopicReader.java")?, &arguments)?;

    let emitted = topics.emit("example-emit")?;
    let mut lines: BTreeSet<&str> = BTreeSet::new();
    for event in printed.lines() {
        // Barriers are in every partition, as operations that change nothing; emit leaves them out.
        let is_barrier = event.contains("\"operationType\":\"noop\"");
        let is_new = is_barrier || lines.insert(event);
        ensure!(is_new, "printed twice: {event}");
    }
    // The event of a command has its barrier in the topic, which emit leaves out as well.
    let documents = emitted
        .lines()
        .filter(|line| line.contains("\"documentKey\""));
    let missing = documents.clone().find(|line| !lines.contains(line));
    ensure!(missing.is_none(), "not printed: {missing:?}");
    ensure!(documents.count() == 400, "200 inserts and 200 updates");
    Ok(())
}

#[test]
fn the_settings_are_valid() -> Result<()> {
    // One value is wrong on purpose: it must be the only fault that is found.
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
