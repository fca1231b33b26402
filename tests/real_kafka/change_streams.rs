//! The recorded change stream of a sharded cluster through Kafka.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oplog_relay_core::format::Format;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::state::PositionRecord;
use oplog_relay_core::topic::position_topic;
use oplog_relay_kit::event_server::{EventServer, Events, Role};
use oplog_relay_kit::model::{Agreement, Model, ModelServer, Scenario, State, Version};
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::topic_reader::{read_topics, wait_until_settled};
use oplog_relay_runtime::kafka::{KafkaOptions, Reader};

use crate::carry::CATALOG;
use crate::topics::{LIMIT, Topics};

/// The time at which the recording of the scenario began.
const START: &str = "--start=1795971686:2";
const SOURCE: &str = "cluster";

fn serve(scenario: &Scenario) -> Result<EventServer> {
    let events = Events::new(scenario.events()?)?;
    let documents = scenario.expected()?;
    let server = EventServer::start(events, documents, Role::Mongos([5, 0, 7]))?;
    server.tick();
    Ok(server)
}

fn start(server: &EventServer, topics: &Topics, more: &[&str]) -> Result<Program> {
    let common = ["--http=off", "--partitions=8", "--source-name", SOURCE];
    topics.start_tail(&server.uri(), &[&common, more].concat())
}

/// Runs the producer until everything that the source has is in Kafka; returns its log.
fn finish(server: &EventServer, topics: &Topics, more: &[&str]) -> Result<String> {
    let mut producer = start(server, topics, &[more, &["--until-caught-up"]].concat())?;
    let code = producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    ensure!(code == 0, "ended with {code}: {log}");
    Ok(log)
}

/// Checks that the target has the cluster's documents. Views and indexes are not compared, because
/// change streams of MongoDB 5.0 do not show them.
fn expect(target: &ModelServer, scenario: &Scenario) -> Result<()> {
    let mut state = target.model().state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    let scenario = scenario.clone().without("sharded.system.views");
    scenario.expect_as(&state, Agreement::Fields)
}

/// Returns the ids of all entries in the topics. Fails if an entry is there twice.
fn ids(topics: &Topics) -> Result<BTreeSet<(String, EntryId)>> {
    let contents = read_topics(&topics.brokers(), topics.prefix(), Format::Bson)?;
    let mut ids = BTreeSet::new();
    for ((topic, _), records) in contents {
        for entry in records.into_iter().flat_map(|record| record.entries) {
            let topic = topic.replacen(topics.prefix(), "", 1);
            ensure!(ids.insert((topic, entry.id)), "{} is there twice", entry.id);
        }
    }
    Ok(ids)
}

#[test]
fn a_sharded_clusters_events_lead_a_target_to_its_state() -> Result<()> {
    let scenario = Scenario::sharded();
    let server = serve(&scenario)?;
    let topics = Topics::none("cs-sharded")?;
    let log = finish(&server, &topics, &[START])?;
    ensure!(log.contains("the source is a mongos"), "{log}");
    for processes in [1, 3] {
        let group = format!("cs-{processes}");
        let target = ModelServer::start(Model::of(Version::V5_0))?;
        topics.replay(&target, &group, processes, &[])?;
        expect(&target, &scenario)?;
        topics.reset(&group, &["--all-topics", "--to-earliest"])?;
        topics.replay(&target, &group, processes, &[])?;
        expect(&target, &scenario)?;
    }
    Ok(())
}

