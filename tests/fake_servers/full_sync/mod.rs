//! Full syncs of a scripted source in this process: the interleaving of copy and tail, names,
//! indexes, every type of `_id`.

mod held;
mod seam;
mod transactions;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Bson, Document, doc};
use oplog_consumer::replay::plan::Planner;
use oplog_producer::error::Directive;
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::copying::{Copying, Saved};
use oplog_relay_kit::model::{Model, ModelServer, Scenario, State};
use oplog_relay_kit::services::wait_until;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const SECONDS: u32 = 1_700_000_000;

/// Returns the time of an entry of these tests.
pub(crate) const fn at(increment: u32) -> Timestamp {
    Timestamp::new(SECONDS, increment)
}

/// Appends an entry to the source's oplog.
pub(crate) fn log(model: &mut Model, increment: u32, fields: Document) -> Result<()> {
    let ts = bson::Timestamp {
        time: SECONDS,
        increment,
    };
    let mut entry = doc! { "ts": ts, "t": 1_i64, "v": 2 };
    entry.extend(fields);
    model
        .log(&entry.to_vec()?)
        .map_err(|failure| anyhow::anyhow!("{failure:?}"))
}

/// Runs a command on the model, which must succeed.
pub(crate) fn run(model: &mut Model, db: &str, command: &Document) -> Result<()> {
    let reply = model.command(db, Raw::new(&command.to_vec()?)?)?;
    let reply = Document::from_reader(reply.as_slice())?;
    ensure!(reply.get_f64("ok")? > 0.0, "{command}: {reply}");
    Ok(())
}

/// Returns the UUID of a collection, as entries contain it.
pub(crate) fn ui(model: &mut Model, db: &str, name: &str) -> Result<Bson> {
    let list = doc! { "listCollections": 1, "filter": { "name": name } }.to_vec()?;
    let reply = Document::from_reader(model.command(db, Raw::new(&list)?)?.as_slice())?;
    let batch = reply.get_document("cursor")?.get_array("firstBatch")?;
    let found = batch.first().and_then(Bson::as_document);
    let uuid = found.and_then(|found| found.get_document("info").ok()?.get("uuid"));
    uuid.cloned()
        .ok_or_else(|| anyhow::anyhow!("{name} has no UUID"))
}

/// Returns a source with one entry in its oplog.
pub(crate) fn source() -> Result<Model> {
    let mut model = Model::default();
    log(
        &mut model,
        1,
        doc! { "op": "n", "ns": "", "o": { "msg": "begin" } },
    )?;
    Ok(model)
}

/// Applies these entries to an empty target, and returns it.
pub(crate) fn replayed(entries: &[(EntryId, Vec<u8>)]) -> Result<Model> {
    let mut target = Model::default();
    for (id, entry) in entries {
        let one = [(*id, entry.clone())];
        target.replay(&Planner::new(1), &one)?;
    }
    Ok(target)
}

/// Checks that the target holds the source's documents, options and indexes.
pub(crate) fn expect_equal(source: &Model, target: &Model) -> Result<()> {
    let (mut wanted, mut collections) = (source.state(), source.collections());
    wanted.retain(|ns, _| !ns.starts_with("local."));
    collections.remove("local");
    let left = target.state();
    let names = |state: &State| state.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(&wanted) == names(&left),
        "the target has the collections {:?} instead of {:?}",
        names(&left),
        names(&wanted)
    );
    for (ns, wanted) in &wanted {
        let shown = |documents: &[Vec<u8>]| -> Vec<_> {
            let documents = documents.iter().take(20);
            documents
                .map(|bytes| Document::from_reader(bytes.as_slice()))
                .collect()
        };
        let left = left.get(ns).map(Vec::as_slice).unwrap_or_default();
        ensure!(
            wanted == left,
            "{ns} has {:?}\ninstead of {:?}",
            shown(left),
            shown(wanted)
        );
    }
    let found = target.collections();
    ensure!(
        collections == found,
        "expected {collections:#?}\nfound {found:#?}"
    );
    Ok(())
}

