//! Several sources of one process: each has its own position, metrics and failures.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use oplog_relay_kit::http_status::{metrics, probe, status};
use oplog_relay_kit::services::{Kafka, Port, Program, wait_until};
use oplog_relay_kit::stub::{Oplog, Recipe, Server, Shape};
use oplog_relay_kit::topic_reader::count_keys;

use serde_json::Value;

use crate::topics::LIMIT;

const ENTRIES: u64 = 2000;

/// Starts a producer of these sources. The topic prefix of each is `<prefix>-<name>`.
fn start(
    kafka: &Kafka,
    prefix: &str,
    port: &Port,
    sources: &[(&str, String)],
    more: &[&str],
) -> Result<Program> {
    let mut flags = vec![
        "run".to_owned(),
        format!("--http=127.0.0.1:{}", port.number()),
        format!("--brokers={}", kafka.brokers()),
        "--start=oldest".to_owned(),
    ];
    for (name, uri) in sources {
        let topic_prefix = format!("{prefix}-{name}");
        let source = serde_json::json!({ "name": name, "uri": uri, "topic_prefix": topic_prefix });
        flags.push(format!("--source={source}"));
    }
    Program::producer(flags.iter().map(String::as_str).chain(more.iter().copied()))
}

#[test]
fn a_source_that_is_down_does_not_affect_the_others() -> Result<()> {
    let kafka = Kafka::shared()?;
    let server = Server::start(Oplog::generate(ENTRIES, Shape::Inserts))?;
    let port = Port::lease()?;
    let unreachable = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=500".to_owned();
    let sources = [("down", unreachable), ("up", server.uri())];
    let mut producer = start(&kafka, "several", &port, &sources, &[])?;
    let brokers = kafka.brokers();
    wait_until("the entries of the reachable source", LIMIT, || {
        count_keys(&brokers, "several-up").is_ok_and(|count| count == ENTRIES)
    })?;
    let ready = || probe(port.number(), "/readyz").unwrap_or_else(|| panic!("no answer"));
    wait_until("the reason why the program is not ready", LIMIT, || {
        let ready = ready();
        !ready.passes && ready.text.lines().count() == 1 && ready.text.contains("source down: ")
    })?;
    wait_until("the reachable source to be caught up", LIMIT, || {
        status(port.number()).is_some_and(|shown| shown["sources"][1]["caught_up"] == true)
    })?;
    let all = metrics(port.number()).unwrap_or_default();
    for line in [
        format!("oplog_producer_entries_total{{op=\"insert\",source=\"up\"}} {ENTRIES}"),
        "oplog_producer_entries_total{op=\"insert\",source=\"down\"} 0".to_owned(),
    ] {
        ensure!(
            all.lines().any(|found| found == line),
            "{line} is not in {all}"
        );
    }
    ensure!(producer.is_running()?, "{}", producer.stderr_text()?);
    producer.stop(LIMIT)
}

#[test]
fn a_source_that_fails_for_good_determines_the_exit_code_and_the_others_are_finished() -> Result<()>
{
    let kafka = Kafka::shared()?;
    let server = Server::start(Oplog::generate(ENTRIES, Shape::Inserts))?;
    let port = Port::lease()?;
    // This source is to start before its oldest entry.
    let lost = serde_json::json!({
        "name": "lost", "uri": server.uri(), "topic_prefix": "failing-lost", "start": "1000:1",
    });
    let lost = format!("--source={lost}");
    let sources = [("whole", server.uri())];
    let mut producer = start(
        &kafka,
        "failing",
        &port,
        &sources,
        &[&lost, "--until-caught-up"],
    )?;
    let code = producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    let reported = log.lines().find(|line| line.contains("exit_code=3"));
    ensure!(
        code == 3 && reported.is_some_and(|line| line.contains("source{name=\"lost\"}")),
        "ended with {code}: {log}"
    );
    let count = count_keys(&kafka.brokers(), "failing-whole")?;
    ensure!(count == ENTRIES, "{count} entries");
    Ok(())
}

/// A second producer takes over a source. If the first one retried, it would take the source back, and
/// the two would fence each other indefinitely.
#[test]
fn a_source_that_is_taken_over_ends_and_shows_no_oplog_and_the_others_are_followed() -> Result<()> {
    let kafka = Kafka::shared()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // Entries appear for as long as the test runs, so the sources keep committing.
    let oplog = Oplog::make(Recipe {
        first_second: u32::try_from(now.as_secs())? - 2,
        per_second: 50,
        ..Recipe::new(50 * 600, Shape::Inserts)
    });
    let server = Server::start_live(oplog)?;
    let port = Port::lease()?;
    let sources = [("kept", server.uri()), ("taken", server.uri())];
    let mut producer = start(&kafka, "taken-over", &port, &sources, &[])?;
    let shown = |number: usize, key: &str| -> Value {
        let shown = status(port.number()).unwrap_or_default();
        shown["sources"][number][key].clone()
    };
    wait_until("both sources and their oplogs", LIMIT, || {
        [0, 1]
            .iter()
            .all(|number| shown(*number, "oplog")["head_room_seconds"].is_number())
    })?;
    let other_port = Port::lease()?;
    let taken = [("taken", server.uri())];
    let mut other = start(&kafka, "taken-over", &other_port, &taken, &[])?;
    wait_until("the source to be taken over", LIMIT, || {
        shown(1, "role") == "failed" && shown(1, "oplog").is_null()
    })?;
    let error = shown(1, "error").to_string();
    ensure!(error.contains("has taken over the source"), "{error}");
    let gauges = metrics(port.number()).unwrap_or_default();
    for (name, is_shown) in [("kept", true), ("taken", false)] {
        let gauge = format!("oplog_producer_oplog_head_room_seconds{{source=\"{name}\"}}");
        ensure!(gauges.contains(&gauge) == is_shown, "{gauge}: {gauges}");
    }
    let before = shown(0, "commits").as_u64();
    wait_until("the other source to be followed further", LIMIT, || {
        shown(0, "commits").as_u64() > before
    })?;
    let log = producer.stderr_text()?;
    ensure!(
        log.contains("exit_code=5") && log.contains("only when the program is started again"),
        "{log}"
    );
    ensure!(producer.is_running()? && other.is_running()?, "{log}");
    for program in [&mut producer, &mut other] {
        program.terminate()?;
        program.wait(LIMIT)?;
    }
    Ok(())
}

/// The bytes in flight to Kafka are divided among the sources. The memory limit is the same as for one
/// source with documents of 16 MB.
#[test]
fn sources_that_catch_up_together_need_little_memory() -> Result<()> {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const EACH: u64 = 80_000;
    const MOST_MIB: u64 = 512;
    let kafka = Kafka::shared()?;
    let server = Server::start(Oplog::generate(EACH, Shape::Inserts))?;
    let port = Port::lease()?;
    let sources = NAMES.map(|name| (name, server.uri()));
    let mut producer = start(&kafka, "together", &port, &sources, &[])?;
    wait_until("all sources to be caught up", LIMIT, || {
        let shown = status(port.number()).unwrap_or_default();
        let sources = shown["sources"].as_array().cloned().unwrap_or_default();
        sources.len() == NAMES.len() && sources.iter().all(|it| it["caught_up"] == true)
    })?;
    let peak = producer.peak_mib()?;
    ensure!(peak <= MOST_MIB, "{peak} MiB");
    producer.terminate()?;
    producer.wait(LIMIT)?;
    Ok(())
}