#[test]
fn a_producer_that_is_killed_repeatedly_carries_every_event_once() -> Result<()> {
    const KILLS: usize = 12;
    let scenario = Scenario::sharded();
    let server = serve(&scenario)?;
    let whole = Topics::none("cs-whole")?;
    finish(&server, &whole, &[START])?;
    let killed = Topics::none("cs-killed")?;
    server.reply_with(3);
    let all = server.events();
    for kill in 0..KILLS {
        server.release((kill + 1) * all / (KILLS + 1));
        let mut producer = start(&server, &killed, &[START])?;
        let (before, wanted) = (server.replies(), 5 + 3 * kill);
        wait_until("replies", LIMIT, || server.replies() >= before + wanted)?;
        ensure!(
            producer.is_running()?,
            "{kill}: {}",
            producer.stderr_text()?
        );
        producer.kill_9()?;
    }
    server.release(all);
    server.reply_with(usize::MAX);
    let log = finish(&server, &killed, &[START])?;
    ensure!(log.contains("--start is ignored"), "{log}");
    let (whole, found) = (ids(&whole)?, ids(&killed)?);
    let missing: Vec<_> = whole.difference(&found).take(5).collect();
    ensure!(missing.is_empty(), "missing: {missing:?}");
    ensure!(whole == found, "{} of {}", found.len(), whole.len());
    let target = ModelServer::start(Model::of(Version::V5_0))?;
    killed.replay(&target, "cs-killed", 2, &[])?;
    expect(&target, &scenario)
}

/// Returns the last committed record of the position topic.
fn position(topics: &Topics) -> Result<Option<PositionRecord>> {
    let topic = position_topic(topics.prefix(), SOURCE);
    let brokers = topics.brokers();
    wait_until_settled(&brokers, [(topic.as_str(), 0)])?;
    let options = Vec::new();
    let reader = Reader::new(&KafkaOptions { brokers, options });
    let last = tokio::runtime::Runtime::new()?.block_on(reader.read_last_committed(&topic))?;
    let value = last.and_then(|stored| stored.value);
    Ok(value
        .map(|value| serde_json::from_slice(&value))
        .transpose()?)
}

#[test]
fn a_filter_that_passes_nothing_does_not_hold_the_position_back() -> Result<()> {
    let server = EventServer::start(Events::default(), State::new(), Role::Mongos([5, 0, 7]))?;
    server.tick();
    let topics = Topics::none("cs-idle")?;
    let flags = ["--start=now", "--include-namespaces=none.none"];
    // The first starts may end at their starting points, before the server has returned a token.
    let mut first = None;
    for _ in 0..10 {
        finish(&server, &topics, &flags)?;
        first = position(&topics)?;
        if first.as_ref().is_some_and(|first| first.resume.is_some()) {
            break;
        }
    }
    let first = first.context("no position")?;
    finish(&server, &topics, &flags)?;
    let second = position(&topics)?.context("no position")?;
    ensure!(second.done()? > first.done()?, "{second:?} after {first:?}");
    let tokens = [&first, &second].map(|record| record.resume.clone().map(|point| point.token));
    ensure!(tokens[0].is_some() && tokens[0] != tokens[1], "{tokens:?}");
    Ok(())
}

#[test]
fn a_lost_history_ends_the_producer_with_3_and_another_mode_with_2() -> Result<()> {
    let scenario = Scenario::sharded();
    let server = serve(&scenario)?;
    let topics = Topics::none("cs-lost")?;
    server.release(100);
    finish(&server, &topics, &[START])?;
    server.release(server.events());
    server.truncate(500);
    for (flags, code, part) in [
        (
            &["--until-caught-up"][..],
            3,
            "the change stream cannot continue after",
        ),
        (&["--source-mode=oplog"], 2, "--source-mode change-stream"),
    ] {
        let mut producer = start(&server, &topics, flags)?;
        let ended = producer.wait(Duration::from_secs(120))?;
        let log = producer.stderr_text()?;
        ensure!(
            ended == code && log.contains(part),
            "ended with {ended}: {log}"
        );
    }
    // A dump has the entries of an oplog, whose positions differ.
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("oplog.bson");
    std::fs::write(&dump, Scenario::new("updates").oplog()?)?;
    let (dump, brokers) = (dump.to_string_lossy(), topics.brokers());
    let mut producer = Program::producer([
        "run",
        "--http=off",
        "--start=oldest",
        "--source-name",
        SOURCE,
        "--source",
        &dump,
        "--brokers",
        &brokers,
        "--topic-prefix",
        topics.prefix(),
    ])?;
    let ended = producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    let is_refused = log.contains("--source-mode change-stream so far");
    ensure!(ended == 2 && is_refused, "ended with {ended}: {log}");
    Ok(())
}
