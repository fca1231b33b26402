//! The bulk commands of a replay, built from entries in memory and sent by the driver.
//!
//! A replay of the same entries sends the same commands, with the additional option
//! `bypassDocumentValidation`. Each batch has the entries of one partition and is planned, folded
//! and written as in a replay. The batch size is that of a replay with as many partitions, and each
//! partition has one batch in flight.

use anyhow::{Context, Result, ensure};
use bson::{RawDocumentBuf, doc};
use futures_util::future::try_join_all;
use mongodb::Client;
use oplog_consumer::replay::plan::{Bulk, CommandOptions, Lane, Planner, Step, write_command};
use oplog_consumer::worker::batch::Located;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::key::{partition_for, write_key};
use oplog_relay_core::position::EntryId;
use tokio::task::JoinSet;

use super::MARK;
use crate::comparison::case::{Case, Group};
use oplog_relay_kit::stub::{Oplog, Shape};

/// Maximum number of entries in memory. They are sent repeatedly to a target that stores nothing.
const PREPARED: u64 = 100_000;
/// The default number of lanes of `oplog-consumer replay`.
const LANES: usize = 4;
/// Maximum number of bytes of a batch.
const MOST_BATCH_BYTES: usize = 2 << 20;
/// Bytes that the batches of all partitions share: a quarter of the default of `--queue-bytes`.
const SHARED_BATCH_BYTES: usize = 16 << 20;
const OPTIONS: CommandOptions = CommandOptions {
    bypass_validation: false,
    upsert_unmatched: false,
    max_time_ms: 30_000,
    literal_zeros: false,
    in_transaction: false,
};

/// The entries that a replay applies at once.
type Batch = Vec<Located<'static>>;

pub(super) fn run(case: Case, target: &str, partitions: u32, entries: u64) -> Result<()> {
    let prepared = match case.group() {
        Group::Ferretdb => entries,
        _ => PREPARED.min(entries),
    };
    let all = prepare(prepared, case.shape(), partitions)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(send_all(target, all, entries.div_ceil(prepared)))
}

/// Returns the batches of each partition. The prepared batches live as long as the process.
fn prepare(entries: u64, shape: Shape, partitions: u32) -> Result<Vec<Vec<Batch>>> {
    let oplog: &'static Oplog = Box::leak(Box::new(Oplog::generate(entries, shape)));
    let count = usize::try_from(partitions)?;
    let batch_bytes = (SHARED_BATCH_BYTES / count).min(MOST_BATCH_BYTES);
    let mut all: Vec<Vec<Batch>> = std::iter::repeat_with(|| vec![Batch::new()])
        .take(count)
        .collect();
    let (mut bytes, mut key) = (vec![0; count], Vec::new());
    for number in 0..entries {
        let document = oplog.entry(number).context("no prepared entry")?;
        let entry = Entry::parse(Document::new(document)?)?;
        let id = EntryId {
            ts: entry.ts,
            ord: 0,
        };
        key.clear();
        write_key(entry.document_id()?, &mut key)?;
        let partition = usize::try_from(partition_for(&key, partitions))?;
        let batches = &mut all[partition];
        if bytes[partition] >= batch_bytes {
            bytes[partition] = 0;
            batches.push(Batch::new());
        }
        bytes[partition] += document.len();
        let offset = number.cast_signed();
        let batch = batches.last_mut().context("no batch")?;
        batch.push(Located { offset, id, entry });
    }
    Ok(all)
}

fn lanes<'b>(batch: &'b [Located<'static>]) -> Result<Vec<Lane<'b>>> {
    let plan = Planner::new(LANES).plan(batch)?;
    let lanes = plan.steps.into_iter().flat_map(|step| match step {
        Step::Write(lanes) => lanes,
        Step::Command(_) => Vec::new(),
    });
    Ok(lanes.collect())
}

/// Sends all batches the given number of times.
async fn send_all(target: &str, all: Vec<Vec<Batch>>, times: u64) -> Result<()> {
    let client = Client::with_uri_str(target).await?;
    client
        .database("admin")
        .run_command(doc! { "ping": 1 })
        .await?;
    eprintln!("{MARK}");
    let mut workers = JoinSet::new();
    for batches in all {
        let client = client.clone();
        workers.spawn(async move {
            for _ in 0..times {
                for batch in &batches {
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
    let (db, collection) = bulk.ns.split_once('.').context("no namespace")?;
    let mut command = Vec::new();
    write_command(collection, bulk.kind, &bulk.writes, OPTIONS, &mut command)?;
    let command = RawDocumentBuf::from_bytes(command)?;
    let reply = client.database(db).run_raw_command(command).await?;
    ensure!(!reply.contains_key("writeErrors"), "refused: {reply}");
    Ok(())
}