/// Copies everything and returns the entries.
pub(crate) async fn copy(server: &ModelServer, readers: usize) -> Result<Vec<(EntryId, Vec<u8>)>> {
    let copying = Copying::start(&server.uri(), Saved::default(), readers).await?;
    tokio::task::block_in_place(|| wait_until("the copy", LIMIT, || copying.is_done()))?;
    Ok(copying.stop().await?.0)
}

fn insert(model: &mut Model, db: &str, name: &str, documents: &[Document]) -> Result<()> {
    for part in documents.chunks(1_000) {
        run(
            model,
            db,
            &doc! { "insert": name, "documents": part.to_vec() },
        )?;
    }
    Ok(())
}

/// Returns a source with a collection of every kind.
fn every_kind() -> Result<Model> {
    let mut model = source()?;
    // The options as a server completes them.
    let series = doc! { "timeField": "at", "granularity": "seconds", "bucketMaxSpanSeconds": 3600 };
    let pipeline = [doc! { "$match": { "n": { "$gt": 5 } } }];
    for command in [
        doc! { "create": "capped", "capped": true, "size": 1_048_576 },
        doc! { "create": "german", "collation": { "locale": "de" } },
        doc! { "create": "empty" },
        doc! { "create": "weather", "timeseries": series },
        doc! { "create": "big", "viewOn": "plain", "pipeline": pipeline.to_vec() },
    ] {
        run(&mut model, "shop", &command)?;
    }
    let numbered: Vec<Document> = (0..10).map(|n| doc! { "_id": n, "n": n }).collect();
    insert(&mut model, "shop", "plain", &numbered)?;
    // The natural order is not that of `_id`.
    let backwards: Vec<Document> = (0..20).rev().map(|n| doc! { "_id": n }).collect();
    insert(&mut model, "shop", "capped", &backwards)?;
    let texts = ["b", "ä", "a"].map(|text| doc! { "_id": text });
    insert(&mut model, "shop", "german", &texts)?;
    let indexes = [
        doc! { "key": { "n": 1 }, "name": "n", "unique": true },
        doc! { "key": { "m": 1 }, "name": "m", "sparse": true },
    ];
    let create = doc! { "createIndexes": "plain", "indexes": indexes.to_vec() };
    run(&mut model, "shop", &create)?;
    Ok(model)
}

