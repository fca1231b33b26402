//! The sink of a replay against the model server: statements, rewrites and retries.

mod codes;
mod commands;
mod crash;
mod fill;
mod held;
mod literals;
mod options;
mod parked;
mod recorded;
mod replies;
mod routing;
mod sharded_target;
mod subscription;
mod suspended;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser as _;
use oplog_consumer::config::ReplayConfig;
use oplog_consumer::config::arguments::{Arguments, Command};
use oplog_consumer::dead_letter::Reason;
use oplog_consumer::replay::MongoSink;
use oplog_consumer::telemetry::metrics::Metrics;
use oplog_consumer::telemetry::readiness::Readiness;
use oplog_consumer::worker::applied::{Applied, Refusal, SinkError};
use oplog_consumer::worker::assignment::Token;
use oplog_consumer::worker::batch::{Batch, Located};
use oplog_relay_core::barrier::{Barrier, TopicBarriers};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::json::{Mode, parse_document, write_document};
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::shutdown::Shutdown;

const NS: &str = "db.c";
const LIMIT: Duration = Duration::from_secs(60);
const UNAUTHORIZED: i32 = 13;
const NOT_PRIMARY: i32 = 10107;
const CURSOR_NOT_FOUND: i32 = 43;

/// A replay into the model server.
///
/// Its log consists of operations `(op, _id, content)`. `op` is the letter of the oplog, or `b` (see
/// [`entry`]). The content is the field `o` of the entry, as JSON.
struct Scene {
    server: Arc<ModelServer>,
    sink: MongoSink,
    metrics: Arc<Metrics>,
    token: Token,
    /// The increment of the last entry.
    clock: AtomicU32,
}

impl Scene {
    /// Returns a scene with this policy for updates that do not find a document.
    async fn new(unmatched: &str) -> Result<Scene> {
        Scene::of(Model::default(), unmatched).await
    }

    async fn of(model: Model, unmatched: &str) -> Result<Scene> {
        Scene::with(model, &["--unmatched", unmatched]).await
    }

    async fn with(model: Model, more: &[&str]) -> Result<Scene> {
        Scene::on(ModelServer::start(model)?, more).await
    }

    /// Returns a scene with an existing target and these flags.
    async fn on(server: impl Into<Arc<ModelServer>>, more: &[&str]) -> Result<Scene> {
        let server = server.into();
        let uri = server.uri();
        let common = [
            "oplog-consumer",
            "replay",
            "--brokers=127.0.0.1:1",
            "--topic-prefix=p",
            "--target",
            &uri,
        ];
        let has_group = more.iter().any(|flag| flag.starts_with("--group"));
        let group = (!has_group).then_some(&"--group=g");
        let arguments = common.iter().chain(group).chain(more);
        let arguments = Arguments::try_parse_from(arguments)?;
        let Command::Replay(arguments) = arguments.command else {
            bail!("another command");
        };
        let config = ReplayConfig::check(&arguments)?;
        let metrics = Arc::new(Metrics::new()?);
        let readiness = Arc::new(Readiness::new(Health::default()));
        let shutdown = Shutdown::manual();
        let sink = MongoSink::connect(&config, Arc::clone(&metrics), readiness, shutdown).await?;
        Ok(Scene {
            server,
            sink,
            metrics,
            token: Token::default(),
            clock: AtomicU32::new(0),
        })
    }

    /// Applies a log as one batch.
    async fn apply(&self, log: &[(&str, i32, &str)]) -> Result<Applied> {
        Ok(self.apply_all(log).await?.0)
    }

    /// Applies a batch, and also returns the operations that are to become dead letters.
    async fn apply_all(&self, log: &[(&str, i32, &str)]) -> Result<(Applied, Vec<Refusal>)> {
        self.apply_in(0, log).await
    }

    async fn apply_in(
        &self,
        partition: i32,
        log: &[(&str, i32, &str)],
    ) -> Result<(Applied, Vec<Refusal>)> {
        let mut entries = Vec::new();
        for (op, id, o) in log {
            let ts = Timestamp::new(9, 1 + self.clock.fetch_add(1, Ordering::Relaxed));
            entries.push((EntryId { ts, ord: 0 }, entry(ts, op, *id, o)?));
        }
        self.apply_entries_in(partition, &entries).await
    }

    /// Applies complete entries as one batch.
    async fn apply_entries(
        &self,
        entries: &[(EntryId, Vec<u8>)],
    ) -> Result<(Applied, Vec<Refusal>)> {
        self.apply_entries_in(0, entries).await
    }

    async fn apply_entries_in(
        &self,
        partition: i32,
        entries: &[(EntryId, Vec<u8>)],
    ) -> Result<(Applied, Vec<Refusal>)> {
        let mut located = Vec::new();
        for (offset, (id, bytes)) in (0..).zip(entries) {
            located.push(Located {
                offset,
                id: *id,
                entry: Entry::parse(Document::new(bytes)?)?,
            });
        }
        let batch = Batch {
            topic: "t",
            partition,
            source: "rs0",
            entries: &located,
        };
        let applied = self.sink.apply(&batch, &self.token).await;
        let applied = applied.map_err(|error| match error {
            SinkError::Entry(error) => anyhow!(error),
            SinkError::Fatal(error) => anyhow!(error),
        })?;
        Ok((applied, self.sink.take_refused(&batch)))
    }

