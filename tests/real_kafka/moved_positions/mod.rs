//! `oplog-producer position`: positions that are shown, set and imported, and gaps.

mod gaps;
mod import;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_core::format::Format;
use oplog_relay_core::position::Timestamp;
use oplog_relay_kit::http_status::{metric, status};
use oplog_relay_kit::model::{Model, ModelServer, State};
use oplog_relay_kit::services::{Port, Program, wait_for, wait_until};
use oplog_relay_kit::stub::{Contents, Oplog, Pace, Recipe, Server, Shape};
use oplog_relay_kit::topic_reader::{entries, read_topics};
use serde_json::Value;

use crate::carry::CATALOG;
use crate::made::{BEGIN, Made};
use crate::topics::{LIMIT, Topics};

/// Runs `position <command>` for a source, checks the exit code and a text of the log, and returns
/// the standard output.
fn position(
    topics: &Topics,
    source: &str,
    command: &str,
    more: &[&str],
    (code, part): (i32, &str),
) -> Result<String> {
    let brokers = topics.brokers();
    let words = [
        "position",
        command,
        "--brokers",
        &brokers,
        "--topic-prefix",
        topics.prefix(),
        "--source-name",
        source,
    ];
    let mut program = Program::producer(words.iter().chain(more))?;
    let ended = program.wait(LIMIT)?;
    let log = program.stderr_text()?;
    ensure!(
        ended == code && log.contains(part),
        "position {command} {more:?} ended with {ended}: {log}"
    );
    program.stdout_text()
}

/// Runs `position show --output json` for a source.
fn show(topics: &Topics, source: &str, more: &[&str]) -> Result<Value> {
    let more = [more, &["--output=json"]].concat();
    let shown = position(topics, source, "show", &more, (0, ""))?;
    Ok(serde_json::from_str(&shown)?)
}

/// Starts a producer of a fake mongod, from its oldest entry.
fn start(topics: &Topics, server: &Server, more: &[&str]) -> Result<Program> {
    topics.start_tail(&server.uri(), &[&["--start=oldest"], more].concat())
}

/// Runs a producer of a fake mongod until it has caught up, and checks the exit code and a text of
/// the log.
fn finish(
    topics: &Topics,
    server: &Server,
    more: &[&str],
    (code, part): (i32, &str),
) -> Result<()> {
    let more = [more, &["--http=off", "--until-caught-up"]].concat();
    let mut producer = start(topics, server, &more)?;
    let ended = producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    ensure!(
        ended == code && log.contains(part),
        "ended with {ended}: {log}"
    );
    Ok(())
}

/// Returns how often each entry is in the topics, by its time.
fn counts(topics: &Topics) -> Result<BTreeMap<Timestamp, usize>> {
    let contents = read_topics(&topics.brokers(), topics.prefix(), Format::Bson)?;
    let mut counts = BTreeMap::new();
    for (_, _, entry) in entries(&contents) {
        *counts.entry(entry.id.ts).or_default() += 1;
    }
    Ok(counts)
}

/// Checks how often the entries after one number up to another are in the topics.
fn expect_counts(
    server: &Server,
    counts: &BTreeMap<Timestamp, usize>,
    (after, through): (u64, u64),
    times: usize,
) -> Result<()> {
    for number in after + 1..=through {
        let found = counts.get(&server.oplog().time(number)).copied();
        ensure!(found.unwrap_or(0) == times, "entry {number}: {found:?}");
    }
    Ok(())
}

#[test]
fn a_position_is_shown_and_listed_while_its_producer_runs() -> Result<()> {
    let topics = Topics::none("shown")?;
    let server = Server::start(Oplog::generate(5_000, Shape::Inserts))?;
    let uri = server.uri();
    let port = Port::lease()?;
    let http = format!("127.0.0.1:{}", port.number());
    let mut producer = start(&topics, &server, &["--http", &http])?;
    let newest = server.oplog().newest().context("no entry")?;
    wait_until("the end", LIMIT, || {
        status(port.number()).is_some_and(|status| status["position"]["ts"] == newest.to_string())
    })?;
    let shown = show(&topics, "rs0", &["--source", &uri])?;
    ensure!(shown["position"]["ts"] == newest.to_string(), "{shown}");
    ensure!(
        shown["position"]["time"] == "2023-11-14T22:13:24Z",
        "{shown}"
    );
    ensure!(
        shown["mode"] == "oplog" && shown["offset"].is_i64(),
        "{shown}"
    );
    let oplog = &shown["oplog"];
    ensure!(oplog["holds_position"] == true, "{shown}");
    ensure!(
        oplog["window_seconds"] == 4 && oplog["head_room_seconds"] == 4,
        "{shown}"
    );
    let text = position(&topics, "rs0", "show", &["--source", &uri], (0, ""))?;
    ensure!(text.contains("head-room    4 s"), "{text}");
    let absent = (2, "has no saved position under prefix \"shown\"");
    position(&topics, "rs1", "show", &[], absent)?;

    // The producer itself measures the same window, and is still the owner of its source.
    let known = wait_for("the window", LIMIT, || {
        let status = status(port.number());
        Ok(status.filter(|status| status["oplog"]["head_room_seconds"] == 4))
    });
    let known = known.with_context(|| producer.stderr_text().unwrap_or_default())?;
    ensure!(known["oplog"]["window_seconds"] == 4, "{known}");
    let gauge = metric(port.number(), "oplog_producer_oplog_head_room_seconds");
    ensure!(gauge == Some(4.0), "{gauge:?}");
    ensure!(producer.is_running()?, "{}", producer.stderr_text()?);

    let brokers = topics.brokers();
    let words = [
        "position",
        "list",
        "--brokers",
        &brokers,
        "--topic-prefix=shown",
    ];
    let mut list = Program::producer(words)?;
    ensure!(list.wait(LIMIT)? == 0, "{}", list.stderr_text()?);
    let line = list.stdout_text()?;
    ensure!(
        line.starts_with(&format!("shown  rs0  {newest} (term 7)  2023-")),
        "{line}"
    );
    Ok(())
}

