//! The end of a replay on the model server: `cutover` restores the options that the sink withheld.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use bson::{Bson, Document as BsonDocument, doc};
use clap::Parser as _;
use mongodb::{Client, Database};
use oplog_consumer::config::arguments::{Arguments, Command};
use oplog_consumer::config::{CutoverConfig, ReplayConfig};
use oplog_consumer::cutover::cutover;
use oplog_consumer::error::ConsumerError;
use oplog_consumer::replay::MongoSink;
use oplog_consumer::telemetry::metrics::Metrics;
use oplog_consumer::telemetry::readiness::Readiness;
use oplog_consumer::worker::applied::{Applied, SinkError};
use oplog_consumer::worker::assignment::Token;
use oplog_consumer::worker::batch::{Batch, Located};
use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::{Model, ModelServer, Version};
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::shutdown::Shutdown;

/// The value that earlier versions of the consumer wrote in place of an index's expiry.
const POSTPONED_EXPIRY: i64 = i32::MAX as i64;
const UNAUTHORIZED: i32 = 13;

fn arguments(words: &[&str]) -> Result<Command> {
    let words = ["oplog-consumer"].iter().chain(words);
    Ok(Arguments::try_parse_from(words)?.command)
}

/// A target after a replay of commands.
struct Scene {
    server: ModelServer,
    shop: Database,
}

impl Scene {
    async fn replay(commands: &[BsonDocument]) -> Result<Scene> {
        Scene::replay_into(Version::V7_0, commands).await
    }

    async fn replay_into(version: Version, commands: &[BsonDocument]) -> Result<Scene> {
        let server = ModelServer::start(Model::of(version))?;
        let uri = server.uri();
        let shop = Client::with_uri_str(&uri).await?.database("shop");
        let Command::Replay(arguments) = arguments(&[
            "replay",
            "--brokers=127.0.0.1:1",
            "--topic-prefix=p",
            "--group=g",
            "--target",
            &uri,
        ])?
        else {
            anyhow::bail!("another command");
        };
        let config = ReplayConfig::check(&arguments)?;
        let metrics = Arc::new(Metrics::new()?);
        let readiness = Arc::new(Readiness::new(Health::default()));
        let sink = MongoSink::connect(&config, metrics, readiness, Shutdown::manual()).await?;
        for (seconds, command) in (1..).zip(commands) {
            apply(&sink, seconds, command).await?;
        }
        Ok(Scene { server, shop })
    }

    async fn cut_over(&self, group: &str) -> Result<Result<(), ConsumerError>> {
        let uri = self.server.uri();
        let words = ["cutover", "--target", &uri, "--group", group];
        let Command::Cutover(arguments) = arguments(&words)? else {
            anyhow::bail!("another command");
        };
        Ok(cutover(&CutoverConfig::check(&arguments)?).await)
    }

    /// Returns `expireAfterSeconds` of a collection's indexes by their names, and of the collection
    /// itself under the name `""`.
    async fn expiries(&self, collection: &str) -> Result<BTreeMap<String, i64>> {
        let number = |value: &Bson| value.as_i64().or(value.as_i32().map(i64::from));
        let mut found = BTreeMap::new();
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        for shown in self.listed(list).await? {
            let options = shown.get_document("options")?;
            let seconds = options.get("expireAfterSeconds").and_then(number);
            found.extend(seconds.map(|seconds| (String::new(), seconds)));
        }
        for index in self.listed(doc! { "listIndexes": collection }).await? {
            let seconds = index.get("expireAfterSeconds").and_then(number);
            let name = index.get_str("name")?.to_owned();
            found.extend(seconds.map(|seconds| (name, seconds)));
        }
        Ok(found)
    }

    async fn listed(&self, command: BsonDocument) -> Result<Vec<BsonDocument>> {
        let reply = self.shop.run_command(command).await?;
        let batch = reply.get_document("cursor")?.get_array("firstBatch")?;
        let documents = batch.iter().map(|item| item.as_document().cloned());
        documents.collect::<Option<_>>().context("documents")
    }
}

