//! The documents of updates, and those before changes, read from the model server as the encoder
//! reads them.

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};
use mongodb::{Client, Database};
use oplog_producer::config;
use oplog_producer::error::{Directive, ProducerError};
use oplog_producer::prepare::lookup::{BeforeLookup, CurrentLookup, PreImageId};
use oplog_producer::source::origin::Origin;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::Timestamp;
use oplog_relay_kit::model::ModelServer;
use oplog_relay_runtime::config::Secret;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::shutdown::Shutdown;

use crate::full_sync::{at, source};

const UNAUTHORIZED: i32 = 13;
const NOT_PRIMARY: i32 = 10107;
const NOT_UNDERSTOOD: i32 = 9;

struct Scene {
    server: ModelServer,
    shop: Database,
    lookup: CurrentLookup,
    shutdown: Shutdown,
}

/// A document as it was found; `None` if it is gone.
type Found = Option<Document>;

impl Scene {
    async fn new() -> Result<Scene> {
        let server = ModelServer::start(source()?)?;
        let client = Client::with_uri_str(server.uri()).await?;
        let shop = client.database("shop");
        shop.run_command(doc! { "create": "orders" }).await?;
        let documents = [doc! { "_id": 1, "n": 10 }, doc! { "_id": "two", "n": 20 }];
        let insert = doc! { "insert": "orders", "documents": documents.to_vec() };
        shop.run_command(insert).await?;
        let live = config::Origin::Live(Secret::new(server.uri()));
        let origin = Origin::open(&live, Some("rs0")).await?;
        let shutdown = Shutdown::manual();
        Ok(Scene {
            lookup: origin.current_lookup(shutdown.clone()).await?,
            server,
            shop,
            shutdown,
        })
    }

    async fn uuid(&self, name: &str) -> Result<Bson> {
        let list = doc! { "listCollections": 1, "filter": { "name": name } };
        let reply = self.shop.run_command(list).await?;
        let found = reply.get_document("cursor")?.get_array("firstBatch")?;
        let found = found
            .first()
            .and_then(Bson::as_document)
            .context("no such collection")?;
        let uuid = found.get_document("info")?.get("uuid");
        uuid.cloned().context("no UUID")
    }

    /// Looks up the document of an update, as the encoder does, from a thread that may block.
    fn look_up(
        &mut self,
        id: impl Into<Bson>,
        ui: Option<&Bson>,
    ) -> Result<(Found, Option<Timestamp>), ProducerError> {
        let entry = update("shop.orders", id.into(), ui).to_vec().expect("BSON");
        let entry = Entry::parse(Raw::new(&entry).expect("a document"))?;
        tokio::task::block_in_place(|| self.lookup.look_up(&entry))?;
        let found = self
            .lookup
            .current()
            .expect("a document that was looked up");
        let document = found.document.map(|document| {
            Document::from_reader(document.as_bytes()).expect("a document of the source")
        });
        Ok((document, found.at))
    }
}

