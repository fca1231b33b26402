//! The saved position of a producer and its topics: losses are detected, and a start that would
//! repeat or omit entries is refused.

use anyhow::{Context, Result, ensure};
use oplog_relay_core::format::Format;
use oplog_relay_kit::http_status::status;
use oplog_relay_kit::services::{Port, Program, wait_for};
use oplog_relay_kit::stub::{Oplog, Server, Shape};
use oplog_relay_kit::topic_reader::{entries, read_topics};

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

fn inserts(count: i32) -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..count {
        made.insert("s.a", 1, id)?;
    }
    Ok(made)
}

fn count(topics: &Topics, prefix: &str) -> Result<usize> {
    let contents = read_topics(&topics.brokers(), prefix, Format::Bson)?;
    Ok(entries(&contents).count())
}

fn delete(topics: &Topics, topic: &str) -> Result<()> {
    topics.tool("kafka-topics", &["--delete", "--topic", topic])
}

#[test]
fn a_source_that_was_running_never_starts_over_by_itself() -> Result<()> {
    let topics = Topics::none("forgotten")?;
    let mut made = inserts(20)?;
    topics.produce(&made.oplog()?, &[])?;
    made.insert("s.a", 1, 100)?;
    // The flag may stay in a unit file; the program logs that it is ignored.
    topics.produce_to_code(&made.oplog()?, &[], (0, "--start is ignored"))?;
    let before = count(&topics, "forgotten")?;

    delete(&topics, "__forgotten.position.golden")?;
    let refusal = (3, "__forgotten.position.golden holds no position");
    topics.produce_to_code(&made.oplog()?, &[], refusal)?;
    // The topic exists now, but is empty.
    topics.produce_to_code(&made.oplog()?, &[], refusal)?;
    // `position set` and `position import` do not replace the lost position either.
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("oplog.bson");
    std::fs::write(&dump, made.oplog()?)?;
    let (brokers, dump) = (topics.brokers(), dump.display().to_string());
    let set: &[&str] = &["set", "--to=1700000000:1", "--term=1"];
    let import: &[&str] = &["import", "--from=mongodump", "--file", &dump];
    for change in [set, import] {
        let name = ["--topic-prefix=forgotten", "--source-name=golden"];
        let mut words = vec!["position"];
        words.extend(change);
        words.extend(["--brokers", &brokers].iter().chain(&name));
        let mut program = Program::producer(words)?;
        let code = program.wait(LIMIT)?;
        let log = program.stderr_text()?;
        ensure!(code == 3 && log.contains(refusal.1), "{code}: {log}");
    }
    ensure!(
        count(&topics, "forgotten")? == before,
        "entries were sent again"
    );
    Ok(())
}

#[test]
fn a_position_without_its_state_is_refused() -> Result<()> {
    let topics = Topics::none("stateless")?;
    let made = inserts(20)?;
    // Nothing passes the filter, so nothing is routed; the state still names the source.
    let nothing = ["--include-namespaces=other"];
    topics.produce(&made.oplog()?, &nothing)?;
    delete(&topics, "__stateless.state.golden")?;
    let refusal = (
        3,
        "__stateless.state.golden no longer contains the identity",
    );
    topics.produce_to_code(&made.oplog()?, &nothing, refusal)
}

#[test]
fn topics_that_somebody_else_created_are_refused() -> Result<()> {
    let topics = Topics::none("unclaimed")?;
    let made = inserts(20)?;
    let position = "__unclaimed.position.golden";
    topics.create_topic(
        position,
        &["cleanup.policy=delete", "retention.ms=86400000"],
    )?;
    let refusal = (2, "cleanup.policy=delete and retention.ms=86400000");
    topics.produce_to_code(&made.oplog()?, &[], refusal)?;
    delete(&topics, position)?;
    topics.produce(&made.oplog()?, &[])?;
    let settings = [
        "--describe",
        "--entity-type=topics",
        "--entity-name=unclaimed.s.a",
    ];
    let set = topics.tool_text("kafka-configs", &settings)?;
    ensure!(set.contains("retention.bytes=-1"), "{set}");

    delete(&topics, "unclaimed.s.a")?;
    let again = ["--create", "--partitions=8", "--topic=unclaimed.s.a"];
    let kept = ["--config", "retention.ms=-1"];
    topics.tool("kafka-topics", &[&again[..], &kept].concat())?;
    topics.produce_to_code(&made.oplog()?, &[], (2, "created again"))
}

