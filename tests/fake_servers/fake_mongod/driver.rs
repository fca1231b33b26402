//! The model on its port, seen by the official driver.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::IndexOptions;
use mongodb::{Client, IndexModel};
use oplog_relay_kit::model::{Model, ModelServer};
use tokio::task::JoinSet;

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => Some(error.write_errors.as_ref()?.first()?.code),
        _ => None,
    }
}

#[tokio::test]
async fn the_driver_works_as_with_a_server() -> Result<()> {
    let server = ModelServer::start(Model::default())?;
    let client = Client::with_uri_str(server.uri()).await?;
    let db = client.database("d");
    let collection = db.collection::<Document>("c");

    // The driver sends the documents in a section beside the command.
    let documents = (0..2500).map(|n| doc! { "_id": n, "n": n % 10 });
    let inserted = collection.insert_many(documents).await?;
    ensure!(inserted.inserted_ids.len() == 2500);
    let mut found = collection
        .find(doc! {})
        .sort(doc! { "_id": 1 })
        .batch_size(100)
        .await?;
    for n in 0..2500 {
        let document = found.next().await.context("no document")??;
        ensure!(document == doc! { "_id": n, "n": n % 10 });
    }
    ensure!(found.next().await.is_none());

    let updated = collection
        .update_one(doc! { "_id": 7 }, doc! { "$set": { "n": 77 } })
        .await?;
    ensure!((updated.matched_count, updated.modified_count) == (1, 1));
    let replaced = collection
        .replace_one(doc! { "_id": -1 }, doc! { "n": 0 })
        .upsert(true)
        .await?;
    ensure!(replaced.upserted_id == Some((-1).into()));
    let deleted = collection.delete_many(doc! { "n": 3 }).await?;
    ensure!(deleted.deleted_count == 250);

    db.create_collection("made").capped(true).size(4096).await?;
    let error = db.create_collection("made").await.unwrap_err();
    ensure!(code(&error) == Some(48));
    let unique = IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder()
        .keys(doc! { "e": 1 })
        .options(unique)
        .build();
    let made = db.collection::<Document>("made");
    made.create_index(index).await?;
    ensure!(made.list_index_names().await? == ["_id_", "e_1"]);
    made.insert_one(doc! { "e": "x" }).await?;
    let error = made.insert_one(doc! { "e": "x" }).await.unwrap_err();
    ensure!(code(&error) == Some(11000) && error.to_string().contains("index: e_1 dup key"));

    let rename = doc! { "renameCollection": "d.made", "to": "e.renamed" };
    client.database("admin").run_command(rename).await?;
    let names: Vec<_> = db
        .list_collections()
        .await?
        .map_ok(|found| found.name)
        .try_collect()
        .await?;
    ensure!(names == ["c"]);
    collection.drop().await?;
    ensure!(client.list_database_names().await? == ["e"]);
    ensure!(server.model().state().into_keys().eq(["e.renamed"]));
    let error = db.run_command(doc! { "mapReduce": "c" }).await.unwrap_err();
    ensure!(code(&error) == Some(59));
    Ok(())
}

#[tokio::test]
async fn a_requested_failure_occurs_once_and_nothing_is_executed() -> Result<()> {
    let server = ModelServer::start(Model::default())?;
    let client = Client::with_uri_str(server.uri()).await?;
    let collection = client.database("d").collection::<Document>("c");
    server.fail_next("insert", 11600);
    server.fail_next("insert", 91);
    for expected in [11600, 91] {
        let insert = doc! { "insert": "c", "documents": [{ "_id": 1 }] };
        let error = client.database("d").run_command(insert).await.unwrap_err();
        ensure!(code(&error) == Some(expected), "{error}");
        ensure!(server.model().state().is_empty());
    }
    collection.insert_one(doc! { "_id": 1 }).await?;
    ensure!(server.model().state().contains_key("d.c"));
    Ok(())
}

#[tokio::test]
async fn a_paused_server_holds_its_replies_until_it_is_resumed() -> Result<()> {
    let server = ModelServer::start(Model::default())?;
    let client = Client::with_uri_str(server.uri()).await?;
    let collection = client.database("d").collection::<Document>("c");
    server.pause();
    let mut insert = JoinSet::new();
    insert.spawn(async move { collection.insert_one(doc! { "_id": 1 }).await });
    // The insert is executed but not answered; the commands that monitor the server are answered.
    while server.model().state().is_empty() {
        client
            .database("d")
            .run_command(doc! { "hello": 1 })
            .await?;
    }
    for _ in 0..20 {
        client
            .database("d")
            .run_command(doc! { "hello": 1 })
            .await?;
        ensure!(insert.try_join_next().is_none());
    }
    server.resume();
    insert
        .join_next()
        .await
        .context("no insert is running")???;
    Ok(())
}

#[tokio::test]
async fn a_paused_server_can_be_stopped() -> Result<()> {
    let server = ModelServer::start(Model::default())?;
    let client = Client::with_uri_str(server.uri()).await?;
    server.pause();
    let mut create = JoinSet::new();
    create.spawn(async move {
        let db = client.database("d");
        db.run_command(doc! { "create": "c" }).await
    });
    while server.model().state().is_empty() {
        ensure!(create.try_join_next().is_none());
        tokio::task::yield_now().await;
    }
    drop(server);
    ensure!(create.join_next().await.is_some());
    Ok(())
}