fn update(ns: &str, id: Bson, ui: Option<&Bson>) -> Document {
    let ts = bson::Timestamp {
        time: at(1).seconds,
        increment: 1,
    };
    let o = doc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    let mut entry = doc! { "ts": ts, "v": 2, "op": "u", "ns": ns, "o": o, "o2": { "_id": id } };
    entry.extend(ui.map(|ui| ("ui".to_owned(), ui.clone())));
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_found_with_the_time_of_the_reply() -> Result<()> {
    let mut scene = Scene::new().await?;
    let ui = scene.uuid("orders").await?;
    for (id, n) in [(Bson::Double(1.0), 10), ("two".into(), 20)] {
        let (found, read_at) = scene.look_up(id, Some(&ui))?;
        ensure!(found.context("no document")?.get_i32("n")? == n);
        ensure!(read_at == Some(at(1)), "{read_at:?}");
    }
    // The server waits until it has the entry, and returns nothing that could be rolled back.
    let concern = scene.server.model().last_read_concern();
    let time = bson::Timestamp {
        time: at(1).seconds,
        increment: 1,
    };
    let expected = doc! { "level": "majority", "afterClusterTime": time };
    ensure!(concern.as_ref() == Some(&expected), "{concern:?}");
    // Old servers log no UUID.
    ensure!(scene.look_up("two", None)?.0.is_some());
    ensure!(scene.look_up(3, Some(&ui))?.0.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_another_collection_of_the_same_name_is_not_used() -> Result<()> {
    let mut scene = Scene::new().await?;
    let ui = scene.uuid("orders").await?;
    let rename = doc! { "renameCollection": "shop.orders", "to": "shop.old" };
    let admin = scene.shop.client().database("admin");
    admin.run_command(rename).await?;
    ensure!(scene.look_up(1, Some(&ui))?.0.is_none(), "renamed");
    let insert = doc! { "insert": "orders", "documents": [{ "_id": 1, "n": 99 }] };
    scene.shop.run_command(insert).await?;
    ensure!(scene.look_up(1.5, Some(&ui))?.0.is_none());
    let mut again = Scene {
        lookup: fresh(&scene).await?,
        ..scene
    };
    ensure!(
        again.look_up(1, Some(&ui))?.0.is_none(),
        "another collection of the name"
    );
    again.shop.run_command(doc! { "drop": "orders" }).await?;
    again
        .shop
        .run_command(doc! { "create": "orders", "viewOn": "old", "pipeline": [] })
        .await?;
    // The model refuses to read a view, as a server refuses one that it cannot run.
    again.lookup = fresh(&again).await?;
    ensure!(again.look_up(1, Some(&ui))?.0.is_none(), "a view");
    again.shop.run_command(doc! { "drop": "orders" }).await?;
    again.lookup = fresh(&again).await?;
    ensure!(again.look_up(1, Some(&ui))?.0.is_none(), "no collection");
    Ok(())
}

/// Returns a lookup that has read nothing.
async fn fresh(scene: &Scene) -> Result<CurrentLookup> {
    let live = config::Origin::Live(Secret::new(scene.server.uri()));
    let origin = Origin::open(&live, Some("rs0")).await?;
    Ok(origin.current_lookup(scene.shutdown.clone()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_documents_are_read_in_several_replies() -> Result<()> {
    let mut scene = Scene::new().await?;
    let ui = scene.uuid("orders").await?;
    let text = "x".repeat(6_000_000);
    let mut entries = Vec::new();
    for id in (10..16).rev() {
        let document = doc! { "_id": id, "n": id, "text": &text };
        let insert = doc! { "insert": "orders", "documents": [document] };
        scene.shop.run_command(insert).await?;
        entries.push(update("shop.orders", id.into(), Some(&ui)).to_vec()?);
    }
    let mut wanted = scene.lookup.wanted();
    for entry in &entries {
        wanted.add(&Entry::parse(Raw::new(entry)?)?)?;
    }
    tokio::task::block_in_place(|| scene.lookup.ask(&wanted, at(1)))?;
    let last = entries.last().context("no entries")?;
    let last = Entry::parse(Raw::new(last)?)?;
    ensure!(!scene.lookup.covers(&last)?, "a reply holds 16 MB");
    for id in (10..16).rev() {
        let (found, _) = scene.look_up(id, Some(&ui))?;
        ensure!(found.context("no document")?.get_i32("n")? == id);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_source_are_retried_and_a_missing_privilege_is_named() -> Result<()> {
    let mut scene = Scene::new().await?;
    let ui = scene.uuid("orders").await?;
    for command in ["find", "listCollections"] {
        scene.server.fail_next(command, NOT_PRIMARY);
        ensure!(scene.look_up(1, Some(&ui))?.0.is_some(), "{command}");
        scene.lookup = fresh(&scene).await?;
        scene.server.fail_next(command, UNAUTHORIZED);
        let error = scene.look_up(1, Some(&ui)).err().context("no error")?;
        ensure!(
            error.directive() == Directive::Stop(ExitCode::Usage),
            "{error}"
        );
        let text = error.to_string();
        ensure!(
            text.contains("read on shop") && text.contains("shop.orders"),
            "{text}"
        );
    }
    scene.server.fail_next("find", NOT_UNDERSTOOD);
    let error = scene.look_up(1, Some(&ui)).err().context("no error")?;
    ensure!(
        error.directive() == Directive::Stop(ExitCode::Failed),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_a_lookup() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.server.pause();
    scene.shutdown.trigger();
    let ended = scene.look_up(1, None);
    ensure!(
        matches!(ended, Err(ProducerError::Interrupted)),
        "{ended:?}"
    );
    Ok(())
}

async fn looking_up_before(scene: &Scene) -> Result<BeforeLookup> {
    let live = config::Origin::Live(Secret::new(scene.server.uri()));
    let origin = Origin::open(&live, Some("rs0")).await?;
    Ok(origin.before_lookup(scene.shutdown.clone()).await?)
}

/// Reads the document before a change, as the encoder does; `None` if the source does not have it.
fn read_before(before: &mut BeforeLookup, index: u32) -> Result<Found, ProducerError> {
    let id = PreImageId {
        ui: CollectionUuid([7; 16]),
        ts: at(1),
        index,
    };
    tokio::task::block_in_place(|| before.look_up(id, at(1)))?;
    let document = before.current().document();
    Ok(document.map(|document| Document::from_reader(document.as_bytes()).expect("a document")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_before_a_change_is_read_from_the_pre_images_of_the_source() -> Result<()> {
    let scene = Scene::new().await?;
    let client = Client::with_uri_str(scene.server.uri()).await?;
    let config = client.database("config");
    let time = bson::Timestamp {
        time: at(1).seconds,
        increment: 1,
    };
    let kept = |index: i64| {
        let uuid = Bson::Binary(bson::Uuid::from_bytes([7; 16]).into());
        let id = doc! { "nsUUID": uuid, "ts": time, "applyOpsIndex": index };
        doc! { "_id": id, "preImage": { "_id": 1, "n": index } }
    };
    let insert = doc! { "insert": "system.preimages", "documents": [kept(0), kept(3)] };
    let reply = config.run_command(insert).await?;
    ensure!(reply.get_i32("n").is_ok_and(|n| n == 2), "{reply}");
    let mut before = looking_up_before(&scene).await?;
    for (index, n) in [(0, Some(0)), (1, None), (3, Some(3))] {
        let found = read_before(&mut before, index)?;
        let found = found.map(|found| found.get_i64("n")).transpose()?;
        ensure!(found == n, "{index}: {found:?}");
    }
    let concern = scene.server.model().last_read_concern();
    let expected = doc! { "level": "majority", "afterClusterTime": time };
    ensure!(concern.as_ref() == Some(&expected), "{concern:?}");

    scene.server.fail_next("find", UNAUTHORIZED);
    let error = read_before(&mut before, 0).err().context("no error")?;
    ensure!(
        error.directive() == Directive::Stop(ExitCode::Usage),
        "{error}"
    );
    ensure!(error.to_string().contains("privilege find"), "{error}");
    Ok(())
}
