//! Other programs that read the topics: Kafka Connect with MongoDB's sink connector, which writes
//! into FerretDB, and Debezium's transform of its envelope.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplog_relay_kit::services::{Connect, Connector, FerretDb, FerretDbOptions, wait_for};

use crate::full_documents::{SNAPSHOT, Source};
use crate::made::Made;
use crate::topics::{LIMIT, Topics};

const MONGO_SINK: &str = "com.mongodb.kafka.connect.MongoSinkConnector";
const FILE_SINK: &str = "org.apache.kafka.connect.file.FileStreamSinkConnector";
const CHANGE_STREAM_HANDLER: &str =
    "com.mongodb.kafka.connect.sink.cdc.mongodb.ChangeStreamHandler";
const DEBEZIUM_HANDLER: &str =
    "com.mongodb.kafka.connect.sink.cdc.debezium.mongodb.ChangeStreamHandler";
/// The setting that makes a sink skip records that it refuses. Both handlers refuse an update whose
/// document is null, even one of MongoDB or Debezium itself. The delete of the document follows, so
/// the update can be skipped.
const TOLERANCE: &str = "errors.tolerance";
const KEY_HAS_ID: &str =
    "com.mongodb.kafka.connect.sink.processor.id.strategy.ProvidedInKeyStrategy";
const UNWRAP: &str = "io.debezium.connector.mongodb.transforms.ExtractNewDocumentState";
const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";

/// Returns inserts, replacements and deletes, and if `with_updates` is set also updates of single
/// fields, which the sink's handler of Debezium's envelope does not apply.
fn made(with_updates: bool) -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..60 {
        made.insert("s.a", 1, id)?;
        match id % 4 {
            0 => made.update("s.a", 1, id, doc! { "_id": id, "text": "replaced" })?,
            1 => made.delete("s.a", 1, id)?,
            2 if with_updates => {
                made.set("s.a", 1, id, doc! { "nested": { "n": id }, "text": "set" })?;
                made.update("s.a", 1, id, doc! { "$v": 1, "$unset": { "ui": true } })?;
            }
            _ => {}
        }
    }
    Ok(made)
}

/// Returns the documents that the history leads to.
fn expected(made: &Made) -> Result<Vec<Document>> {
    let state = made.expected()?.state();
    let documents = state.get("s.a").context("no documents")?.iter();
    let documents: Result<Vec<Document>, _> = documents
        .map(|bytes| Document::from_reader(bytes.as_slice()))
        .collect();
    Ok(sorted(documents?))
}

fn sorted(mut documents: Vec<Document>) -> Vec<Document> {
    documents.sort_by_key(|document| document.get_i32("_id").unwrap_or_default());
    documents
}

fn sink(name: &str, topic: &str, target: &FerretDb, handler: &str) -> Connector {
    Connector::new(name, MONGO_SINK, topic)
        .with("connection.uri", &target.uri())
        .with("database", name)
        .with("collection", "a")
        .with("change.data.capture.handler", handler)
}

async fn documents(client: &Client, database: &str) -> Result<Vec<Document>> {
    let collection = client.database(database).collection::<Document>("a");
    let found = collection.find(doc! {}).await?;
    Ok(sorted(found.try_collect().await?))
}

/// Waits until a sink has written these documents.
fn wait_for_documents(
    connect: &mut Connect,
    target: &FerretDb,
    database: &str,
    expected: &[Document],
) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let client = runtime.block_on(Client::with_uri_str(target.uri()))?;
    let mut last = Vec::new();
    let waited = wait_for("the documents of the sink", LIMIT, || {
        connect.expect_running()?;
        let log = connect.log()?;
        ensure!(!log.contains("being killed"), "a sink has failed: {log}");
        last = runtime.block_on(documents(&client, database))?;
        Ok((last == expected).then_some(()))
    });
    waited.with_context(|| format!("{database} has {last:?}, not {expected:?}"))
}

/// Returns the `_id`s in the file with the output of Debezium's transform.
fn unwrapped(path: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let field = |line: &str| {
        let (_, rest) = line.split_once("_id=")?;
        rest.split([',', '}']).next().map(str::to_owned)
    };
    Ok(text.lines().filter_map(field).collect())
}

