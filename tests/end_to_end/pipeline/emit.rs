//! `oplog-consumer emit`.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use oplog_relay_tests::schema::EventSchema;
use serde_json::Value;

use crate::pipeline::history::History;
use crate::pipeline::scene::{LIMIT, Scene};

/// Checks that the output has one line per entry, each with a valid event, and the lines of each
/// document in order.
fn check(text: &str, entries: usize) -> Result<()> {
    let schema = EventSchema::of_change_events()?;
    let mut last: HashMap<String, (u64, u64)> = HashMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line)?;
        schema.check(&event)?;
        let ts = event["_id"]["ts"].as_str().context("no ts")?;
        let (seconds, increment) = ts.split_once(':').context("two parts")?;
        let at = (seconds.parse()?, increment.parse()?);
        let key = format!("{}{}", event["ns"], event["documentKey"]);
        if let Some(before) = last.insert(key, at) {
            ensure!(before < at, "out of order: {line}");
        }
    }
    let lines = text.lines().count();
    ensure!(lines == entries, "{lines} lines, not {entries}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_emitted_as_one_line_per_entry_in_order_per_document() -> Result<()> {
    let history = History::mixed(21, 2_000, 3);
    for (name, format) in [
        ("raw", &["--format=raw"][..]),
        ("bson", &["--format=bson"]),
        ("canonical", &["--format=json", "--json=canonical"]),
        ("relaxed", &["--format=json"]),
    ] {
        let scene = Scene::new(&format!("emit-{name}"))?;
        scene.produce(&history, format)?;
        let common = ["emit", "--http=off", "--until-caught-up"];
        let mut program = scene.consume("emit", &[&common[..], &["--to=stdout"]].concat())?;
        let code = program.wait(LIMIT)?;
        ensure!(code == 0, "{}", program.stderr_text()?);
        check(&program.stdout_text()?, history.entries.len())?;

        let path = scene.folder.path().join("events.jsonl");
        let to = format!("--to=file:{}", path.display());
        let flags = [&common[..], &[to.as_str(), "--json=canonical"]].concat();
        let mut program = scene.consume("emit-file", &flags)?;
        let code = program.wait(LIMIT)?;
        ensure!(code == 0, "{}", program.stderr_text()?);
        check(&std::fs::read_to_string(path)?, history.entries.len())?;
    }
    Ok(())
}
