//! The bulk commands of a replay, built from entries in memory and sent by the driver.
//!
//! They are those that a replay of the same entries sends: planned, folded and written as it does it,
//! in batches of the size that a replay has with so many partitions, as many on their way at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use bson::{RawDocumentBuf, doc};
use futures_util::future::try_join_all;
use mongodb::Client;
use oplog_consumer::batch::Located;
use oplog_consumer::plan::{Bulk, CommandOptions, Lane, Planner, Step, write_command};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;
use tokio::task::JoinSet;

use super::MARK;
use crate::bench::case::{Case, Group};
use crate::stub::{Oplog, Shape};

/// Entries that are sent over and over to a target that keeps nothing.
const PREPARED: u64 = 20_000;
/// Of `oplog-consumer replay`, by default.
const LANES: usize = 4;
const MOST_BATCH_BYTES: usize = 2 << 20;
const SHARED_BATCH_BYTES: usize = 8 << 20;
const OPTIONS: CommandOptions = CommandOptions {
    bypass_validation: false,
    upsert_unmatched: false,
    max_time_ms: 30_000,
};

/// Entries that a replay applies at once.
type Batch = Vec<Located<'static>>;

pub(super) fn run(case: Case, target: &str, partitions: u32, entries: u64) -> Result<()> {
    let prepared = match case.group() {
        Group::Ferretdb => entries,
        _ => PREPARED.min(entries),
    };
    let batch_bytes = SHARED_BATCH_BYTES / usize::try_from(partitions)?;
    let batches = prepare(prepared, case.shape(), batch_bytes.min(MOST_BATCH_BYTES))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(send_all(target, Arc::new(batches), partitions, entries))
}

/// What is prepared lives as long as the process.
fn prepare(entries: u64, shape: Shape, batch_bytes: usize) -> Result<Vec<Batch>> {
    let oplog: &'static Oplog = Box::leak(Box::new(Oplog::generate(entries, shape)));
    let mut located = Vec::new();
    let (mut bytes, mut batches) = (0, Vec::new());
    for number in 0..entries {
        let document = oplog.entry(number).context("a prepared entry")?;
        let entry = Entry::parse(Document::new(document)?)?;
        let (id, offset) = (
            EntryId {
                ts: entry.ts,
                ord: 0,
            },
            number.cast_signed(),
        );
        located.push(Located { offset, id, entry });
        bytes += document.len();
        if bytes >= batch_bytes || number + 1 == entries {
            batches.push(std::mem::take(&mut located));
            bytes = 0;
        }
    }
    Ok(batches)
}

fn lanes<'b>(batch: &'b [Located<'static>]) -> Result<Vec<Lane<'b>>> {
    let plan = Planner::new(LANES).plan(batch)?;
    let lanes = plan.steps.into_iter().flat_map(|step| match step {
        Step::Write(lanes) => lanes,
        Step::Command(_) => Vec::new(),
    });
    Ok(lanes.collect())
}

async fn send_all(
    target: &str,
    batches: Arc<Vec<Batch>>,
    partitions: u32,
    entries: u64,
) -> Result<()> {
    let client = Client::with_uri_str(target).await?;
    client
        .database("admin")
        .run_command(doc! { "ping": 1 })
        .await?;
    eprintln!("{MARK}");
    let (taken, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..partitions {
        let (client, batches) = (client.clone(), Arc::clone(&batches));
        let (taken, sent) = (Arc::clone(&taken), Arc::clone(&sent));
        workers.spawn(async move {
            while sent.load(Ordering::Relaxed) < entries {
                let number = taken.fetch_add(1, Ordering::Relaxed);
                let batch = &batches[usize::try_from(number % batches.len() as u64)?];
                // Counted before it is acknowledged, lest all workers send one too many.
                if sent.fetch_add(batch.len() as u64, Ordering::Relaxed) < entries {
                    let lanes = lanes(batch)?;
                    try_join_all(lanes.iter().map(|lane| send_lane(&client, lane))).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn send_lane(client: &Client, lane: &Lane<'_>) -> Result<()> {
    for bulk in &lane.bulks {
        send(client, bulk).await?;
    }
    Ok(())
}

async fn send(client: &Client, bulk: &Bulk<'_>) -> Result<()> {
    let (db, collection) = bulk.ns.split_once('.').context("a namespace")?;
    let mut command = Vec::new();
    write_command(collection, bulk.kind, &bulk.writes, OPTIONS, &mut command)?;
    let command = RawDocumentBuf::from_bytes(command)?;
    let reply = client.database(db).run_raw_command(command).await?;
    ensure!(!reply.contains_key("writeErrors"), "refused: {reply}");
    Ok(())
}