#[test]
fn a_position_that_will_soon_be_lost_causes_a_warning() -> Result<()> {
    let topics = Topics::none("endangered")?;
    // The producer reads one entry in each reply, so it stays at the beginning of the oplog.
    let pace = Pace {
        entries: 1,
        pause: Duration::from_millis(300),
    };
    let server = Server::start_slow(Oplog::generate(9_000, Shape::Inserts), pace)?;
    let port = Port::lease()?;
    let http = format!("127.0.0.1:{}", port.number());
    let producer = start(&topics, &server, &["--http", &http])?;
    let (oldest, reached) = (server.oplog().time(0), server.oplog().time(9));
    wait_until("a reading and a position", LIMIT, || {
        status(port.number()).is_some_and(|status| {
            let position = status["position"]["ts"].as_str().unwrap_or_default();
            status["oplog"]["oldest"] == oldest.to_string()
                && position.parse::<Timestamp>().is_ok_and(|ts| ts > reached)
        })
    })?;
    // Only an oplog that removes entries endangers a position.
    server.truncate(5);
    wait_until("a warning", LIMIT, || {
        let log = producer.stderr_text().unwrap_or_default();
        log.contains("less than a quarter of the oplog window is left")
    })
}

#[test]
fn a_position_that_is_set_fences_the_producer_and_sends_entries_again() -> Result<()> {
    let topics = Topics::none("set-back")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // Entries appear for ten minutes, so the producer keeps committing until it is fenced.
    let server = Server::start_live(Oplog::make(Recipe {
        first_second: u32::try_from(now.as_secs())? - 2,
        per_second: 50,
        ..Recipe::new(50 * 600, Shape::Inserts)
    }))?;
    let mut producer = start(&topics, &server, &["--http=off"])?;
    let before = wait_for("a position", LIMIT, || {
        let shown = show(&topics, "rs0", &[]).ok();
        let ts = shown.and_then(|shown| shown["position"]["ts"].as_str().map(str::to_owned));
        Ok(ts.filter(|ts| {
            ts.parse::<Timestamp>()
                .is_ok_and(|ts| ts > server.oplog().time(99))
        }))
    })?;
    let to = server.oplog().time(50).to_string();
    let uri = server.uri();
    let set = ["--source", &uri, "--to", &to];
    position(&topics, "rs0", "set", &set, (2, "seems to be running"))?;
    ensure!(producer.is_running()?, "{}", producer.stderr_text()?);
    let fence = [&set[..], &["--fence"]].concat();
    position(&topics, "rs0", "set", &fence, (0, "sent again"))?;
    let code = producer.wait(LIMIT)?;
    ensure!(code == 5, "ended with {code}: {}", producer.stderr_text()?);
    // The fenced producer has not written its own position back.
    ensure!(
        show(&topics, "rs0", &[])?["position"]["ts"] == to,
        "after {before}"
    );
    position(&topics, "rs0", "set", &fence, (0, "is saved already"))?;

    finish(&topics, &server, &[], (0, ""))?;
    let counts = counts(&topics)?;
    expect_counts(&server, &counts, (0, 50), 1)?;
    expect_counts(&server, &counts, (50, 99), 2)
}

