//! The position and the lag of a replay that applies nothing: a filter excludes every entry, a
//! document is held, or the target does not answer.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::PositionRecord;
use oplog_relay_kit::http_status::{metric, status};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::topic_reader::wait_until_settled;
use oplog_relay_runtime::kafka::{KafkaOptions, Reader};

use crate::made::{BEGIN, Made};
use crate::topics::{LIMIT, Topics};

const DOCUMENTS: i32 = 50;

fn history() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    (0..DOCUMENTS).try_for_each(|id| made.insert("s.a", 1, id))?;
    Ok(made)
}

/// Returns topics with a document that a unique index of the target refuses, and the target. On the
/// target, the value belongs to a document that no entry mentions.
pub(crate) fn taken(prefix: &str) -> Result<(Topics, ModelServer)> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    let index =
        doc! { "createIndexes": "a", "v": 2, "unique": true, "key": { "k": 1 }, "name": "k_1" };
    made.command("s.a", 1, index)?;
    made.insert_with("s.a", 1, doc! { "_id": 1, "k": 1 })?;
    let topics = Topics::carry(prefix, &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    let foreign = doc! { "insert": "a", "documents": [{ "_id": 99, "k": 1 }] };
    on_target(&target, foreign)?;
    Ok((topics, target))
}

/// Runs a command on the database of the histories.
pub(crate) fn on_target(target: &ModelServer, command: Document) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = Client::with_uri_str(target.uri()).await?;
        client.database("s").run_command(command).await?;
        Ok(())
    })
}

/// Starts a replay that serves its status.
pub(crate) fn start(
    topics: &Topics,
    prefix: &str,
    target: &ModelServer,
    port: &Port,
    flags: &[&str],
) -> Result<Program> {
    let common = [
        "replay".to_owned(),
        format!("--http=127.0.0.1:{}", port.number()),
        format!("--brokers={}", topics.brokers()),
        format!("--topic-prefix={prefix}"),
        format!("--group={prefix}"),
        format!("--target={}", target.uri()),
    ];
    let common = common.iter().map(String::as_str);
    Program::consumer(common.chain(flags.iter().copied()))
}

/// Replays until the group has nothing left to do. Returns the source time that it then shows: in
/// its metric, and as the latest `ts` of its partitions.
fn settled(topics: &Topics, prefix: &str, flags: &[&str]) -> Result<(f64, Option<String>)> {
    let target = ModelServer::start(Model::default())?;
    let port = Port::lease()?;
    let mut program = start(topics, prefix, &target, &port, flags)?;
    let partitions = |shown: &serde_json::Value| shown["partitions"].as_array().cloned();
    let mut times = Vec::new();
    wait_until("the end of all partitions", LIMIT, || {
        let Some(shown) = status(port.number()) else {
            return false;
        };
        let partitions = partitions(&shown).unwrap_or_default();
        times = partitions
            .iter()
            .filter_map(|partition| partition["ts"].as_str().map(str::to_owned))
            .collect();
        // The producer of "nothing" wrote no records, so there are no partitions to read.
        let is_assigned = partitions.is_empty() == (prefix == "nothing");
        let is_read = shown["positions"]["golden"].is_string();
        is_assigned && is_read && shown["lag_offsets"] == 0 && shown["lag_seconds"] == 0.0
    })?;
    ensure!(program.is_running()?, "{}", program.stderr_text()?);
    let position = metric(port.number(), "oplog_consumer_position_timestamp_seconds");
    let lag = metric(port.number(), "oplog_consumer_lag_seconds");
    ensure!(lag == Some(0.0), "{lag:?}");
    ensure!(
        target
            .model()
            .state()
            .keys()
            .all(|ns| ns.starts_with("oplog_relay"))
    );
    program.terminate()?;
    program.wait(LIMIT)?;
    Ok((position.context("no position")?, times.into_iter().max()))
}

