//! Comparisons while a load passes through the whole pipeline: a FerretDB as the source, Kafka,
//! both programs, and as the target a fake mongod or a FerretDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_kit::load::Load;
use oplog_relay_kit::model::{Model, ModelServer, Version};
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka, Program, wait_until};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(600);
const RUNS: u32 = 10;
/// Pause between two rounds of about two dozen writes each.
const PACE: Duration = Duration::from_millis(250);

/// A running pipeline, and a load on its source.
struct Live {
    kafka: Arc<Kafka>,
    source: FerretDb,
    target: String,
    prefix: &'static str,
    producer: Program,
    replay: Program,
}

impl Live {
    async fn start(prefix: &'static str, target: String) -> Result<Live> {
        let kafka = Kafka::shared()?;
        let source = FerretDb::start(&FerretDbOptions::source())?;
        let mut load = Load::connect(&source.uri(), "shop", 3).await?;
        load.round(300).await?;
        let common = |command: &str| {
            let brokers = format!("--brokers={}", kafka.brokers());
            let topics = format!("--topic-prefix={prefix}");
            [command.to_owned(), "--http=off".to_owned(), brokers, topics]
        };
        let from = [
            format!("--source={}", source.uri()),
            "--start=oldest".to_owned(),
        ];
        let producer = Program::producer(common("run").iter().chain(&from))?;
        let to = [
            format!("--group={prefix}"),
            format!("--target={target}"),
            // SQLite, which stores the data of one of the targets, takes one writer at a time.
            "--lanes=1".to_owned(),
        ];
        let replay = Program::consumer(common("replay").iter().chain(&to))?;
        Ok(Live {
            kafka,
            source,
            target,
            prefix,
            producer,
            replay,
        })
    }

    /// Waits until source and target have the same numbers of documents.
    fn catch_up(&self) -> Result<()> {
        wait_until("the replay", LIMIT, || {
            let counted = self.verify(&["--mode=count"]);
            counted.is_ok_and(|(code, _)| code == 0)
        })
    }

    /// Writes in the background until `ended` is set. The task returns the number of writes.
    async fn load(&self, seed: u64, ended: &Arc<AtomicBool>) -> Result<JoinSet<Result<u64>>> {
        let mut load = Load::connect(&self.source.uri(), "live", seed).await?;
        let ended = Arc::clone(ended);
        let mut loads = JoinSet::new();
        loads.spawn(async move {
            // A replay on a busy machine can keep up with this pace.
            let mut pace = tokio::time::interval(PACE);
            while !ended.load(Ordering::Relaxed) {
                pace.tick().await;
                load.round(2).await?;
            }
            Ok(load.writes())
        });
        Ok(loads)
    }

    fn verify(&self, more: &[&str]) -> Result<(i32, String)> {
        let flags = [
            "verify".to_owned(),
            format!("--source={}", self.source.uri()),
            format!("--target={}", self.target),
            format!("--brokers={}", self.kafka.brokers()),
            format!("--topic-prefix={}", self.prefix),
            format!("--group={}", self.prefix),
        ];
        let flags = flags.iter().map(String::as_str);
        let mut program = Program::consumer(flags.chain(more.iter().copied()))?;
        let code = program.wait(LIMIT)?;
        Ok((code, program.stdout_text()? + &program.stderr_text()?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_comparisons_under_a_running_load_report_no_false_difference() -> Result<()> {
    let target = ModelServer::start(Model::of(Version::V7_0))?;
    let mut live = Live::start("underload", target.uri()).await?;
    live.catch_up()?;
    let ended = Arc::new(AtomicBool::new(false));
    let mut load = live.load(5, &ended).await?;
    for run in 0..RUNS {
        let (code, said) = live.verify(&["--range-documents=500", "--namespaces=live"])?;
        ensure!(code == 0, "run {run} ended with {code}:\n{said}");
    }
    // Under the same load the comparison finds the lasting difference and no other one.
    let shop = Client::with_uri_str(target.uri()).await?.database("shop");
    let customers = shop.collection::<Document>("customers");
    let gone = customers.find_one(doc! {}).await?.unwrap();
    customers
        .delete_one(doc! { "_id": gone["_id"].clone() })
        .await?;
    let (code, said) = live.verify(&[])?;
    ensure!(
        code == 7 && said.contains("1 missing, 0 extra, 0 different"),
        "{code}:\n{said}"
    );
    let (code, said) = live.verify(&["--repair"])?;
    ensure!(code == 0 && said.contains("1 repaired"), "{code}:\n{said}");
    ended.store(true, Ordering::Relaxed);
    let written = load.join_next().await.unwrap()??;
    ensure!(written > 100, "{written} writes");

    // The replay is stopped, so the comparison cannot decide about entries that it has not passed.
    live.replay.terminate()?;
    live.replay.wait(LIMIT)?;
    let mut load = Load::connect(&live.source.uri(), "later", 7).await?;
    load.round(50).await?;
    let (code, said) = live.verify(&["--patience=3s", "--repair"])?;
    ensure!(code == 8 && !said.contains("repaired:"), "{code}:\n{said}");
    live.producer.terminate()?;
    live.producer.wait(LIMIT)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_target_is_compared_by_ranges_and_repaired() -> Result<()> {
    let server = FerretDb::start(&FerretDbOptions::target())?;
    let live = Live::start("repaired", server.uri()).await?;
    let shop = Client::with_uri_str(server.uri()).await?.database("shop");
    let customers = shop.collection::<Document>("customers");
    live.catch_up()?;
    let (code, said) = live.verify(&["--range-documents=50"])?;
    ensure!(code == 0, "{code}:\n{said}");
    let changed = customers.find_one(doc! {}).await?.unwrap();
    let id = doc! { "_id": changed["_id"].clone() };
    customers
        .update_one(id, doc! { "$set": { "flipped": 1 } })
        .await?;
    customers.insert_one(doc! { "_id": "nobody" }).await?;
    let orders = shop.collection::<Document>("orders");
    let gone = orders.find_one(doc! {}).await?.context("no order")?;
    let id = doc! { "_id": gone["_id"].clone() };
    orders.delete_one(id).await?;
    let (code, said) = live.verify(&["--range-documents=50"])?;
    let parts = [
        "extra: shop.customers",
        "nobody",
        "flipped",
        "missing: shop.orders",
    ];
    let named = parts.iter().all(|part| said.contains(part));
    ensure!(code == 7 && named, "{code}:\n{said}");
    let (code, said) = live.verify(&["--range-documents=50", "--repair"])?;
    ensure!(code == 0, "{code}:\n{said}");
    let (code, said) = live.verify(&["--range-documents=50"])?;
    ensure!(code == 0, "{code}:\n{said}");
    Ok(())
}
