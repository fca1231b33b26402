//! Several driver cursors at once, each over its range of `_id`.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{RawDocumentBuf, doc};
use futures_util::StreamExt;
use mongodb::{Client, Collection};
use oplog_relay_core::document::{Document, Element};
use oplog_relay_core::key::write_key;
use tokio::task::JoinSet;

use super::MARK;
use super::produce::Sink;
use oplog_relay_kit::stub::object_id;

/// Number of concurrent cursors, equal to the number of readers of `oplog-producer`.
const RANGES: u64 = 4;

/// Passes every document of a range to `take`, and returns the number of documents.
async fn read(
    orders: Collection<RawDocumentBuf>,
    (from, until): (u64, u64),
    mut take: impl FnMut(Document<'_>) -> Result<()>,
) -> Result<u64> {
    let id = |number| ObjectId::from_bytes(object_id(number));
    let range = doc! { "_id": { "$gte": id(from), "$lt": id(until) } };
    let mut cursor = orders.find(range).batch().await?;
    let mut seen = 0;
    while let Some(batch) = cursor.next().await {
        let batch = batch?;
        for document in Document::new(batch.doc_slices()?.as_bytes())?.elements() {
            take(document.and_then(Element::document)?)?;
            seen += 1;
        }
    }
    Ok(seen)
}

/// Reads all ranges at once. `taker` makes the function that receives the documents of one range.
fn read_all<F>(source: &str, entries: u64, taker: impl Fn() -> F) -> Result<()>
where
    F: FnMut(Document<'_>) -> Result<()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::with_uri_str(source).await?;
        let mut ranges = JoinSet::new();
        eprintln!("{MARK}");
        for range in 0..RANGES {
            let orders = client.database("bench").collection("orders");
            let bounds = (entries * range / RANGES, entries * (range + 1) / RANGES);
            ranges.spawn(read(orders, bounds, taker()));
        }
        let mut seen = 0;
        while let Some(range) = ranges.join_next().await {
            seen += range.context("the reader of a range failed")??;
        }
        ensure!(seen == entries, "{seen} of {entries} documents arrived");
        Ok(())
    })
}

/// Reads the documents without writing them.
pub(super) fn read_only(source: &str, entries: u64) -> Result<()> {
    read_all(source, entries, || {
        let mut bytes = 0;
        move |document: Document<'_>| {
            bytes += document.as_bytes().len();
            std::hint::black_box(bytes);
            Ok(())
        }
    })
}

/// Reads from the cursors, computes the keys and writes with librdkafka.
pub(super) fn read_and_write(source: &str, sink: Sink, entries: u64) -> Result<()> {
    let sink = Arc::new(sink);
    read_all(source, entries, || {
        let (sink, mut number, mut key) = (Arc::clone(&sink), 0, Vec::new());
        move |document: Document<'_>| {
            key.clear();
            write_key(document.get("_id")?.context("no _id")?, &mut key)?;
            number += 1;
            sink.send(&sink.topic, number, &key, document.as_bytes())
        }
    })?;
    sink.finish()
}
