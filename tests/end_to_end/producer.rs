//! The producer on live sources: killed, fenced and disconnected from its broker, and the starts
//! that it refuses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};
use mongodb::Client;
use oplog_relay_core::format::Format;
use oplog_relay_kit::http_status::status;
use oplog_relay_kit::load::Load;
use oplog_relay_kit::services::{
    FerretDb, FerretDbOptions, Kafka, KafkaOptions, Port, Program, wait_until,
};
use oplog_relay_kit::stub::{Oplog, Pace, Server, Shape};
use oplog_relay_kit::topic_reader::{count_uncommitted, read_topics};
use oplog_relay_runtime::kafka::{Admin, KafkaOptions as ClientOptions, TopicSetting};
use serde_json::Value;

use crate::consumer::expect_equal_target;
use crate::history::History;
use crate::support::{Ended, LIMIT, Line, Random, source, tool};

const KILLS: u64 = 20;
/// Number of oplog entries whose production the kills interrupt.
const ENTRIES: u64 = 200_000;
/// Number of writes to the source during each start and kill of the producer.
const WRITES_PER_KILL: u64 = 600;

/// Waits until the program has committed the given number of Kafka transactions.
fn wait_for_commits(producer: &mut Program, port: &Port, commits: u64) -> Result<()> {
    wait_for_status(producer, port, |status| {
        status["commits"].as_u64() >= Some(commits)
    })
}

/// Waits until the program's status satisfies the condition.
fn wait_for_status(
    producer: &mut Program,
    port: &Port,
    is_so: impl Fn(&Value) -> bool,
) -> Result<()> {
    wait_until("a status", LIMIT, || {
        is_so(&status(port.number()).unwrap_or_default()) || !producer.is_running().unwrap_or(false)
    })?;
    ensure!(producer.is_running()?, "{}", producer.stderr_text()?);
    Ok(())
}

/// Starts a producer and kills it at a random moment: during the start, during the first
/// transaction, or after a commit.
fn kill_at_random(line: &Line, random: &mut Random) -> Result<()> {
    let port = Port::lease()?;
    let http = format!("127.0.0.1:{}", port.number());
    let mut producer = line.clone().with("--http", http).start_producer()?;
    let most = match random.below(4) {
        0 => 1_000,
        1 => {
            wait_for_status(&mut producer, &port, |status| {
                status["commits"].as_u64() >= Some(1) || status["caught_up"] == true
            })?;
            300
        }
        _ => {
            wait_until("a session", LIMIT, || {
                producer
                    .stderr_text()
                    .is_ok_and(|log| log.contains("session opened"))
            })?;
            600
        }
    };
    let life = Duration::from_millis(random.below(most));
    let begun = Instant::now();
    wait_until("the random moment", LIMIT, || begun.elapsed() >= life)?;
    ensure!(producer.is_running()?, "{}", producer.stderr_text()?);
    producer.kill_9()
}

