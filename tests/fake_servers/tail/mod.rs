//! The stub server, tested with the driver and with the producer's source.

mod faults;
mod members;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::{RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::options::{CursorType, FindOptions, ReadConcern};
use mongodb::{Client, Collection};
use oplog_relay_kit::stub::{Contents, Oplog, Recipe, Server, Shape, object_id};

const ENTRIES: u64 = 10_000;

fn serve() -> Result<Server> {
    Ok(Server::start(Oplog::generate(ENTRIES, Shape::Mixed))?)
}

async fn oplog_of(server: &Server) -> Result<Collection<RawDocumentBuf>> {
    let client = Client::with_uri_str(server.uri()).await?;
    Ok(client.database("local").collection("oplog.rs"))
}

fn tail(batch_size: u32) -> FindOptions {
    FindOptions::builder()
        .cursor_type(CursorType::TailableAwait)
        .max_await_time(Duration::from_millis(100))
        .batch_size(batch_size)
        .read_concern(ReadConcern::majority())
        .build()
}

/// Tails from entry `first` on, checks each entry, and returns the time that the tail waited at the
/// end.
async fn tail_from(first: u64, batch_size: u32) -> Result<Duration> {
    let server = serve()?;
    let oplog = oplog_of(&server).await?;
    let ts = server.oplog().time(first);
    let ts = Timestamp {
        time: ts.seconds,
        increment: ts.increment,
    };
    let filter = doc! { "ts": { "$gte": ts } };
    let mut cursor = oplog
        .find(filter)
        .with_options(tail(batch_size))
        .batch()
        .await?;
    let mut next = first;
    loop {
        let began = Instant::now();
        let batch = cursor.next().await.context("the cursor is closed")??;
        let before = next;
        for entry in batch.doc_slices()? {
            let entry = entry?.as_document().context("no document")?;
            assert_eq!(Some(entry.as_bytes()), server.oplog().entry(next));
            next += 1;
        }
        if next == before {
            assert_eq!(next, ENTRIES);
            return Ok(began.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_oplog_comes_in_order_and_then_nothing() -> Result<()> {
    let waited = tail_from(0, 3000).await?;
    assert!(waited >= Duration::from_millis(100), "{waited:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_begins_in_the_middle() -> Result<()> {
    tail_from(1234, 1).await?;
    tail_from(ENTRIES, 100).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_and_the_majoritys_position_are_returned() -> Result<()> {
    let server = serve()?;
    let oplog = oplog_of(&server).await?;
    for (direction, number) in [(1, 0), (-1, ENTRIES - 1)] {
        let found = oplog
            .find_one(doc! {})
            .sort(doc! { "$natural": direction })
            .await?;
        let found = found.context("no entry")?;
        assert_eq!(Some(found.as_bytes()), server.oplog().entry(number));
    }
    let client = oplog.client();
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await?;
    let newest = server.oplog().newest().context("no entry")?;
    let majority = hello
        .get_document("lastWrite")?
        .get_document("majorityOpTime")?;
    assert_eq!(majority.get_timestamp("ts")?.increment, newest.increment);
    let names = client.database("local").list_collection_names().await?;
    assert_eq!(names, ["oplog.rs"]);
    let replset = client
        .database("local")
        .collection::<bson::Document>("system.replset");
    assert_eq!(replset.find_one(doc! {}).await?, None);
    let refused = client
        .database("admin")
        .run_command(doc! { "replSetGetStatus": 1 })
        .await;
    assert!(refused.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_counted_in_sections_and_in_arrays() -> Result<()> {
    let server = serve()?;
    let client = Client::with_uri_str(server.uri()).await?;
    let target = client
        .database("bench")
        .collection::<bson::Document>("orders");
    let documents: Vec<bson::Document> = (0..1000).map(|number| doc! { "_id": number }).collect();
    let inserted = target.insert_many(&documents).await?;
    assert_eq!(inserted.inserted_ids.len(), 1000);
    let update = doc! { "q": { "_id": 1 }, "u": { "$set": { "x": 1 } }, "upsert": true };
    let command = doc! { "update": "orders", "updates": [update.clone(), update] };
    let reply = client.database("bench").run_command(command).await?;
    assert_eq!(reply.get_i32("n")?, 2);
    target.delete_one(doc! { "_id": 1 }).await?;
    assert_eq!(server.written(), [1000, 2, 1]);
    let status = client
        .database("admin")
        .run_command(doc! { "serverStatus": 1 })
        .await?;
    let counters = doc! { "insert": 1000_i64, "update": 2_i64, "delete": 1_i64 };
    assert_eq!(status.get_document("opcounters")?, &counters);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_server_gives_no_entry_before_its_time() -> Result<()> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH);
    let live_in = |seconds: u32| -> Result<Server> {
        let recipe = Recipe {
            first_second: u32::try_from(now()?.as_secs())? + seconds,
            ..Recipe::new(500, Shape::Inserts)
        };
        Ok(Server::start_live(Oplog::make(recipe))?)
    };
    let later = live_in(3600)?;
    assert_eq!(oplog_of(&later).await?.find_one(doc! {}).await?, None);
    let server = live_in(1)?;
    let oplog = oplog_of(&server).await?;
    let mut cursor = oplog.find(doc! {}).with_options(tail(100)).await?;
    for number in 0..server.oplog().len() {
        let entry = cursor.next().await.context("the cursor is closed")??;
        let wall = entry.get_datetime("wall")?.timestamp_millis();
        assert!(now()?.as_millis() >= u128::try_from(wall)?);
        assert_eq!(Some(entry.as_bytes()), server.oplog().entry(number));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_by_ranges_of_their_ids() -> Result<()> {
    const DOCUMENTS: u64 = 50_000;
    let contents = Contents {
        documents: DOCUMENTS,
        large_every: 20_000,
    };
    let server = Server::start_with(Oplog::generate(1, Shape::Inserts), contents)?;
    let client = Client::with_uri_str(server.uri()).await?;
    let orders = client
        .database("bench")
        .collection::<RawDocumentBuf>("orders");
    let mut number = 1000;
    let id = |number| ObjectId::from_bytes(object_id(number));
    let range = doc! { "_id": { "$gte": id(number), "$lt": id(45_000) } };
    let mut found = orders.find(range).await?;
    while found.advance().await? {
        assert_eq!(found.current().get_object_id("_id")?, id(number));
        number += 1;
    }
    assert_eq!(number, 45_000);
    // Documents that do not fit into a reply come with the next one.
    let command = doc! { "find": "orders", "batchSize": 30_000 };
    let reply = client.database("bench").run_command(command).await?;
    let cursor = reply.get_document("cursor")?;
    assert!(cursor.get_i64("id")? != 0 && cursor.get_array("firstBatch")?.len() == 19_999);
    Ok(())
}