#[test]
fn kafka_connect_replays_the_topics_and_debezium_unwraps_its_envelope() -> Result<()> {
    let (all, whole) = (made(true)?, made(false)?);
    let events = Topics::none("connect-events")?;
    events.produce(&all.oplog()?, &["--format=json", "--replayable=false"])?;
    let debezium = Topics::none("connect-debezium")?;
    let envelope = ["--format=json", "--envelope=debezium"];
    debezium.produce(&whole.oplog()?, &envelope)?;
    let with_schema = Topics::none("connect-schema")?;
    let envelope = [&envelope[..], &["--envelope-schema"]].concat();
    with_schema.produce(&whole.oplog()?, &envelope)?;

    let target = FerretDb::start(&FerretDbOptions::target())?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("unwrapped");
    let file = file.to_str().context("the path is not UTF-8")?;
    let connectors = [
        sink(
            "events",
            "connect-events.s.a",
            &target,
            CHANGE_STREAM_HANDLER,
        ),
        sink(
            "debezium",
            "connect-debezium.s.a",
            &target,
            DEBEZIUM_HANDLER,
        ),
        Connector::new("unwrapped", FILE_SINK, "connect-schema.s.a")
            .with("file", file)
            .with("key.converter", JSON)
            .with("value.converter", JSON)
            .with("transforms", "unwrap")
            .with("transforms.unwrap.type", UNWRAP),
    ];
    let mut connect = Connect::start(&events.brokers(), &connectors)?;
    wait_for_documents(&mut connect, &target, "events", &expected(&all)?)?;
    let whole = expected(&whole)?;
    wait_for_documents(&mut connect, &target, "debezium", &whole)?;
    // Each inserted document passes the transform, even if it is deleted later.
    wait_for("the transformed documents", LIMIT, || {
        connect.expect_running()?;
        Ok((unwrapped(file)?.len() == 60).then_some(()))
    })
    .with_context(|| connect.log().unwrap_or_default())
}

/// Sends the entries of a source to topics of each form, with the documents of updates looked up.
/// Returns the source, and the topics of change events.
fn looked_up() -> Result<(Source, Topics)> {
    let mut source = Source::new()?;
    for id in 0..60 {
        source.insert(id)?;
        match id % 4 {
            0 => source.update(id, 1_000 + id)?,
            1 => source.delete(id)?,
            // The document is gone when its update is looked up.
            2 => {
                source.update(id, 2_000 + id)?;
                source.delete(id)?;
            }
            _ => {}
        }
    }
    let lookup = ["--format=json", "--full-document=lookup", "--start=oldest"];
    let events = Topics::none("connect-lookup")?;
    let readers = [&lookup[..], &["--replayable=false"]].concat();
    source.carry(&events, &readers, (0, ""))?;
    let debezium = Topics::none("connect-after")?;
    let envelope = [&lookup[..], &["--envelope=debezium"]].concat();
    source.carry(&debezium, &envelope, (0, ""))?;
    let latest = Topics::none("connect-latest")?;
    let snapshot = [&SNAPSHOT[..], &["--start=oldest"]].concat();
    source.carry(&latest, &snapshot, (0, ""))?;
    Ok((source, events))
}

/// Without a lookup the handler of Debezium's envelope refuses an update of single fields.
#[test]
fn kafka_connect_writes_the_documents_that_were_looked_up() -> Result<()> {
    let (source, topics) = looked_up()?;
    let target = FerretDb::start(&FerretDbOptions::target())?;
    let connectors = [
        sink(
            "lookup",
            "connect-lookup.s.a",
            &target,
            CHANGE_STREAM_HANDLER,
        )
        .with(TOLERANCE, "all"),
        sink("after", "connect-after.s.a", &target, DEBEZIUM_HANDLER).with(TOLERANCE, "all"),
        Connector::new("latest", MONGO_SINK, "connect-latest.s.a")
            .with("connection.uri", &target.uri())
            .with("database", "latest")
            .with("collection", "a")
            .with("document.id.strategy", KEY_HAS_ID)
            .with("delete.on.null.values", "true"),
    ];
    let mut connect = Connect::start(&topics.brokers(), &connectors)?;
    let state = source.server.model().state();
    let documents = state.get("s.a").context("no documents")?.iter();
    let documents: Result<Vec<Document>, _> = documents
        .map(|bytes| Document::from_reader(bytes.as_slice()))
        .collect();
    let expected = sorted(documents?);
    ensure!(expected.len() == 30, "{} documents", expected.len());
    for database in ["latest", "lookup", "after"] {
        wait_for_documents(&mut connect, &target, database, &expected)?;
    }
    Ok(())
}