#[test]
fn an_entry_that_the_source_does_not_have_is_no_position() -> Result<()> {
    let topics = Topics::none("set-wrong")?;
    let server = Server::start(Oplog::generate(3_000, Shape::Inserts))?;
    finish(&topics, &server, &[], (0, ""))?;
    let uri = server.uri();
    let last = server.oplog().time(2_999);
    let (oldest, between) = (server.oplog().time(0), Timestamp::new(last.seconds, 0));
    let before = server.oplog().time(1_999);
    let told = format!("the last entry before it is {before}");
    let refused = |to: &str, refusal| {
        let set = ["--source", &uri, "--to", to, "--fence"];
        position(&topics, "rs0", "set", &set, refusal).map(drop)
    };
    refused(&between.to_string(), (2, &told))?;
    refused(
        &format!("{}:0", last.seconds + 9),
        (2, "after the newest entry"),
    )?;
    refused(&format!("{}:0", oldest.seconds), (3, "position lost"))?;
    refused("oldest", (2, "--to"))?;
    let other = [
        "--source",
        &uri,
        "--to",
        &before.to_string(),
        "--term=3",
        "--fence",
    ];
    position(
        &topics,
        "rs0",
        "set",
        &other,
        (2, "has the term 7 on the source, not 3"),
    )?;
    let unknown = ["--to", &before.to_string(), "--fence"];
    position(&topics, "rs0", "set", &unknown, (2, "--term"))?;
    // A time is the position of the last entry before it.
    let time = ["--source", &uri, "--to", "2023-11-14T22:13:22Z", "--fence"];
    position(&topics, "rs0", "set", &time, (0, "sent again"))?;
    let shown = show(&topics, "rs0", &[])?;
    ensure!(shown["position"]["ts"] == before.to_string(), "{shown}");
    ensure!(shown["position"]["term"] == 7, "{shown}");
    Ok(())
}

fn state(model: &Model) -> State {
    let mut state = model.state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    state
}

/// Returns a history in which routes end: a collection with a unique index, all in one partition,
/// is renamed and dropped, and other collections get its names.
fn history() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    let index =
        doc! { "createIndexes": "a", "v": 2, "key": { "k": 1 }, "name": "k_1", "unique": true };
    made.command("s.a", 1, index)?;
    for id in 0..30 {
        made.insert_with("s.a", 1, doc! { "_id": id, "k": id })?;
    }
    made.rename("s.a", 1, "s.b")?;
    made.create("s.a", 2)?;
    for id in 0..30 {
        made.insert("s.a", 2, id)?;
        made.set("s.b", 1, id, doc! { "n": id })?;
    }
    for id in 0..10 {
        made.delete("s.b", 1, id)?;
    }
    made.drop("s.b", 1)?;
    made.create("s.b", 3)?;
    for id in 0..30 {
        made.insert("s.b", 3, id)?;
        made.set("s.a", 2, id, doc! { "n": id })?;
    }
    made.drop("s.a", 2)?;
    made.create("s.a", 4)?;
    for id in 0..30 {
        made.insert("s.a", 4, id)?;
    }
    Ok(made)
}

#[test]
fn entries_of_collections_whose_routes_have_ended_are_sent_again_without_harm() -> Result<()> {
    let (topics, made) = (Topics::none("set-routes")?, history()?);
    topics.produce(&made.oplog()?, &[])?;
    let early = ModelServer::start(Model::default())?;
    topics.replay(&early, "early", 2, &[])?;
    let expected = state(&made.expected()?);
    ensure!(
        state(&early.model()) == expected,
        "before the position moves"
    );
    // Before the first document, among the documents of the first collection, before its drop, and
    // after it.
    for second in [BEGIN + 1, BEGIN + 15, BEGIN + 60, BEGIN + 110] {
        let to = format!("{second}:1");
        let set = ["--to", &to, "--term=1", "--fence"];
        position(&topics, "golden", "set", &set, (0, "sent again"))?;
        topics.produce(&made.oplog()?, &[])?;
        topics.replay(&early, "early", 2, &[])?;
        ensure!(state(&early.model()) == expected, "set to {to}");
    }
    // A new group with several members reads all of it.
    let late = ModelServer::start(Model::default())?;
    topics.replay(&late, "late", 3, &[])?;
    ensure!(state(&late.model()) == expected, "a new group");
    let before = format!("{}:1", BEGIN - 1);
    let set = ["--to", &before, "--term=1", "--fence"];
    position(&topics, "golden", "set", &set, (2, "--allow-before-start")).map(drop)
}

#[test]
fn a_member_with_a_short_oplog_does_not_make_a_position_lost() -> Result<()> {
    let topics = Topics::none("short-member")?;
    let server = Server::start(Oplog::generate(3_000, Shape::Inserts))?;
    finish(&topics, &server, &[], (0, ""))?;
    server.shorten_secondaries(2_000);
    let uri = server.uri();
    let separator = if uri.contains('?') { '&' } else { '?' };
    let uri = format!("{uri}{separator}readPreference=secondaryPreferred");
    let to = server.oplog().time(100).to_string();
    let set = ["--source", &uri, "--to", &to, "--fence"];
    position(&topics, "rs0", "set", &set, (0, "sent again"))?;
    let shown = show(&topics, "rs0", &["--source", &uri])?;
    ensure!(shown["oplog"]["holds_position"] == true, "{shown}");
    Ok(())
}
