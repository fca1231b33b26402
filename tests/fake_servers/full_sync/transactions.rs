//! Transactions that are open at the start of a copy, or end while it runs.

use anyhow::{Result, ensure};
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_kit::copying::{Copying, Saved};
use oplog_relay_kit::model::{Model, ModelServer};

use crate::full_sync::held::{begin, go_on, wait};
use crate::full_sync::{at, expect_equal, log, replayed, run, source, ui};

/// Returns a source with ten documents in `shop.c` and fewer in `shop.d`, which is read later.
fn two_collections() -> Result<Model> {
    let mut model = source()?;
    for (name, count) in [("c", 10), ("d", 5)] {
        let documents: Vec<Document> = (0..count).map(|n| doc! { "_id": n, "v": 1 }).collect();
        let insert = doc! { "insert": name, "documents": documents };
        run(&mut model, "shop", &insert)?;
    }
    Ok(model)
}

/// Returns the operations of a transaction on a collection: an update, a delete, an insert, and an
/// update of the inserted document.
fn operations(model: &mut Model, name: &str) -> Result<Vec<Bson>> {
    let (ns, ui) = (format!("shop.{name}"), ui(model, "shop", name)?);
    let set = |id: i32| {
        let o = doc! { "$v": 1, "$set": { "v": 2 } };
        doc! { "op": "u", "ns": &ns, "ui": &ui, "o": o, "o2": { "_id": id } }
    };
    let insert = doc! { "op": "i", "ns": &ns, "ui": &ui, "o": { "_id": 100, "v": 1 } };
    let delete = doc! { "op": "d", "ns": &ns, "ui": &ui, "o": { "_id": 3 } };
    Ok([set(4), delete, insert, set(100)].map(Bson::from).to_vec())
}

/// Applies the same operations to the source's documents, which makes them visible as the commit
/// does.
fn apply(model: &mut Model, name: &str) -> Result<()> {
    let delete = doc! { "q": { "_id": 3 }, "limit": 1 };
    let update = doc! { "q": { "_id": 4 }, "u": { "$set": { "v": 2 } } };
    for command in [
        doc! { "delete": name, "deletes": [delete] },
        doc! { "update": name, "updates": [update] },
        doc! { "insert": name, "documents": [{ "_id": 100, "v": 2 }] },
    ] {
        run(model, "shop", &command)?;
    }
    Ok(())
}

/// Logs an entry of the transaction, chained to the one at `previous`; 0 for the first one.
fn log_part(model: &mut Model, (increment, previous): (u32, u32), o: Document) -> Result<()> {
    let id = Binary {
        subtype: BinarySubtype::Uuid,
        bytes: vec![1; 16],
    };
    let before = match previous {
        0 => doc! { "ts": bson::Timestamp { time: 0, increment: 0 }, "t": -1_i64 },
        _ => {
            let ts = at(previous);
            let (time, increment) = (ts.seconds, ts.increment);
            doc! { "ts": bson::Timestamp { time, increment }, "t": 1_i64 }
        }
    };
    let entry = doc! {
        "op": "c", "ns": "admin.$cmd", "o": o, "lsid": { "id": id }, "txnNumber": 1_i64,
        "prevOpTime": before,
    };
    log(model, increment, entry)
}

fn commit() -> Document {
    let time = at(2);
    let (time, increment) = (time.seconds, time.increment);
    let prepared = bson::Timestamp { time, increment };
    doc! { "commitTransaction": 1_i32, "commitTimestamp": prepared }
}

