//! Full syncs of a live source that is written to during the sync.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, IndexModel};
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::Format;
use oplog_relay_kit::load::Load;
use oplog_relay_kit::services::{FerretDb, Kafka, wait_until};
use oplog_relay_kit::topic_reader::{entries, read_topics};

use crate::consumer::expect_equal_target;
use crate::support::{LIMIT, Line, Random, source};

/// Number of documents in the large collection.
const DOCUMENTS: i32 = 2_000;
/// Number of documents in the collection whose copy is killed, enough for several reads.
const KILLED_DOCUMENTS: i32 = 5_000;
/// Bytes of each of these documents.
const KILLED_BYTES: usize = 4_000;
/// The longest duration of a copy. FerretDB sorts its whole oplog whenever the newest entry is
/// queried, so a copy takes long.
const COPIED_WITHIN: Duration = Duration::from_secs(400);
const KILLS: u32 = 10;

/// Inserts documents into a collection with a unique index, and creates an empty collection in the
/// same database. The producer starts later, and the load writes to other collections of the
/// database.
async fn fill(source: &FerretDb, documents: i32, text: usize) -> Result<()> {
    let database = Client::with_uri_str(source.uri()).await?.database("shop");
    let large = database.collection::<Document>("archive");
    let whole = |number: i32| doc! { "_id": number, "code": format!("c{number}"), "text": "x".repeat(text) };
    let documents: Vec<Document> = (0..documents).map(whole).collect();
    for part in documents.chunks(1_000) {
        large.insert_many(part).await?;
    }
    let unique = IndexOptions::builder()
        .unique(true)
        .name("code_1".to_owned())
        .build();
    let index = IndexModel::builder()
        .keys(doc! { "code": 1 })
        .options(unique)
        .build();
    large.create_index(index).await?;
    database.create_collection("empty").await?;
    Ok(())
}

async fn indexes_of(server: &FerretDb, collection: &str) -> Result<Vec<String>> {
    let database = Client::with_uri_str(server.uri()).await?.database("shop");
    let collection = database.collection::<Document>(collection);
    Ok(collection.list_index_names().await?)
}