    /// Applies a batch, and fails if the replay refuses or abandons it.
    async fn done(&self, log: &[(&str, i32, &str)]) -> Result<()> {
        assert_eq!(self.apply(log).await?, Applied::Done);
        Ok(())
    }

    /// Applies a batch as the worker of another partition.
    async fn done_in(&self, partition: i32, log: &[(&str, i32, &str)]) -> Result<()> {
        assert_eq!(self.apply_in(partition, log).await?.0, Applied::Done);
        Ok(())
    }

    /// Applies a batch that the replay must refuse, and returns the reason.
    async fn refused(&self, log: &[(&str, i32, &str)]) -> Result<String> {
        let error = self.apply(log).await.err().context("a batch was applied")?;
        Ok(format!("{error:#}"))
    }

    /// Goes back in the log: the next entry gets the time of the one after this number of entries.
    fn rewind(&self, entries: u32) {
        self.clock.store(entries, Ordering::Relaxed);
    }

    /// Runs a command directly on the target.
    fn on_target(&self, command: &str) -> Result<()> {
        let mut bytes = Vec::new();
        parse_document(command.as_bytes(), &mut bytes)?;
        let reply = self.server.model().command("db", Document::new(&bytes)?)?;
        let reply = bson::Document::from_reader(reply.as_slice())?;
        assert!(reply.get_f64("ok")? > 0.0, "{reply}");
        Ok(())
    }

    /// Returns the documents of the collection.
    fn documents(&self) -> Result<Vec<String>> {
        let state = self.server.model().state();
        let documents = state.get(NS).into_iter().flatten();
        let texts = documents.map(|document| {
            let mut text = Vec::new();
            let exactness = write_document(Document::new(document)?, Mode::Relaxed, &mut text)?;
            assert!(exactness.is_exact());
            Ok(String::from_utf8(text)?)
        });
        texts.collect()
    }
}

/// Returns the entry of an operation. The letter `b` stands for a command behind a full barrier, of a
/// collection whose writes keep their order.
fn entry(ts: Timestamp, op: &str, id: i32, o: &str) -> Result<Vec<u8>> {
    if op == "b" {
        let command = entry(ts, "c", id, o)?;
        let barrier = Barrier {
            command: EntryId { ts, ord: 0 },
            leader_topic: "t".to_owned(),
            leader_offset: 0,
            ordered: true,
            passable: false,
            namespaces: None,
            partitions: vec![TopicBarriers {
                topic: "t".to_owned(),
                offsets: vec![0],
            }],
        };
        let mut out = Vec::new();
        barrier.write_command(&Entry::parse(Document::new(&command)?)?, &mut out)?;
        return Ok(out);
    }
    let (mut content, mut out) = (Vec::new(), Vec::new());
    parse_document(o.as_bytes(), &mut content)?;
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
    let ns = if op == "c" { "db.$cmd" } else { NS };
    entry.str("op", op).str("ns", ns);
    entry.document("o", Document::new(&content)?);
    entry.nested("o2", kind::DOCUMENT, |key| {
        key.int32("_id", id);
    });
    entry.finish();
    Ok(out)
}

