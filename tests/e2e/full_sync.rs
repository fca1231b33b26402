//! Full syncs of a live source that is written meanwhile.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, IndexModel};
use oplog_relay_tests::load::Load;
use oplog_relay_tests::services::{FerretDb, Kafka, wait_until};

use crate::consumer::expect_equal_target;
use crate::support::{LIMIT, Line, source};

/// Documents of the large collection.
const DOCUMENTS: i32 = 6_000;

/// Documents that were there before the oplog tells of any, in a database that is written later.
async fn fill(source: &FerretDb) -> Result<()> {
    let database = Client::with_uri_str(source.uri()).await?.database("shop");
    let large = database.collection::<Document>("archive");
    let whole =
        |number: i32| doc! { "_id": number, "code": format!("c{number}"), "text": "x".repeat(400) };
    let documents: Vec<Document> = (0..DOCUMENTS).map(whole).collect();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sync_under_writes_ends_equal() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    fill(&source).await?;
    let mut load = Load::connect(&source.uri(), "shop", 21).await?;
    load.until(2_000).await?;
    let line = Line::run(&kafka, source.uri(), "copied");
    // Slow enough that the writes below meet it.
    let mut producer = line
        .clone()
        .with("--full-sync-rate", "500KB")
        .start_producer()?;
    wait_until("the plan", LIMIT, || {
        let told = producer.stderr_text();
        told.is_ok_and(|told| told.contains("full sync planned"))
    })?;
    load.until(5_000).await?;
    wait_until("the full sync", LIMIT, || {
        let told = producer.stderr_text();
        let done = told.is_ok_and(|told| told.contains("full sync done"));
        done || !producer.is_running().unwrap_or(false)
    })?;
    load.until(6_000).await?;
    producer.terminate()?;
    producer.wait(LIMIT)?;
    let ended = line.flag("--until-caught-up").produce_all()?;
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
