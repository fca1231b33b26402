//! Changes to a collection while it is read.

use anyhow::{Context, Result};
use bson::{Document, doc};
use oplog_relay_kit::copying::Copying;
use oplog_relay_kit::model::ModelServer;
use tokio::task::JoinSet;

use crate::full_sync::held::{begin, go_on, wait};
use crate::full_sync::{LIMIT, at, expect_equal, log, replayed, run, source, ui};

const DOCUMENTS: i32 = 10;

/// Returns a source whose collection `shop.c` is being read, with the reply held, and whose other
/// collection comes later.
async fn reading(readers: usize) -> Result<(ModelServer, Copying)> {
    let mut model = source()?;
    let documents: Vec<Document> = (0..DOCUMENTS).map(|n| doc! { "_id": n, "v": 1 }).collect();
    run(
        &mut model,
        "shop",
        &doc! { "insert": "c", "documents": documents },
    )?;
    let other = doc! { "insert": "other", "documents": [{ "_id": 0 }] };
    run(&mut model, "shop", &other)?;
    begin(model, readers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_after_a_read_is_not_undone_by_it() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        for (increment, value) in [(2, 2), (3, 3)] {
            let ui = ui(&mut model, "shop", "c")?;
            let change = doc! { "$set": { "v": value } };
            let update = doc! { "q": { "_id": 4 }, "u": &change };
            run(
                &mut model,
                "shop",
                &doc! { "update": "c", "updates": [update] },
            )?;
            let mut o = doc! { "$v": 1 };
            o.extend(change);
            let entry = doc! { "op": "u", "ns": "shop.c", "ui": ui, "o": o, "o2": { "_id": 4 } };
            log(&mut model, increment, entry)?;
        }
    }
    go_on(&server, copying, 3).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_renamed_while_it_is_read_is_copied_under_its_new_name() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        let ui = ui(&mut model, "shop", "c")?;
        let rename = doc! { "renameCollection": "shop.c", "to": "shop.d" };
        run(&mut model, "admin", &rename)?;
        let o = doc! { "renameCollection": "shop.c", "to": "shop.d", "stayTemp": false };
        log(
            &mut model,
            2,
            doc! { "op": "c", "ns": "shop.$cmd", "ui": ui, "o": o },
        )?;
        // Another collection has the name now.
        run(&mut model, "shop", &doc! { "create": "c" })?;
        let other = crate::full_sync::ui(&mut model, "shop", "c")?;
        let o = doc! { "create": "c", "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } };
        log(
            &mut model,
            3,
            doc! { "op": "c", "ns": "shop.$cmd", "ui": other, "o": o },
        )?;
    }
    go_on(&server, copying, 3).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_dropped_while_it_is_read_is_gone() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        let ui = ui(&mut model, "shop", "c")?;
        run(&mut model, "shop", &doc! { "drop": "c" })?;
        let o = doc! { "drop": "c" };
        log(
            &mut model,
            2,
            doc! { "op": "c", "ns": "shop.$cmd", "ui": ui, "o": o },
        )?;
    }
    go_on(&server, copying, 2).await.map(drop)
}

/// The target's documents are from different times while a collection is copied, so a unique index
/// must wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_built_meanwhile_comes_after_the_copy() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        let ui = ui(&mut model, "shop", "c")?;
        // Every `v` was 1 when it was read; the values differ when the index is built.
        for n in 0..DOCUMENTS {
            let update = doc! { "q": { "_id": n }, "u": { "$set": { "v": n } } };
            run(
                &mut model,
                "shop",
                &doc! { "update": "c", "updates": [update] },
            )?;
        }
        let index = doc! { "key": { "v": 1 }, "name": "v_1", "unique": true };
        run(
            &mut model,
            "shop",
            &doc! { "createIndexes": "c", "indexes": [index] },
        )?;
        let mut o = doc! { "createIndexes": "c", "v": 2, "key": { "v": 1 }, "name": "v_1" };
        o.insert("unique", true);
        // The updates come after it in the log, as if the documents had been read too early.
        log(
            &mut model,
            2,
            doc! { "op": "c", "ns": "shop.$cmd", "ui": &ui, "o": o },
        )?;
        for n in 0..DOCUMENTS {
            let o = doc! { "$v": 1, "$set": { "v": n } };
            let entry = doc! { "op": "u", "ns": "shop.c", "ui": &ui, "o": o, "o2": { "_id": n } };
            log(&mut model, 3 + n.unsigned_abs(), entry)?;
        }
    }
    go_on(&server, copying, 2 + DOCUMENTS.unsigned_abs())
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_broken_off_goes_on_with_what_is_open() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        let more: Vec<Document> = (0..5).map(|n| doc! { "_id": n, "more": true }).collect();
        run(
            &mut model,
            "shop",
            &doc! { "insert": "later", "documents": more.clone() },
        )?;
        let ui = ui(&mut model, "shop", "later")?;
        for (increment, o) in (2..).zip(more) {
            let entry = doc! { "op": "i", "ns": "shop.later", "ui": &ui, "o": o };
            log(&mut model, increment, entry)?;
        }
    }
    // The held read is discarded.
    let (stopped, ()) = tokio::join!(copying.stop(), async { server.resume() });
    let (mut entries, saved) = stopped?;
    let copying = Copying::start(&server.uri(), saved, 2).await?;
    wait("the copy", || {
        copying.is_done() && copying.has_reached(at(6))
    })?;
    let (more, saved) = copying.stop().await?;
    entries.extend(more);
    assert!(saved.state.copies.is_empty() && saved.state.ranges.is_empty());
    assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
    expect_equal(&server.model(), &replayed(&entries)?)
}

/// Nothing arrives then that would wake the copy, so it must check for the end by itself.
#[test]
fn a_copy_stops_while_the_source_rests() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let stopped = runtime.block_on(async {
        let (server, copying) = reading(1).await?;
        let mut stop = JoinSet::new();
        stop.spawn(copying.stop());
        server.resume();
        let stopped = tokio::time::timeout(LIMIT, stop.join_next()).await?;
        stopped.context("a task")??
    });
    // A copy that never ends would be left behind here.
    runtime.shutdown_background();
    stopped.map(|_| ())
}