/// Returns the capped collection's `_id`s in natural order.
fn capped_order(mut model: Model) -> Result<Vec<i32>> {
    let find = doc! { "find": "capped", "batchSize": 100 }.to_vec()?;
    let reply = Document::from_reader(model.command("shop", Raw::new(&find)?)?.as_slice())?;
    let batch = reply.get_document("cursor")?.get_array("firstBatch")?;
    let ids = batch.iter().filter_map(Bson::as_document);
    Ok(ids.filter_map(|one| one.get_i32("_id").ok()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_collection_is_created_with_options_and_indexes() -> Result<()> {
    let server = ModelServer::start(every_kind()?)?;
    let entries = copy(&server, 3).await?;
    let target = replayed(&entries)?;
    expect_equal(&server.model(), &target)?;
    let order = capped_order(target)?;
    ensure!(order == (0..20).rev().collect::<Vec<_>>(), "{order:?}");
    // The ids increase, so that each names one entry.
    let grow = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ensure!(grow, "the ids do not increase");
    Ok(())
}

/// Natural order has no place to continue from: a new session reads the collection again from the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_capped_collection_whose_cursor_is_gone_is_read_again_by_another_session() -> Result<()> {
    const CURSOR_NOT_FOUND: i32 = 43;
    let mut model = source()?;
    let create = doc! { "create": "capped", "capped": true, "size": 1 << 26 };
    run(&mut model, "shop", &create)?;
    // The documents do not fit into the first reply.
    let text = "x".repeat(6_000_000);
    for number in 0..6 {
        let document = doc! { "_id": number, "text": &text };
        insert(&mut model, "shop", "capped", &[document])?;
    }
    let server = ModelServer::start(model)?;
    server.fail_next_batch("capped", CURSOR_NOT_FOUND);
    let copying = Copying::start(&server.uri(), Saved::default(), 1).await?;
    let failure = tokio::time::timeout(LIMIT, copying.failure()).await?;
    let (error, mut entries, saved) = failure?;
    ensure!(error.directive() == Directive::Retry, "{error}");
    let copying = Copying::start(&server.uri(), saved, 1).await?;
    tokio::task::block_in_place(|| wait_until("the copy", LIMIT, || copying.is_done()))?;
    entries.extend(copying.stop().await?.0);
    expect_equal(&server.model(), &replayed(&entries)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_every_type_are_read_once_by_several_readers() -> Result<()> {
    let mut model = source()?;
    let mut documents = Vec::new();
    for number in 0..1_500_i32 {
        documents.push(doc! { "_id": number });
        documents.push(doc! { "_id": format!("key {number}") });
        documents.push(doc! { "_id": { "n": number } });
        documents.push(doc! { "_id": f64::from(number) + 0.5 });
    }
    for id in [
        Bson::MinKey,
        Bson::Null,
        Bson::MaxKey,
        f64::NAN.into(),
        true.into(),
        false.into(),
    ] {
        documents.push(doc! { "_id": id });
    }
    documents.push(doc! { "_id": Bson::Symbol("symbol".to_owned()) });
    insert(&mut model, "shop", "mixed", &documents)?;
    let server = ModelServer::start(model)?;
    let entries = copy(&server, 4).await?;
    expect_equal(&server.model(), &replayed(&entries)?)?;
    let mut reads: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for (_, bytes) in &entries {
        let entry = Entry::parse(Raw::new(bytes)?)?;
        if entry.ns == "shop.mixed" {
            *reads.entry(entry.o.as_bytes().to_vec()).or_default() += 1;
        }
    }
    ensure!(reads.len() == 6_007, "{} documents", reads.len());
    ensure!(
        reads.values().all(|count| *count == 1),
        "some were read again"
    );
    Ok(())
}

/// A server ends a reply before a document that does not fit, however small the reply is then.
#[tokio::test(flavor = "multi_thread")]
async fn large_documents_among_small_ones_are_copied() -> Result<()> {
    let mut model = source()?;
    let (large, small) = ("x".repeat(15_500_000), "x".repeat(100_000));
    for number in 0..200_i32 {
        let text = match number % 40 {
            39 => &large,
            _ => &small,
        };
        insert(
            &mut model,
            "shop",
            "uneven",
            &[doc! { "_id": number, "text": text }],
        )?;
    }
    let server = ModelServer::start(model)?;
    let target = replayed(&copy(&server, 2).await?)?;
    expect_equal(&server.model(), &target)
}

/// The source has documents that were copied while a server was written to, and the oplog of that
/// time.
#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzy_copy_and_the_oplog_lead_to_what_the_server_had() -> Result<()> {
    let scenario = Scenario::new("workload-b");
    let mut model = scenario.initial()?;
    let oplog = scenario.oplog()?;
    let (first, mut rest) = Raw::split(&oplog)?;
    let log = |model: &mut Model, entry: Raw<'_>| {
        let logged = model.log(entry.as_bytes());
        logged.map_err(|failure| anyhow::anyhow!("{failure:?}"))
    };
    log(&mut model, first)?;
    let server = ModelServer::start(model)?;
    let copying = Copying::start(&server.uri(), Saved::default(), 4).await?;
    tokio::task::block_in_place(|| wait_until("the copy", LIMIT, || copying.is_done()))?;
    let mut last = first;
    while !rest.is_empty() {
        (last, rest) = Raw::split(rest)?;
        log(&mut server.model(), last)?;
    }
    let last = Entry::parse(last)?.ts;
    tokio::task::block_in_place(|| wait_until("the tail", LIMIT, || copying.has_reached(last)))?;
    let (entries, _) = copying.stop().await?;
    let mut state = replayed(&entries)?.state();
    // A field is unset and set again: if the copy is newer, the position of the field may differ.
    state.remove("wl_b_3.fo");
    scenario.without("wl_b_3.fo").expect(&state)
}
