//! The envelopes of JSON, and topics for readers only.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::Program;
use oplog_relay_kit::topic_reader::{TopicRecord, read_topic_records};
use serde_json::Value;

use crate::made::mixed;
use crate::topics::{LIMIT, Topics};

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).with_context(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Checks that a replay refuses the topics, and with `by_all` also an emit and an audit.
pub(crate) fn expect_refused(topics: &Topics, by_all: bool) -> Result<()> {
    let target = ModelServer::start(Model::default())?;
    let group = format!("{}-group", topics.prefix());
    let allowed = ["--allow-lossy"];
    topics.refused(&target, &group, &allowed, (2, "is for readers only"))?;
    if !by_all {
        return Ok(());
    }
    let group = format!("--group={group}");
    for command in [&["emit", "--http=off", &group][..], &["audit"]] {
        let brokers = format!("--brokers={}", topics.brokers());
        let prefix = format!("--topic-prefix={}", topics.prefix());
        let place = [brokers.as_str(), prefix.as_str()];
        let mut program = Program::consumer(command.iter().chain(&place))?;
        let code = program.wait(LIMIT)?;
        let log = program.stderr_text()?;
        ensure!(
            code == 2 && log.contains("is for readers only"),
            "{command:?} ended with {code}: {log}"
        );
    }
    Ok(())
}

#[test]
fn a_debezium_topic_has_every_change_of_a_document_and_a_tombstone_after_each_delete() -> Result<()>
{
    let topics = Topics::none("debezium")?;
    let flags = ["--format=json", "--envelope=debezium"];
    topics.produce(&mixed()?.oplog()?, &flags)?;
    let records = topics.records()?;
    let mut ops = String::new();
    for (index, record) in records.iter().enumerate() {
        let key = parse(record.key.as_deref().context("no key")?)?;
        if record.value.is_empty() {
            let before = records
                .get(index.wrapping_sub(1))
                .context("no record precedes the tombstone")?;
            ensure!(
                before.key == record.key,
                "the tombstone follows a record of another document"
            );
            ensure!(parse(&before.value)?["op"] == "d");
            ops.push('t');
            continue;
        }
        let value = parse(&record.value)?;
        let after = value["after"].as_str().unwrap_or("{\"_id\":null}");
        let id = &parse(after.as_bytes())?["_id"];
        ensure!(
            id.is_null() || key["id"].as_str() == Some(&id.to_string()),
            "{key} of {value}"
        );
        ops.push_str(value["op"].as_str().context("no op")?);
    }
    let count = |op| ops.matches(op).count();
    let counts = ["c", "u", "d", "t"].map(count);
    ensure!(counts == [20, 20, 5, 5], "{ops}");
    expect_refused(&topics, true)
}

#[test]
fn a_topic_for_readers_has_no_command_no_barrier_and_no_copy_of_bytes() -> Result<()> {
    let topics = Topics::none("readers")?;
    let flags = ["--format=json", "--replayable=false"];
    topics.produce(&mixed()?.oplog()?, &flags)?;
    let records = topics.records()?;
    ensure!(records.len() == 45, "{} records", records.len());
    for record in &records {
        let event = parse(&record.value)?;
        ensure!(event.get("rawEntry").is_none(), "{event}");
        ensure!(event.get("documentKey").is_some(), "{event}");
    }
    ensure!(topics.emit("readers-emit")?.lines().count() == 45);
    expect_refused(&topics, false)?;

    let refusal = (2, "at least one of them is for readers only");
    for other in ["--replayable=true", "--envelope=debezium"] {
        let flags = ["--format=json", "--change-routing", other];
        topics.produce_to_code(&mixed()?.oplog()?, &flags, refusal)?;
    }
    Ok(())
}

#[test]
fn records_have_the_headers_of_cloud_events() -> Result<()> {
    let topics = Topics::none("cloudevents")?;
    let flags = [
        "--format=json",
        "--replayable=false",
        "--headers=cloudevents",
    ];
    topics.produce(&mixed()?.oplog()?, &flags)?;
    let mut ids = BTreeSet::new();
    for record in topics.records()? {
        let header = |name: &str| -> Result<String> {
            let value = record.header(name).with_context(|| format!("no {name}"))?;
            Ok(String::from_utf8(value.to_vec())?)
        };
        let event = parse(&record.value)?;
        let operation = event["operationType"]
            .as_str()
            .context("no operationType")?;
        ensure!(header("ce_specversion")? == "1.0");
        ensure!(header("ce_type")? == format!("mongodb.{operation}"));
        ensure!(header("ce_subject")? == "s.a");
        ensure!(header("content-type")? == "application/json");
        ensure!(Some(header("ce_partitionkey")?.as_bytes()) == record.key.as_deref());
        ensure!(ids.insert(header("ce_id")?), "an id occurs twice");
    }
    ensure!(ids.len() == 45, "{} records", ids.len());
    Ok(())
}

#[test]
fn entries_in_the_oplog_envelope_are_replayed_exactly_and_emitted_in_each_envelope() -> Result<()> {
    let topics = Topics::none("entries")?;
    let made = mixed()?;
    let flags = ["--format=json", "--envelope=oplog", "--json=canonical"];
    topics.produce(&made.oplog()?, &flags)?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "entries", 1, &[])?;
    let expected = made.expected()?.state();
    ensure!(target.model().state().get("s.a") == expected.get("s.a"));

    let lines = |envelope: &str| -> Result<Vec<Value>> {
        let group = format!("entries-{envelope}");
        let lines = topics.emit_with(&group, &[&format!("--envelope={envelope}")])?;
        lines.lines().map(|line| parse(line.as_bytes())).collect()
    };
    let of_oplog = lines("oplog")?;
    ensure!(
        of_oplog.len() == 47,
        "{} lines, not 45 changes and 2 commands",
        of_oplog.len()
    );
    for line in &of_oplog {
        let id = line["oplogId"].as_str().context("no oplogId")?;
        ensure!(
            id.starts_with("golden/17") && line.get("op").is_some(),
            "{line}"
        );
    }
    let of_debezium = lines("debezium")?;
    ensure!(of_debezium.len() == 45, "{}", of_debezium.len());
    for line in &of_debezium {
        ensure!(
            line["key"]["id"].is_string() && line["value"]["op"].is_string(),
            "{line}"
        );
    }
    let events = lines("change-event")?;
    ensure!(events.len() == 47, "{}", events.len());
    // The state topic names the format, for programs that read the topics.
    let state = read_topic_records(&topics.brokers(), "__entries.state.golden")?;
    let has_format = |record: &TopicRecord| {
        String::from_utf8_lossy(&record.value)
            .contains(r#""format":"oplog-json","json":"canonical""#)
    };
    ensure!(state.iter().any(has_format));
    Ok(())
}