/// Returns how often a full sync has sent each document of a collection, by key.
fn reads_of(kafka: &Kafka, prefix: &str, ns: &str) -> Result<BTreeMap<Vec<u8>, u32>> {
    let contents = read_topics(&kafka.brokers(), prefix, Format::Bson)?;
    let mut reads = BTreeMap::new();
    for (_, record, found) in entries(&contents) {
        let entry = Entry::parse(Raw::new(&found.bytes)?)?;
        if entry.ns == ns && entry.snapshot.is_some() {
            let key = record.key.clone().context("no key")?;
            *reads.entry(key).or_default() += 1;
        }
    }
    Ok(reads)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sync_killed_ten_times_ends_equal() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    fill(&source, KILLED_DOCUMENTS, KILLED_BYTES).await?;
    let mut load = Load::connect(&source.uri(), "shop", 22).await?;
    let line = Line::run(&kafka, source.uri(), "copykill");
    let mut random = Random::new()?;
    for kill in 0..KILLS {
        load.until(u64::from(kill + 1) * 100).await?;
        let mut producer = line.start_producer()?;
        wait_until("a session", LIMIT, || {
            let log = producer.stderr_text();
            log.is_ok_and(|log| log.contains("session opened"))
        })?;
        let life = Duration::from_millis(random.below(4_000));
        let begun = Instant::now();
        wait_until("the random moment", LIMIT, || begun.elapsed() >= life)?;
        ensure!(producer.is_running()?, "{}", producer.stderr_text()?);
        producer.kill_9()?;
    }
    line.flag("--until-caught-up").produce_all()?;
    let reads = reads_of(&kafka, "copykill", "shop.archive")?;
    ensure!(
        reads.len() == usize::try_from(KILLED_DOCUMENTS)?,
        "{} documents",
        reads.len()
    );
    // Two kills may interrupt the same read.
    let most = reads.values().max();
    ensure!(most < Some(&4), "a document was read {most:?} times");
    expect_equal_target(&kafka, &source, "copykill").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn full_syncs_are_requested_while_the_stream_runs() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    fill(&source, DOCUMENTS, 400).await?;
    let mut load = Load::connect(&source.uri(), "shop", 23).await?;
    load.until(200).await?;
    let line = Line::run(&kafka, source.uri(), "requested").with("--start", "now");
    let mut producer = line.start_producer()?;
    wait_until("a session", LIMIT, || {
        let log = producer.stderr_text();
        log.is_ok_and(|log| log.contains("session opened"))
    })?;
    load.until(500).await?;
    let request = Line::new("full-sync")
        .with("--brokers", kafka.brokers())
        .with("--topic-prefix", "requested")
        .with("--source-name", "rs0");
    // Two parts of one collection are requested; the second one waits for the first.
    for part in ["{\"_id\": {\"$lt\": 100}}", "{\"_id\": {\"$gte\": 1900}}"] {
        let archive = request.clone().with("--namespaces", "shop.archive");
        archive.with("--filter", part).produce_all()?;
    }
    let wrong = request.clone().with("--namespaces", "shop.archive");
    wrong
        .with("--filter", r#"{"_id": {"$nope": 1}}"#)
        .produce_all()?;
    request.with("--namespaces", "shop.nothing").produce_all()?;
    let refused = [
        "no collection of the source matches both shop.nothing",
        "rejects the filter",
    ];
    wait_until("both full syncs, and two refusals", COPIED_WITHIN, || {
        let log = producer.stderr_text().unwrap_or_default();
        let copied = log.matches("full sync done").count() == 2;
        (copied && refused.iter().all(|part| log.contains(part)))
            || !producer.is_running().unwrap_or(false)
    })?;
    producer.terminate()?;
    producer.wait(LIMIT)?;
    let log = producer.stderr_text()?;
    for part in refused {
        ensure!(log.contains(part), "{log}");
    }
    line.clone().flag("--until-caught-up").produce_all()?;
    let reads = reads_of(&kafka, "requested", "shop.archive")?;
    ensure!(reads.len() == 200, "{} documents", reads.len());
    ensure!(reads.values().all(|count| *count == 1), "{reads:?}");
    let others = reads_of(&kafka, "requested", "shop.customers")?;
    ensure!(
        others.is_empty(),
        "{} documents of another collection were read",
        others.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_without_a_position_require_an_explicit_choice() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    fill(&source, 10, 10).await?;
    let line = Line::run(&kafka, source.uri(), "worded").flag("--until-caught-up");
    line.clone()
        .with("--sync", "tail")
        .produce()?
        .with_code(2)?
        .with_log(&["--start now"])?;
    line.clone().with("--sync", "full").produce_all()?;
    // The second start has nothing to do, and does not copy again.
    line.clone().with("--sync", "full").produce_all()?;
    ensure!(
        reads_of(&kafka, "worded", "shop.archive")?.len() == 10,
        "not every document was read once"
    );
    let other = line.with("--source-name", "other");
    other
        .produce()?
        .with_code(2)?
        .with_log(&["worded.shop.archive", "--sync full-then-tail"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sync_under_writes_ends_equal() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    fill(&source, DOCUMENTS, 400).await?;
    let mut load = Load::connect(&source.uri(), "shop", 21).await?;
    load.until(1_000).await?;
    let line = Line::run(&kafka, source.uri(), "copied");
    // The rate is low enough for the writes below to overlap with the copy.
    let mut producer = line
        .clone()
        .with("--full-sync-rate", "300KB")
        .start_producer()?;
    wait_until("the plan", LIMIT, || {
        let log = producer.stderr_text();
        log.is_ok_and(|log| log.contains("full sync planned"))
    })?;
    load.until(2_000).await?;
    wait_until("the full sync", COPIED_WITHIN, || {
        let log = producer.stderr_text();
        let done = log.is_ok_and(|log| log.contains("full sync done"));
        done || !producer.is_running().unwrap_or(false)
    })?;
    load.until(2_500).await?;
    producer.terminate()?;
    producer.wait(LIMIT)?;
    let ended = line.flag("--until-caught-up").produce_all()?;
    let log = producer.stderr_text()?;
    ensure!(log.contains("estimated_duration="), "{log}");
    ensure!(
        !ended.stderr.contains("full sync planned"),
        "{}",
        ended.stderr
    );

    let target = expect_equal_target(&kafka, &source, "copied").await?;
    let indexes = indexes_of(&target, "archive").await?;
    ensure!(indexes.contains(&"code_1".to_owned()), "{indexes:?}");
    let names = Client::with_uri_str(target.uri()).await?.database("shop");
    let names = names.list_collection_names().await?;
    ensure!(names.contains(&"empty".to_owned()), "{names:?}");
    Ok(())
}