/// Runs one command of the source after its barriers.
async fn apply(sink: &MongoSink, seconds: u32, command: &BsonDocument) -> Result<()> {
    let ts = bson::Timestamp {
        time: seconds,
        increment: 1,
    };
    let entry = doc! { "ts": ts, "t": 1_i64, "v": 2, "op": "c", "ns": "shop.$cmd", "o": command };
    let entry = entry.to_vec()?;
    let id = EntryId {
        ts: Timestamp::new(seconds, 1),
        ord: 0,
    };
    let barrier = Barrier {
        command: id,
        leader_topic: "t".to_owned(),
        leader_offset: 0,
        ordered: true,
        passable: false,
        namespaces: None,
        partitions: Vec::new(),
    };
    let mut bytes = Vec::new();
    barrier.write_command(&Entry::parse(Document::new(&entry)?)?, &mut bytes)?;
    let located = [Located {
        offset: 0,
        id,
        entry: Entry::parse(Document::new(&bytes)?)?,
    }];
    let batch = Batch {
        topic: "t",
        partition: 0,
        source: "rs0",
        entries: &located,
    };
    let applied = sink.apply(&batch, &Token::default()).await;
    let applied = applied.map_err(|error| match error {
        SinkError::Entry(error) => anyhow!(error),
        SinkError::Fatal(error) => anyhow!(error),
    });
    ensure!(applied? == Applied::Done, "{command}");
    Ok(())
}

fn index(collection: &str, name: &str, seconds: i32) -> BsonDocument {
    let key = name.trim_end_matches("_1");
    doc! {
        "createIndexes": collection, "v": 2, "key": { key: 1 }, "name": name,
        "expireAfterSeconds": seconds,
    }
}

fn history() -> Vec<BsonDocument> {
    let clustered = doc! { "key": { "_id": 1 }, "unique": true, "v": 2, "name": "_id_" };
    vec![
        doc! { "create": "sessions" },
        index("sessions", "t_1", 60),
        index("sessions", "u_1", 61),
        index("sessions", "v_1", 62),
        doc! { "collMod": "sessions", "index": { "name": "t_1", "expireAfterSeconds": 120 } },
        doc! { "dropIndexes": "sessions", "index": "u_1" },
        // An index of the same name that does not expire documents.
        doc! { "createIndexes": "sessions", "v": 2, "key": { "u": 1 }, "name": "u_1" },
        doc! { "renameCollection": "shop.sessions", "to": "shop.logins" },
        doc! { "create": "log", "clusteredIndex": clustered, "expireAfterSeconds": 3600_i64 },
        doc! { "create": "kept", "expireAfterSeconds": 5_i64 },
        doc! { "collMod": "kept", "expireAfterSeconds": "off" },
        doc! { "create": "ended" },
        index("ended", "t_1", 7),
        doc! { "drop": "ended" },
    ]
}