#[test]
fn producer_killed_twenty_times_at_random_moments_sends_every_entry_once() -> Result<()> {
    let kafka = Kafka::shared()?;
    let oplog = Oplog::generate(ENTRIES, Shape::Mixed);
    // The source is slow enough to outlast the kills, and its pauses are short, so that a
    // transaction is open nearly all of the time.
    let pause = Duration::from_millis(2);
    let server = Server::start_slow(oplog, Pace { entries: 50, pause })?;
    let line = Line::run(&kafka, server.uri(), "killed-producer").with("--start", "oldest");
    let mut random = Random::new()?;
    for _ in 0..KILLS {
        kill_at_random(&line, &mut random)?;
    }
    line.flag("--until-caught-up").produce_all()?;

    let entries = (0..ENTRIES).filter_map(|number| server.oplog().entry(number));
    let history = History(entries.map(<[u8]>::to_vec).collect());
    let contents = read_topics(&kafka.brokers(), "killed-producer", Format::Bson)?;
    let count = history.expect_once_in(&contents, "killed-producer", "rs0", Format::Bson)?;
    ensure!(count as u64 == ENTRIES, "{count} entries");
    let uncommitted = count_uncommitted(&kafka.brokers(), "killed-producer")?;
    // Records of aborted transactions prove that kills hit open transactions.
    ensure!(
        uncommitted > count,
        "{uncommitted} records, of which none is in an aborted transaction"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn producer_killed_twenty_times_while_its_source_is_written_sends_every_entry_once()
-> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let line = Line::run(&kafka, source.uri(), "written").with("--start", "oldest");
    let mut load = Load::connect(&source.uri(), "shop", 1).await?;
    load.round(100).await?;
    let mut random = Random::new()?;
    for kill in 1..=KILLS {
        let writing = async {
            while load.writes() < kill * WRITES_PER_KILL {
                load.round(50).await?;
            }
            anyhow::Ok(())
        };
        let killing = async { tokio::task::block_in_place(|| kill_at_random(&line, &mut random)) };
        let (written, killed) = tokio::join!(writing, killing);
        written.and(killed)?;
    }
    line.flag("--until-caught-up").produce_all()?;

    let history = History::of_server(&source.uri()).await?;
    let contents = read_topics(&kafka.brokers(), "written", Format::Bson)?;
    let count = history.expect_once_in(&contents, "written", "rs0", Format::Bson)?;
    ensure!(count as u64 >= KILLS * WRITES_PER_KILL, "{count} entries");
    expect_equal_target(&kafka, &source, "written")
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_restarted_under_load_loses_and_duplicates_nothing() -> Result<()> {
    let mut kafka = Kafka::start(&KafkaOptions::default())?;
    let source = source()?;
    let mut load = Load::connect(&source.uri(), "shop", 2).await?;
    load.round(100).await?;
    let port = Port::lease()?;
    let line = Line::run(&kafka, source.uri(), "restarted").with("--start", "oldest");
    let http = format!("127.0.0.1:{}", port.number());
    let mut producer = line.clone().with("--http", http).start_producer()?;
    wait_for_commits(&mut producer, &port, 1)?;
    for kill in [false, true] {
        load.round(500).await?;
        if kill {
            kafka.kill()?;
        } else {
            kafka.stop()?;
        }
        load.round(500).await?;
        kafka.restart()?;
        let so_far = status(port.number()).and_then(|status| status["commits"].as_u64());
        load.round(500).await?;
        wait_for_commits(&mut producer, &port, so_far.unwrap_or_default() + 1)?;
    }
    producer.terminate()?;
    Ended::wait(producer)?.with_code(143)?;
    line.flag("--until-caught-up").produce_all()?;

    let history = History::of_server(&source.uri()).await?;
    let contents = read_topics(&kafka.brokers(), "restarted", Format::Bson)?;
    history.expect_once_in(&contents, "restarted", "rs0", Format::Bson)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn second_instance_of_a_source_fences_the_first() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let mut load = Load::connect(&source.uri(), "shop", 3).await?;
    load.round(10).await?;
    let (port, other) = (Port::lease()?, Port::lease()?);
    let line = Line::run(&kafka, source.uri(), "fenced").with("--start", "oldest");
    let at = |port: &Port| {
        let http = format!("127.0.0.1:{}", port.number());
        line.clone().with("--http", http)
    };
    let mut first = at(&port).start_producer()?;
    wait_for_commits(&mut first, &port, 1)?;
    let mut second = at(&other).start_producer()?;
    wait_until("the second session", LIMIT, || {
        second
            .stderr_text()
            .is_ok_and(|log| log.contains("session opened"))
    })?;
    load.round(10).await?;
    Ended::wait(first)?
        .with_code(5)?
        .with_log(&["fenced.rs0", "has taken over"])?;
    wait_for_commits(&mut second, &other, 1)?;
    second.terminate()?;
    Ended::wait(second)?.with_code(143)?;
    line.clone().flag("--until-caught-up").produce_all()?;

    let history = History::of_server(&source.uri()).await?;
    let contents = read_topics(&kafka.brokers(), "fenced", Format::Bson)?;
    history.expect_once_in(&contents, "fenced", "rs0", Format::Bson)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_does_not_disturb_the_running_instance() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let mut load = Load::connect(&source.uri(), "shop", 4).await?;
    load.round(10).await?;
    let port = Port::lease()?;
    let line = Line::run(&kafka, source.uri(), "works").with("--start", "oldest");
    let http = format!("127.0.0.1:{}", port.number());
    let mut working = line.clone().with("--http", http).start_producer()?;
    wait_for_status(&mut working, &port, |status| status["caught_up"] == true)?;
    for refused in [
        line.clone().with("--format", "raw"),
        line.clone().with("--order", "id"),
    ] {
        refused
            .produce()?
            .with_code(2)?
            .with_log(&["--change-routing"])?;
    }
    let shown = status(port.number()).context("no status")?;
    let commits = shown["commits"].as_u64().context("commits")?;
    load.round(10).await?;
    wait_for_commits(&mut working, &port, commits + 1)?;
    let shown = status(port.number()).context("no status")?;
    ensure!(shown["sessions"] == 1, "{}", working.stderr_text()?);
    Ok(())
}

/// Returns an entry as a server writes it.
fn entry(seconds: u32, increment: u32, term: i64, id: i32) -> Document {
    let time = bson::Timestamp {
        time: seconds,
        increment,
    };
    doc! {
        "ts": time, "t": term, "v": 2, "op": "i", "ns": "shop.things",
        "o": { "_id": id, "text": "thing" },
        "wall": Bson::DateTime(bson::DateTime::from_millis(i64::from(seconds) * 1000)),
    }
}

/// Replaces the oplog with these entries. For each of them FerretDB adds its own entry, with the
/// present time and the namespace `local.oplog.rs`. Returns the time of the last entry, which is
/// FerretDB's.
async fn rewrite_oplog(server: &FerretDb, entries: &[Document]) -> Result<bson::Timestamp> {
    let local = Client::with_uri_str(server.uri()).await?.database("local");
    let oplog = local.collection::<Document>("oplog.rs");
    oplog.drop().await?;
    local
        .run_command(doc! { "create": "oplog.rs", "capped": true, "size": 1 << 24 })
        .await?;
    oplog.insert_many(entries).await?;
    let newest = oplog
        .find_one(doc! {})
        .sort(doc! { "$natural": -1 })
        .await?;
    Ok(newest.context("no entry")?.get_timestamp("ts")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_position_ends_with_three_and_names_checkpoint_oldest_entry_and_gap() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let saved = rewrite_oplog(&source, &[entry(1_700_000_000, 1, 1, 1)]).await?;
    let (at, increment) = (saved.time, saved.increment);
    let line = Line::run(&kafka, source.uri(), "lost").with("--start", "oldest");
    let line = line.flag("--until-caught-up");
    line.produce_all()?;

    let checkpoint = format!("{at}:{increment} (term 1)");
    // Rolled over: the oplog starts two hours later.
    rewrite_oplog(&source, &[entry(at + 7_200, 1, 1, 2)]).await?;
    let oldest = format!("{}:1", at + 7_200);
    let parts = [
        "position lost",
        &checkpoint,
        &oldest,
        "2 h 0 min",
        "To recover",
    ];
    line.produce()?.with_code(3)?.with_log(&parts)?;
    // Rolled back: an entry of another term has the same time.
    let before = entry(at - 60, 1, 1, 3);
    let other = entry(at, increment, 2, 4);
    rewrite_oplog(&source, &[before.clone(), other]).await?;
    let found = format!("{at}:{increment} (term 2)");
    let oldest = format!("oldest entry: {}:1", at - 60);
    let parts = [
        "position lost",
        &checkpoint,
        &found,
        &oldest,
        "rolled back",
        "To recover",
    ];
    line.produce()?.with_code(3)?.with_log(&parts)?;
    // Missing: the oplog has no entry at the saved time, only earlier and later ones.
    let next = entry(at, increment + 1, 1, 5);
    rewrite_oplog(&source, &[before, next.clone()]).await?;
    let found = format!("{at}:{} (term 1)", increment + 1);
    let parts = ["position lost", &checkpoint, &found, "To recover"];
    line.produce()?.with_code(3)?.with_log(&parts)?;
    // The entry exists again, so the producer continues.
    rewrite_oplog(&source, &[entry(at, increment, 1, 6), next]).await?;
    line.produce_all()?;
    let contents = read_topics(&kafka.brokers(), "lost", Format::Bson)?;
    let mut keys: Vec<_> = contents
        .values()
        .flatten()
        .map(|record| record.key.as_deref())
        .collect();
    keys.sort();
    ensure!(
        keys == [Some(br#"{"_id":1}"#.as_slice()), Some(br#"{"_id":5}"#)],
        "{keys:?}"
    );
    Ok(())
}

#[test]
fn a_standalone_without_an_oplog_is_refused_with_the_remedy() -> Result<()> {
    let kafka = Kafka::shared()?;
    let standalone = FerretDb::start(&FerretDbOptions::target())?;
    let line = Line::run(&kafka, standalone.uri(), "standalone").with("--start", "oldest");
    let parts = ["no oplog", "standalone", "--replSet", "rs.initiate()"];
    line.produce()?.with_code(2)?.with_log(&parts)?;
    Ok(())
}

#[test]
fn without_a_saved_position_the_choices_of_a_start_are_listed() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let line = Line::run(&kafka, source.uri(), "startless").with("--sync", "tail");
    let ended = line.produce()?;
    let parts = [
        "--sync",
        "--start",
        "oldest",
        "now",
        "RFC 3339",
        "<seconds>:<increment>",
    ];
    ended.with_code(2)?.with_log(&parts)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_would_lose_or_reorder_entries_are_refused() -> Result<()> {
    let kafka = Kafka::shared()?;
    let options = ClientOptions {
        brokers: kafka.brokers(),
        options: Vec::new(),
    };
    let admin = Admin::connect(&options).await?;
    let source = source()?;
    rewrite_oplog(&source, &[entry(1_700_000_000, 1, 1, 1)]).await?;
    let run = |prefix: &str| {
        let line = Line::run(&kafka, source.uri(), prefix).with("--start", "oldest");
        line.flag("--until-caught-up")
    };
    for (prefix, setting, value) in [
        ("compacted", "cleanup.policy", "compact"),
        ("retained", "retention.ms", "3600000"),
        ("appended", "message.timestamp.type", "LogAppendTime"),
    ] {
        let topic = format!("{prefix}.shop.things");
        admin
            .create_topic(&topic, 2, 1, &[TopicSetting::new(setting, value)])
            .await?;
        let parts = [topic.as_str(), setting, value];
        run(prefix).produce()?.with_code(2)?.with_log(&parts)?;
    }

    run("widened").produce_all()?;
    let topic = "widened.shop.things";
    tool(
        &kafka,
        "kafka-topics",
        &["--alter", "--topic", topic, "--partitions", "6"],
    )?;
    let parts = [topic, "had 4 partitions and has 6 now"];
    run("widened").produce()?.with_code(2)?.with_log(&parts)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sources_never_share_a_topic() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    rewrite_oplog(&source, &[entry(1_700_000_000, 1, 1, 1)]).await?;
    let line = Line::run(&kafka, source.uri(), "shared").with("--start", "oldest");
    let line = line.flag("--until-caught-up");
    line.clone().with("--source-name", "one").produce_all()?;
    let parts = [
        "shared.shop.things",
        "\"one\"",
        "two sources cannot share a topic",
    ];
    let other = line.with("--source-name", "two").produce()?;
    other.with_code(2)?.with_log(&parts)?;
    let contents = read_topics(&kafka.brokers(), "shared", Format::Bson)?;
    let count = contents.values().map(Vec::len).sum::<usize>();
    ensure!(count == 1, "{count} records");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_sources_that_find_the_same_new_collection_stops() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let line = Line::run(&kafka, source.uri(), "met").with("--start", "oldest");
    let mut programs = Vec::new();
    for name in ["one", "two"] {
        let program = line.clone().with("--source-name", name).start_producer()?;
        wait_until("a session", LIMIT, || {
            let log = program.stderr_text();
            log.is_ok_and(|log| log.contains("session opened"))
        })?;
        programs.push(program);
    }
    let client = Client::with_uri_str(source.uri()).await?;
    let things = client.database("shop").collection::<Document>("things");
    things.insert_one(doc! { "_id": 1 }).await?;
    wait_until("the end of one", LIMIT, || {
        programs
            .iter_mut()
            .any(|program| !program.is_running().unwrap_or(false))
    })?;
    let (mut running, mut ended) = (Vec::new(), Vec::new());
    for mut program in programs {
        match program.is_running()? {
            true => running.push(program),
            false => ended.push(program),
        }
    }
    for program in ended {
        let parts = ["met.shop.things", "two sources cannot share a topic"];
        Ended::wait(program)?.with_code(2)?.with_log(&parts)?;
    }
    for mut program in running {
        program.terminate()?;
        Ended::wait(program)?.with_code(143)?;
    }
    let contents = read_topics(&kafka.brokers(), "met", Format::Bson)?;
    let count = contents.values().map(Vec::len).sum::<usize>();
    ensure!(count == 1, "{count} records");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn now_begins_after_the_newest_entry_and_the_position_is_saved() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let things = Client::with_uri_str(source.uri())
        .await?
        .database("shop")
        .collection("things");
    things.insert_one(doc! { "_id": 1 }).await?;
    let line = Line::run(&kafka, source.uri(), "now").flag("--until-caught-up");
    line.clone().with("--start", "now").produce_all()?;
    things.insert_one(doc! { "_id": 2 }).await?;
    // Without --start the saved position is used.
    line.produce_all()?;
    let contents = read_topics(&kafka.brokers(), "now", Format::Bson)?;
    let keys: Vec<_> = contents
        .values()
        .flatten()
        .map(|record| record.key.clone())
        .collect();
    let key = keys.first().and_then(Clone::clone).context("no record")?;
    ensure!(keys.len() == 1 && key == br#"{"_id":2}"#, "{keys:?}");
    Ok(())
}