#[tokio::test]
async fn diffs_and_modifiers_of_one_document_are_applied_in_order() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene
        .done(&[
            ("i", 1, r#"{"_id":1,"a":1,"r":[1,2,3]}"#),
            ("i", 2, r#"{"_id":2}"#),
            ("u", 1, r#"{"$v":2,"diff":{"i":{"a":2}}}"#),
            ("u", 2, r#"{"$v":2,"diff":{"u":{"k":2}}}"#),
            ("u", 1, r#"{"$v":1,"$set":{"o.x":3}}"#),
            (
                "u",
                1,
                r#"{"$v":2,"diff":{"so":{"i":{"y":1}},"sr":{"a":true,"l":1}}}"#,
            ),
        ])
        .await?;
    let one = r#"{"_id":1,"r":[1],"a":2,"o":{"x":3,"y":1}}"#;
    assert_eq!(scene.documents()?, [one, r#"{"_id":2,"k":2}"#]);
    assert_eq!(scene.metrics.rewritten_documents.get(), 1);
    Ok(())
}

#[tokio::test]
async fn refused_updates_are_rewritten_in_their_place_in_the_order() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene
        .done(&[
            ("i", 1, r#"{"_id":1,"a":0,"c":0}"#),
            ("i", 2, r#"{"_id":2}"#),
        ])
        .await?;
    scene
        .done(&[
            ("u", 2, r#"{"$v":1,"$set":{"x":1}}"#),
            ("u", 1, r#"{"$v":1,"$set":{"a.b":0,"c":1}}"#),
            ("u", 2, r#"{"$v":1,"$set":{"x":2}}"#),
            ("u", 1, r#"{"$v":1,"$set":{"c":2},"$unset":{"a":true}}"#),
            ("u", 1, r#"{"$v":1,"$set":{"a.b":0}}"#),
        ])
        .await?;
    assert_eq!(
        scene.documents()?,
        [r#"{"_id":1,"c":2,"a":{"b":0}}"#, r#"{"_id":2,"x":2}"#]
    );
    assert_eq!(scene.metrics.rewritten_documents.get(), 1);
    Ok(())
}

#[tokio::test]
async fn failed_reads_are_repeated_and_refused_ones_stop() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.done(&[("i", 1, r#"{"_id":1}"#)]).await?;
    scene.server.fail_next("find", NOT_PRIMARY);
    scene.server.fail_next("find", CURSOR_NOT_FOUND);
    scene
        .done(&[("u", 1, r#"{"$v":2,"diff":{"i":{"b":1}}}"#)])
        .await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"b":1}"#]);
    scene.server.fail_next("find", UNAUTHORIZED);
    let reason = scene
        .refused(&[("u", 1, r#"{"$v":2,"diff":{"i":{"c":1}}}"#)])
        .await?;
    assert!(reason.contains("readWrite"), "{reason}");
    let reason = scene
        .refused(&[("u", 1, r#"{"$v":2,"diff":{"x":{"c":1}}}"#)])
        .await?;
    assert!(
        reason.contains(r#""x" is not a section of a diff"#),
        "{reason}"
    );
    Ok(())
}

#[tokio::test]
async fn unchanged_documents_are_not_written_and_nothing_is_written_without_the_token() -> Result<()>
{
    let scene = Scene::new("count").await?;
    scene.done(&[("i", 1, r#"{"_id":1,"b":1}"#)]).await?;
    scene.server.fail_next("update", UNAUTHORIZED);
    scene
        .done(&[("u", 1, r#"{"$v":2,"diff":{"i":{"b":1}}}"#)])
        .await?;
    scene.token.invalidate();
    let applied = scene
        .apply(&[("u", 1, r#"{"$v":2,"diff":{"i":{"q":1}}}"#)])
        .await?;
    assert_eq!(applied, Applied::Abandoned);
    assert_eq!(scene.documents()?, [r#"{"_id":1,"b":1}"#]);
    Ok(())
}

#[tokio::test]
async fn updates_of_missing_documents_follow_the_policy() -> Result<()> {
    let log = [
        ("u", 1, r#"{"$v":2,"diff":{"i":{"b":1}}}"#),
        ("u", 1, r#"{"$v":2,"diff":{"u":{"b":2}}}"#),
    ];
    let scene = Scene::new("count").await?;
    scene.done(&log).await?;
    assert_eq!(
        (
            scene.documents()?.len(),
            scene.metrics.unmatched_updates.get()
        ),
        (0, 2)
    );
    let scene = Scene::new("upsert").await?;
    scene.done(&log).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"b":2}"#]);
    let scene = Scene::new("stop").await?;
    let reason = scene.refused(&log).await?;
    assert!(reason.contains("found no document"), "{reason}");
    Ok(())
}

/// Each update of a missing document becomes a dead letter, whether it is sent as a command or is a
/// rewrite.
#[tokio::test(flavor = "multi_thread")]
async fn updates_of_missing_documents_become_dead_letters() -> Result<()> {
    let scene = Scene::new("dead-letter").await?;
    let whole = r#"{"_id":3,"a":{"b":0},"r":[1,2]}"#;
    scene.done(&[("i", 3, whole)]).await?;
    // A diff that truncates an array and changes another field is a rewrite.
    let rewrite = r#"{"$v":2,"diff":{"i":{"n":1},"sr":{"a":true,"l":1}}}"#;
    let statement = r#"{"$v":2,"diff":{"u":{"n":2}}}"#;
    let (applied, refused) = scene
        .apply_all(&[
            ("u", 1, rewrite),
            ("u", 3, rewrite),
            ("u", 2, statement),
            ("u", 1, statement),
        ])
        .await?;
    assert_eq!(applied, Applied::Done);
    let found: Vec<_> = refused
        .iter()
        .map(|refusal| (refusal.id.ts.increment, refusal.reason, refusal.ns.as_str()))
        .collect();
    let unmatched = |increment| (increment, Reason::Unmatched, NS);
    assert_eq!(
        found.iter().copied().collect::<BTreeSet<_>>(),
        [unmatched(2), unmatched(4), unmatched(5)].into()
    );
    assert_eq!(found.len(), 3, "each update is reported once");
    assert_eq!(
        scene.documents()?,
        [r#"{"_id":3,"a":{"b":0},"r":[1],"n":1}"#]
    );
    assert_eq!(scene.metrics.unmatched_updates.get(), 3);
    Ok(())
}