#[test]
fn excluded_namespaces_are_not_included_by_accident() -> Result<()> {
    let topics = Topics::none("widened")?;
    let mut made = inserts(20)?;
    made.create("s.b", 2)?;
    let one = ["--include-namespaces=s.a,s.c"];
    topics.produce(&made.oplog()?, &one)?;
    made.insert("s.b", 2, 1)?;
    let refused = (2, "--change-namespaces");
    topics.produce_to_code(&made.oplog()?, &[], refused)?;
    topics.produce_to_code(&made.oplog()?, &["--include-namespaces=s"], refused)?;
    // Fewer namespaces are harmless, but from then on they are the permitted ones.
    topics.produce(&made.oplog()?, &["--include-namespaces=s.a"])?;
    topics.produce_to_code(&made.oplog()?, &one, refused)?;
    topics.produce(&made.oplog()?, &["--change-namespaces"])?;
    made.insert("s.b", 2, 2)?;
    topics.produce(&made.oplog()?, &[])?;
    // Only the entries after the change are expected.
    let contents = read_topics(&topics.brokers(), "widened", Format::Bson)?;
    let of_b = entries(&contents).filter(|(place, _, _)| place.0 == "widened.s.b");
    ensure!(of_b.count() == 1, "{contents:?}");
    Ok(())
}

#[test]
fn a_topic_from_which_kafka_deletes_entries_by_size_causes_a_warning() -> Result<()> {
    let topics = Topics::none("shrinking")?;
    let oplog = inserts(20)?.oplog()?;
    topics.produce(&oplog, &[])?;
    let alter = ["--alter", "--entity-type=topics"];
    let limit = [
        "--entity-name=shrinking.s.a",
        "--add-config=retention.bytes=1000000",
    ];
    topics.tool("kafka-configs", &[alter, limit].concat())?;
    let warning = "beyond retention.bytes, whether a consumer has read them or not";
    topics.produce_to_code(&oplog, &[], (0, warning))
}

/// A monitor must not mistake a producer that has just started for one without any lag.
#[test]
fn a_new_process_shows_the_lag_and_position_of_the_checkpoint_until_it_commits() -> Result<()> {
    let topics = Topics::none("restarted-status")?;
    let server = Server::start(Oplog::generate(500, Shape::Inserts))?;
    let (brokers, port) = (topics.brokers(), Port::lease()?);
    let (uri, http) = (server.uri(), format!("127.0.0.1:{}", port.number()));
    let words = ["run", "--start=oldest", "--topic-prefix", topics.prefix()];
    let words = [
        &words[..],
        &["--source", &uri, "--brokers", &brokers, "--http", &http],
    ]
    .concat();
    // The second run saves the end offsets that the first one reached, so a third run has no reason
    // to commit.
    for _ in 0..2 {
        let mut first = Program::producer(words.iter().chain(&["--until-caught-up"]))?;
        let code = first.wait(LIMIT)?;
        ensure!(code == 0, "{}", first.stderr_text()?);
    }
    // This member never catches up with its replica set: the lag is known only from the checkpoint.
    server.fall_behind(10);
    let program = Program::producer(&words)?;
    let shown = wait_for("a session", LIMIT, || {
        Ok(status(port.number()).filter(|status| status["sessions"] == 1))
    })
    .with_context(|| program.stderr_text().unwrap_or_default())?;
    let newest = server.oplog().time(server.oplog().len() - 1);
    ensure!(shown["commits"] == 0, "{shown}");
    ensure!(shown["position"]["ts"] == newest.to_string(), "{shown}");
    ensure!(shown["lag_seconds"].as_f64() > Some(1.0), "{shown}");
    Ok(())
}