fn seconds(pairs: &[(&str, i64)]) -> BTreeMap<String, i64> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_options_are_restored_and_may_be_restored_again() -> Result<()> {
    let scene = Scene::replay(&history()).await?;
    ensure!(scene.expiries("logins").await?.is_empty());
    ensure!(scene.expiries("log").await?.is_empty());
    for _ in 0..2 {
        scene.cut_over("g").await??;
        let restored = seconds(&[("t_1", 120), ("v_1", 62)]);
        ensure!(scene.expiries("logins").await? == restored);
        ensure!(scene.expiries("log").await? == seconds(&[("", 3600)]));
        ensure!(scene.expiries("kept").await?.is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_refused_objects_do_not_delay_the_others() -> Result<()> {
    let scene = Scene::replay(&history()).await?;
    let drop = doc! { "dropIndexes": "logins", "index": "t_1" };
    scene.shop.run_command(drop).await?;
    scene.server.fail_next("collMod", UNAUTHORIZED);
    let error = scene.cut_over("g").await?.err().context("not refused")?;
    ensure!(error.exit_code() == ExitCode::StoppedByPolicy, "{error}");
    let text = error.to_string();
    ensure!(
        text.contains("3600 for shop.log: ") && text.contains("dbAdmin on shop"),
        "{text}"
    );
    ensure!(scene.expiries("logins").await? == seconds(&[("v_1", 62)]));
    scene.cut_over("g").await??;
    ensure!(scene.expiries("log").await? == seconds(&[("", 3600)]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_group_is_refused_and_an_empty_catalog_is_not() -> Result<()> {
    let scene = Scene::replay(&history()).await?;
    let error = scene.cut_over("h").await?.err().context("not refused")?;
    ensure!(error.exit_code() == ExitCode::Usage, "{error}");
    ensure!(error.to_string().contains("has the groups g"), "{error}");
    Scene::replay(&[]).await?.cut_over("h").await??;
    Ok(())
}

/// Returns commands that every version can run and that create indexes with an expiry.
fn indexes_alone() -> Vec<BsonDocument> {
    let partial = doc! { "a": { "$gt": 0 } };
    let mut third = index("sessions", "v_1", 62);
    third.extend(doc! { "partialFilterExpression": partial, "unique": true });
    vec![
        doc! { "create": "sessions" },
        index("sessions", "t_1", 60),
        index("sessions", "u_1", 61),
        third,
        doc! { "collMod": "sessions", "index": { "name": "t_1", "expireAfterSeconds": 120 } },
    ]
}

fn definitions(scene: &Scene) -> BTreeMap<String, BsonDocument> {
    let described = scene.server.model().collections()["shop"][0].clone();
    let indexes = described.get_array("indexes").into_iter().flatten();
    let indexes = indexes.filter_map(Bson::as_document);
    indexes
        .map(|index| {
            let mut rest = index.clone();
            rest.remove("expireAfterSeconds");
            (index.get_str("name").unwrap_or_default().to_owned(), rest)
        })
        .collect()
}

/// Returns the collections of `cutover` that it did not empty.
fn left_over(scene: &Scene) -> Vec<String> {
    let state = scene.server.model().state();
    let left = state
        .iter()
        .filter(|(ns, documents)| ns.starts_with("oplog_relay.cutover") && !documents.is_empty());
    left.map(|(ns, _)| ns.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_gets_the_expiries_back_and_keeps_its_indexes() -> Result<()> {
    let versions = [
        Version::V4_4,
        Version::V5_0,
        Version::V6_0,
        Version::V7_0,
        Version::V8_0,
    ];
    for version in versions {
        let scene = Scene::replay_into(version, &indexes_alone()).await?;
        ensure!(scene.expiries("sessions").await?.is_empty(), "{version:?}");
        let before = definitions(&scene);
        for _ in 0..2 {
            scene.cut_over("g").await??;
            let restored = seconds(&[("t_1", 120), ("u_1", 61), ("v_1", 62)]);
            ensure!(scene.expiries("sessions").await? == restored, "{version:?}");
            ensure!(definitions(&scene) == before, "{version:?}");
            ensure!(left_over(&scene).is_empty(), "{:?}", left_over(&scene));
        }
    }
    Ok(())
}

/// The test sets the postponed expiry with `collMod`, because servers up to 6.0 refuse it when an
/// index is created.
#[tokio::test(flavor = "multi_thread")]
async fn expiries_that_an_earlier_oplog_consumer_replaced_are_restored() -> Result<()> {
    for version in [Version::V5_0, Version::V7_0] {
        let scene = Scene::replay_into(version, &indexes_alone()).await?;
        let small = doc! { "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 1 };
        for command in [
            doc! { "dropIndexes": "sessions", "index": "t_1" },
            doc! { "createIndexes": "sessions", "indexes": [small] },
            doc! { "collMod": "sessions", "index": { "name": "t_1", "expireAfterSeconds": POSTPONED_EXPIRY } },
        ] {
            scene.shop.run_command(command).await?;
        }
        scene.cut_over("g").await??;
        let restored = seconds(&[("t_1", 120), ("u_1", 61), ("v_1", 62)]);
        ensure!(scene.expiries("sessions").await? == restored, "{version:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_a_killed_cutover_dropped_is_built_by_the_next() -> Result<()> {
    let scene = Scene::replay_into(Version::V5_0, &indexes_alone()).await?;
    let before = definitions(&scene);
    let index = bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: before["t_1"].to_vec()?,
    };
    let note = doc! { "_id": "shop.sessions index t_1", "ns": "shop.sessions", "index": index };
    let catalog = scene.shop.client().database("oplog_relay");
    catalog.collection("cutover").insert_one(note).await?;
    let drop = doc! { "dropIndexes": "sessions", "index": "t_1" };
    scene.shop.run_command(drop).await?;
    scene.cut_over("g").await??;
    let restored = seconds(&[("t_1", 120), ("u_1", 61), ("v_1", 62)]);
    ensure!(scene.expiries("sessions").await? == restored);
    ensure!(definitions(&scene) == before);
    ensure!(left_over(&scene).is_empty(), "{:?}", left_over(&scene));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_that_the_target_refuses_leaves_the_index_as_it_is() -> Result<()> {
    let commands = [
        doc! { "create": "sessions" },
        index("sessions", "t_1", i32::MAX),
    ];
    let scene = Scene::replay_into(Version::V5_0, &commands).await?;
    let before = definitions(&scene);
    let error = scene.cut_over("g").await?.err().context("not refused")?;
    ensure!(error.exit_code() == ExitCode::StoppedByPolicy, "{error}");
    ensure!(
        error.to_string().contains("shop.sessions index t_1"),
        "{error}"
    );
    ensure!(definitions(&scene) == before);
    ensure!(scene.expiries("sessions").await?.is_empty());
    ensure!(left_over(&scene).is_empty(), "{:?}", left_over(&scene));
    Ok(())
}
