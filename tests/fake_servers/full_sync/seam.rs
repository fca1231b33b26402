//! Changes to a collection while it is read.

use anyhow::{Context, Result};
use bson::{Document, doc};
use oplog_relay_kit::copying::Copying;
use oplog_relay_kit::model::ModelServer;
use tokio::task::JoinSet;

use crate::full_sync::held::{begin, go_on, wait};
use crate::full_sync::{LIMIT, at, expect_equal, log, replayed, run, source, ui};

const DOCUMENTS: i32 = 10;

/// Returns a source and a copy that has started to read the collection `shop.c`. The server holds the
/// reply, and the other collection has not been read yet.
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
        // Another collection takes the old name.
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

/// The reader looks the collection up by name and UUID. A time series with that name is not the
/// collection, and is no reason to end, although its buckets are not in the reply.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_takes_the_name_of_a_collection_dropped_while_it_is_read() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        let ui = ui(&mut model, "shop", "c")?;
        run(&mut model, "shop", &doc! { "drop": "c" })?;
        let series = doc! { "timeField": "at" };
        let create = doc! { "create": "c", "timeseries": series };
        run(&mut model, "shop", &create)?;
        let dropped = doc! { "op": "c", "ns": "shop.$cmd", "ui": ui, "o": { "drop": "c" } };
        log(&mut model, 2, dropped)?;
    }
    wait("the tail", || server.model().is_tailed())?;
    server.resume();
    wait("the copy", || {
        copying.is_done() && copying.has_reached(at(2))
    })?;
    copying.stop().await.map(drop)
}

/// While a collection is copied, the target's documents are from different times and may violate a
/// unique index. The index must therefore wait for the end of the copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_built_during_the_copy_comes_after_it() -> Result<()> {
    let (server, copying) = reading(1).await?;
    {
        let mut model = server.model();
        let ui = ui(&mut model, "shop", "c")?;
        // Every `v` was 1 when the documents were read; the values differ when the index is built.
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
        // The updates follow the index in the log, so the documents as they were read violate it.
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
async fn an_interrupted_copy_resumes_with_the_unfinished_ranges() -> Result<()> {
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

/// An idle source sends nothing that would wake the copy, so the copy must check for the stop by itself.
#[test]
fn a_copy_stops_while_the_source_is_idle() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let stopped = runtime.block_on(async {
        let (server, copying) = reading(1).await?;
        let mut stop = JoinSet::new();
        stop.spawn(copying.stop());
        server.resume();
        let stopped = tokio::time::timeout(LIMIT, stop.join_next()).await?;
        stopped.context("the copy does not run")??
    });
    // Unlike dropping the runtime, this does not wait for a copy that never ends.
    runtime.shutdown_background();
    stopped.map(|_| ())
}