#[test]
fn a_source_that_is_filtered_completely_moves_the_position_and_the_lag() -> Result<()> {
    let made = history()?;
    let last = Timestamp::new(made.next_second()? - 1, 1);
    ensure!(last.seconds > BEGIN);
    // The producer filters: it writes no record, only the position.
    let none = Topics::none("nothing")?;
    none.produce(&made.oplog()?, &["--exclude-namespaces=s"])?;
    let options = KafkaOptions {
        brokers: none.brokers(),
        options: Vec::new(),
    };
    let topic = "__nothing.position.golden";
    wait_until_settled(&none.brokers(), [(topic, 0)])?;
    let saved = Reader::new(&options).read_last_committed_blocking(topic)?;
    let saved = saved
        .and_then(|record| record.value)
        .context("no position")?;
    let saved: PositionRecord = serde_json::from_slice(&saved)?;
    ensure!(saved.ts == last.to_string(), "{saved:?}");
    let (position, _) = settled(&none, "nothing", &[])?;
    ensure!(
        position.to_string() == last.seconds.to_string(),
        "{position}"
    );
    // The consumer filters.
    let all = Topics::carry("passed", &made.oplog()?)?;
    let (position, ts) = settled(&all, "passed", &["--exclude-namespaces=s"])?;
    ensure!(ts == Some(last.to_string()), "{ts:?}");
    ensure!(
        position.to_string() == last.seconds.to_string(),
        "{position}"
    );
    Ok(())
}

/// No entry releases the document. An operator removes the other document that has its value.
#[test]
fn a_held_document_is_written_when_its_value_is_free() -> Result<()> {
    let (topics, target) = taken("freed")?;
    let port = Port::lease()?;
    let program = start(&topics, "freed", &target, &port, &[])?;
    let refused = "an index of the target refuses a document";
    wait_until("the warning", LIMIT, || {
        program.stderr_text().is_ok_and(|log| log.contains(refused))
    })?;
    let shown = status(port.number()).context("no status")?;
    ensure!(shown["lag_offsets"].as_i64() > Some(0), "{shown}");
    let removed = doc! { "delete": "a", "deletes": [{ "q": { "_id": 99 }, "limit": 1 }] };
    on_target(&target, removed)?;
    wait_until("the end", LIMIT, || {
        status(port.number()).is_some_and(|shown| shown["lag_offsets"] == 0)
    })?;
    let state = target.model().state();
    let found = state.get("s.a").context("the collection")?;
    let document = Document::from_reader(found.first().context("no document")?.as_slice())?;
    ensure!(
        found.len() == 1 && document == doc! { "_id": 1, "k": 1 },
        "{document}"
    );
    Ok(())
}

#[test]
fn entries_that_the_target_does_not_accept_count_as_lag() -> Result<()> {
    const LATER: i32 = 500;
    let mut made = history()?;
    let topics = Topics::carry("behind", &made.oplog()?)?;
    let first = made.next_second()? - 1;
    let target = ModelServer::start(Model::default())?;
    let port = Port::lease()?;
    let mut program = start(&topics, "behind", &target, &port, &[])?;
    let lag = || status(port.number()).map(|shown| shown["lag_seconds"].clone());
    let settles = |lag: serde_json::Value, ts: u32| {
        status(port.number()).is_some_and(|shown| {
            let saved = shown["positions"]["golden"].as_str();
            let seconds = saved.and_then(|saved| saved.split(':').next());
            shown["lag_seconds"] == lag && seconds == Some(ts.to_string().as_str())
        })
    };
    wait_until("the first part", LIMIT, || settles(0.0.into(), first))?;
    target.pause();
    for id in 0..LATER {
        made.insert("s.a", 1, 1000 + id)?;
    }
    topics.produce(&made.oplog()?, &[])?;
    let last = made.next_second()? - 1;
    let behind = f64::from(last - first);
    wait_until("the second part", LIMIT, || settles(behind.into(), last))
        .with_context(|| format!("{:?} s, not {behind}", lag()))?;
    target.resume();
    wait_until("the end", LIMIT, || settles(0.0.into(), last))?;
    let age = metric(port.number(), "oplog_consumer_source_lag_seconds");
    let position = metric(port.number(), "oplog_consumer_position_timestamp_seconds");
    ensure!(
        position.map(|at| at.to_string()) == Some(last.to_string()),
        "{position:?}"
    );
    // This lag is the age of the last entry, which is years old.
    ensure!(age.is_some_and(|age| age > 1e6), "{age:?}");
    program.terminate()?;
    program.wait(LIMIT).map(drop)
}