/// `shop.c` is read before the commit and `shop.d` after it; the entries of both come later.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_prepared_before_the_copy_is_committed_during_it() -> Result<()> {
    let mut model = two_collections()?;
    let mut all = operations(&mut model, "c")?;
    all.extend(operations(&mut model, "d")?);
    let count = u32::try_from(all.len())?;
    log_part(
        &mut model,
        (2, 0),
        doc! { "applyOps": all, "prepare": true },
    )?;
    let (server, copying) = begin(model, 1).await?;
    {
        let mut model = server.model();
        apply(&mut model, "c")?;
        apply(&mut model, "d")?;
        log_part(&mut model, (3, 2), commit())?;
    }
    let ids = go_on(&server, copying, 3).await?;
    for ord in 0..count {
        let id = EntryId { ts: at(3), ord };
        ensure!(ids.contains(&id), "{id} is missing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_prepared_before_the_copy_and_aborted_during_it_leaves_nothing() -> Result<()>
{
    let mut model = two_collections()?;
    let all = operations(&mut model, "c")?;
    log_part(
        &mut model,
        (2, 0),
        doc! { "applyOps": all, "prepare": true },
    )?;
    let (server, copying) = begin(model, 1).await?;
    log_part(
        &mut server.model(),
        (3, 2),
        doc! { "abortTransaction": 1_i32 },
    )?;
    let ids = go_on(&server, copying, 3).await?;
    ensure!(ids.iter().all(|id| id.ts < at(3)), "{ids:?}");
    Ok(())
}

/// The first part of the transaction is in the oplog before the start of the copy, the last part
/// after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_several_entries_spans_the_start_of_the_copy() -> Result<()> {
    let mut model = two_collections()?;
    let first = operations(&mut model, "c")?;
    log_part(
        &mut model,
        (2, 0),
        doc! { "applyOps": first, "partialTxn": true },
    )?;
    let (server, copying) = begin(model, 1).await?;
    {
        let mut model = server.model();
        let last = operations(&mut model, "d")?;
        apply(&mut model, "c")?;
        apply(&mut model, "d")?;
        log_part(
            &mut model,
            (3, 2),
            doc! { "applyOps": last, "count": 8_i64 },
        )?;
    }
    let ids = go_on(&server, copying, 3).await?;
    let of_it = ids.iter().filter(|id| id.ts == at(3) && id.ord < 8).count();
    ensure!(of_it == 8, "{of_it} operations");
    Ok(())
}

/// The position of a stream that ended inside a transaction counts some of its operations. The
/// others must come before any document is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_resumes_inside_a_transaction() -> Result<()> {
    let (server, copying) = begin(two_collections()?, 1).await?;
    let (stopped, ()) = tokio::join!(copying.stop(), async { server.resume() });
    let (begun, saved) = stopped?;
    {
        let mut model = server.model();
        let all = operations(&mut model, "c")?;
        apply(&mut model, "c")?;
        log_part(&mut model, (2, 0), doc! { "applyOps": all })?;
    }
    let whole = from(&server, saved.clone()).await?;
    let operation = |ord| EntryId { ts: at(2), ord };
    let first = whole.iter().find(|(id, _)| *id == operation(0));
    let inside = Saved {
        position: Some(Position {
            ts: at(2),
            term: 1,
            ord: 1,
        }),
        reads: 0,
        ..saved
    };
    let rest = from(&server, inside).await?;
    let ids: Vec<EntryId> = rest.iter().map(|(id, _)| *id).collect();
    let others = [operation(1), operation(2), operation(3)];
    ensure!(ids.starts_with(&others) && ids.len() > 3, "{ids:?}");
    let first = first.cloned().into_iter();
    let entries: Vec<_> = begun.into_iter().chain(first).chain(rest).collect();
    expect_equal(&server.model(), &replayed(&entries)?)
}

/// Resumes at a saved position, and runs to the end of copy and tail.
async fn from(server: &ModelServer, saved: Saved) -> Result<Vec<(EntryId, Vec<u8>)>> {
    let copying = Copying::start(&server.uri(), saved, 1).await?;
    let waited = wait("the copy", || {
        copying.is_done() && copying.has_reached(at(2))
    });
    // An error of the copy is more informative than the timeout of the wait, so it is returned
    // first.
    let (entries, _) = copying.stop().await?;
    waited.map(|()| entries)
}
