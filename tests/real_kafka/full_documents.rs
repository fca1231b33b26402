//! Topics with whole documents of a live source: compacted topics of the latest states, and updates
//! whose documents were looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_core::key::write_key;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::topic_reader::{TopicRecord, count_uncommitted};
use oplog_relay_tests::schema::EventSchema;
use serde_json::Value;

use crate::envelopes::expect_refused;
use crate::topics::{LIMIT, Topics};

pub(crate) const SNAPSHOT: [&str; 2] = ["--format=json", "--topic-mode=snapshot"];
const BEGIN: u32 = 1_700_000_000;

/// A source whose documents and entries the test writes.
pub(crate) struct Source {
    pub(crate) server: ModelServer,
    ui: Bson,
    /// The second of the last entry.
    second: u32,
}

impl Source {
    pub(crate) fn new() -> Result<Source> {
        let server = ModelServer::start(Model::default())?;
        let mut source = Source {
            server,
            ui: Bson::Null,
            second: BEGIN,
        };
        source.run("s", &doc! { "create": "a" })?;
        let list = doc! { "listCollections": 1 };
        let reply = source.run("s", &list)?;
        let batch = reply.get_document("cursor")?.get_array("firstBatch")?;
        let found = batch
            .first()
            .and_then(Bson::as_document)
            .context("no such collection")?;
        let uuid = found.get_document("info")?.get("uuid");
        source.ui = uuid.cloned().context("no UUID")?;
        source.log(doc! { "op": "n", "ns": "", "o": { "msg": "begin" } })?;
        Ok(source)
    }

    fn run(&self, db: &str, command: &Document) -> Result<Document> {
        let reply = self
            .server
            .model()
            .command(db, Raw::new(&command.to_vec()?)?)?;
        let reply = Document::from_reader(reply.as_slice())?;
        ensure!(reply.get_f64("ok")? > 0.0, "{command}: {reply}");
        Ok(reply)
    }

    fn log(&mut self, fields: Document) -> Result<()> {
        self.second += 1;
        let ts = bson::Timestamp {
            time: self.second,
            increment: 1,
        };
        let mut entry = doc! { "ts": ts, "t": 1_i64, "v": 2 };
        entry.extend(fields);
        let logged = self.server.model().log(&entry.to_vec()?);
        logged.map_err(|failure| anyhow::anyhow!("{failure:?}"))
    }

    /// Stores documents without entries, as if they were older than the oplog.
    fn store(&self, ids: impl Iterator<Item = i32>) -> Result<()> {
        let documents: Vec<Document> = ids.map(|id| doc! { "_id": id, "n": id }).collect();
        self.run("s", &doc! { "insert": "a", "documents": documents })?;
        Ok(())
    }

    fn log_change(&mut self, op: &str, fields: Document) -> Result<()> {
        let mut entry = doc! { "op": op, "ns": "s.a", "ui": self.ui.clone() };
        entry.extend(fields);
        self.log(entry)
    }

    pub(crate) fn insert(&mut self, id: i32) -> Result<()> {
        self.store(std::iter::once(id))?;
        self.log_change("i", doc! { "o": { "_id": id, "n": id } })
    }

    pub(crate) fn update(&mut self, id: i32, n: i32) -> Result<()> {
        let update = doc! { "q": { "_id": id }, "u": { "$set": { "n": n } } };
        self.run("s", &doc! { "update": "a", "updates": [update] })?;
        let o = doc! { "$v": 2, "diff": { "u": { "n": n } } };
        self.log_change("u", doc! { "o": o, "o2": { "_id": id } })
    }

    pub(crate) fn delete(&mut self, id: i32) -> Result<()> {
        let delete = doc! { "q": { "_id": id }, "limit": 1 };
        self.run("s", &doc! { "delete": "a", "deletes": [delete] })?;
        self.log_change("d", doc! { "o": { "_id": id } })
    }

    /// Stores the document before the last change, as MongoDB 6.0 does.
    fn keep_before(&self, document: Document) -> Result<()> {
        let ts = bson::Timestamp {
            time: self.second,
            increment: 1,
        };
        let id = doc! { "nsUUID": self.ui.clone(), "ts": ts, "applyOpsIndex": 0_i64 };
        let kept = doc! { "_id": id, "preImage": document };
        let insert = doc! { "insert": "system.preimages", "documents": [kept] };
        self.run("config", &insert)?;
        Ok(())
    }

    /// Changes the first 200 documents, each in one of four ways, and inserts another hundred.
    fn change_all(&mut self) -> Result<()> {
        for id in 0..300 {
            match id % 5 {
                _ if id >= 200 => self.insert(id)?,
                0 => self.delete(id)?,
                1 => {
                    self.update(id, 1_000 + id)?;
                    self.update(id, 2_000 + id)?;
                }
                // The document is gone when its update is looked up.
                2 => {
                    self.update(id, 1_000 + id)?;
                    self.delete(id)?;
                }
                _ => self.update(id, 1_000 + id)?,
            }
        }
        Ok(())
    }

    /// Starts a producer that reads this source.
    fn start(&self, topics: &Topics, flags: &[&str]) -> Result<Program> {
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        let own = [
            "run".to_owned(),
            "--http=off".to_owned(),
            format!("--source={}", self.server.uri()),
            "--source-name=golden".to_owned(),
            format!("--brokers={}", topics.brokers()),
            format!("--topic-prefix={}", topics.prefix()),
        ];
        Program::producer(own.into_iter().chain(flags))
    }

    /// Sends everything up to now to the topics, and checks the exit code and a text of the log.
    pub(crate) fn carry(
        &self,
        topics: &Topics,
        flags: &[&str],
        (code, part): (i32, &str),
    ) -> Result<()> {
        let flags = [flags, &["--until-caught-up"]].concat();
        let mut producer = self.start(topics, &flags)?;
        let ended = producer.wait(LIMIT)?;
        let log = producer.stderr_text()?;
        ensure!(
            ended == code && log.contains(part),
            "{flags:?} ended with {ended}: {log}"
        );
        Ok(())
    }

    /// Returns the values that a topic of latest states must have, by key.
    fn documents(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let state = self.server.model().state();
        let mut documents = BTreeMap::new();
        for bytes in state.get("s.a").map(Vec::as_slice).unwrap_or_default() {
            let document = Raw::new(bytes)?;
            let (mut key, mut value) = (Vec::new(), Vec::new());
            write_key(document.get("_id")?.context("no _id")?, &mut key)?;
            write_document(document, Mode::Relaxed, &mut value).map(drop)?;
            documents.insert(key, value);
        }
        Ok(documents)
    }
}

/// Returns the last value of each key, except of keys whose last record is a tombstone.
fn latest(records: &[TopicRecord]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut latest = BTreeMap::new();
    for record in records {
        let key = record.key.clone().context("no key")?;
        if record.value.is_empty() {
            latest.remove(&key);
        } else {
            latest.insert(key, record.value.clone());
        }
    }
    Ok(latest)
}

fn parse(record: &TopicRecord) -> Result<Value> {
    let text = String::from_utf8_lossy(&record.value);
    serde_json::from_slice(&record.value).with_context(|| text.into_owned())
}

/// Checks that each value fits the schema of latest states, and that no two records belong to the
/// same entry.
fn check_identities(records: &[TopicRecord]) -> Result<()> {
    let schema = EventSchema::of_latest_states()?;
    let mut ids = BTreeSet::new();
    for record in records {
        if !record.value.is_empty() {
            schema.check(&parse(record)?)?;
        }
        let id = record.header("oplog-id").context("no oplog-id")?;
        ensure!(ids.insert(id.to_vec()), "an entry occurs twice");
    }
    Ok(())
}

#[test]
fn topics_of_latest_states_are_compacted_and_end_as_the_source() -> Result<()> {
    let topics = Topics::none("latest")?;
    let mut source = Source::new()?;
    source.store(0..200)?;
    let copy = [&SNAPSHOT[..], &["--sync=full-then-tail"]].concat();
    source.carry(&topics, &copy, (0, ""))?;
    ensure!(
        latest(&topics.records()?)? == source.documents()?,
        "the topic differs after the copy"
    );

    source.change_all()?;
    // A producer that is killed continues where it committed.
    let before = count_uncommitted(&topics.brokers(), topics.prefix())?;
    let mut killed = source.start(&topics, &SNAPSHOT)?;
    wait_until("records", Duration::from_secs(60), || {
        count_uncommitted(&topics.brokers(), topics.prefix()).is_ok_and(|count| count > before)
    })?;
    killed.kill_9()?;
    for id in 300..310 {
        source.insert(id)?;
        source.update(id, 1_000 + id)?;
    }
    source.carry(&topics, &SNAPSHOT, (0, ""))?;

    let records = topics.records()?;
    ensure!(
        latest(&records)? == source.documents()?,
        "the topic differs after the tail"
    );
    check_identities(&records)?;
    // The copy, 100 inserts, 40 deletes, 40 times two updates, 40 updates with deletes, 80 updates,
    // 20 more.
    ensure!(
        records.len() == 200 + 100 + 40 + 80 + 80 + 80 + 20,
        "{}",
        records.len()
    );
    let lookups = records
        .iter()
        .filter(|record| record.header("oplog-lookup").is_some());
    ensure!(lookups.count() == 80 + 40 + 80 + 10);
    let topic = format!("{}.s.a", topics.prefix());
    let describe = [
        "--describe",
        "--entity-type=topics",
        "--entity-name",
        &topic,
    ];
    let settings = topics.tool_text("kafka-configs", &describe)?;
    ensure!(settings.contains("cleanup.policy=compact"), "{settings}");
    expect_refused(&topics, true)
}

#[test]
fn a_topic_does_not_change_between_changes_and_latest_states() -> Result<()> {
    let topics = Topics::none("latest-modes")?;
    let mut source = Source::new()?;
    source.insert(1)?;
    let start = "--start=oldest";
    source.carry(&topics, &[&SNAPSHOT[..], &[start]].concat(), (0, ""))?;
    let refusal = (2, "switch between changes and latest states");
    for other in [
        "--replayable=false",
        "--replayable=true",
        "--envelope=debezium",
    ] {
        let flags = ["--format=json", "--change-routing", other];
        source.carry(&topics, &flags, refusal)?;
    }

    let topics = Topics::none("changes-first")?;
    let readers = ["--format=json", "--replayable=false"];
    source.carry(&topics, &[&readers[..], &[start]].concat(), (0, ""))?;
    let flags = [&SNAPSHOT[..], &["--change-routing"]].concat();
    source.carry(&topics, &flags, refusal)
}

#[test]
fn a_topic_with_another_cleanup_policy_is_refused() -> Result<()> {
    let mut source = Source::new()?;
    source.insert(1)?;
    for (prefix, policy, flags, part) in [
        (
            "policy-delete",
            "delete",
            &SNAPSHOT[..],
            "Set cleanup.policy=compact",
        ),
        (
            "policy-compact",
            "compact",
            &["--format=json"],
            "compaction would delete updates",
        ),
    ] {
        let topics = Topics::none(prefix)?;
        let policy = format!("cleanup.policy={policy}");
        topics.create_topic(&format!("{prefix}.s.a"), &[&policy])?;
        let flags = [flags, &["--start=oldest"]].concat();
        source.carry(&topics, &flags, (2, part))?;
        ensure!(topics.records()?.is_empty(), "{prefix} has records");
    }
    Ok(())
}

#[test]
fn a_drop_or_rename_is_reported_where_its_documents_stay() -> Result<()> {
    let topics = Topics::none("latest-stale")?;
    let mut source = Source::new()?;
    source.insert(1)?;
    source.update(1, 5)?;
    let rename = doc! { "renameCollection": "s.a", "to": "s.b" };
    source.run("admin", &rename)?;
    let ui = source.ui.clone();
    source.log(doc! { "op": "c", "ns": "s.$cmd", "ui": ui, "o": rename })?;
    let flags = [&SNAPSHOT[..], &["--start=oldest"]].concat();
    source.carry(&topics, &flags, (0, "full-sync --namespaces s.b"))?;
    // The lookup of the update finds no collection of that name any more, so its record is a
    // tombstone.
    ensure!(
        latest(&topics.records()?)?.is_empty(),
        "the topic still has the document"
    );
    let ui = source.ui.clone();
    source.log(doc! { "op": "c", "ns": "s.$cmd", "ui": ui, "o": { "emptycapped": "b" } })?;
    source.carry(
        &topics,
        &SNAPSHOT,
        (0, "all documents of the collection were removed"),
    )?;
    source.run("s", &doc! { "drop": "b" })?;
    let ui = source.ui.clone();
    source.log(doc! { "op": "c", "ns": "s.$cmd", "ui": ui, "o": { "drop": "b" } })?;
    source.carry(&topics, &SNAPSHOT, (0, "the collection was dropped"))
}

/// The flags of a producer that starts at the oldest entry and looks up the documents of updates.
const LOOKUP: [&str; 4] = [
    "--format=json",
    "--json=canonical",
    "--full-document=lookup",
    "--start=oldest",
];

/// Returns a source with ten updated documents, of which the last one has been deleted.
fn updated() -> Result<Source> {
    let mut source = Source::new()?;
    for id in 0..10 {
        source.insert(id)?;
        source.update(id, 100 + id)?;
    }
    source.delete(9)?;
    Ok(source)
}

#[test]
fn updates_have_the_document_that_the_source_has_now() -> Result<()> {
    let source = updated()?;
    let topics = Topics::none("lookup")?;
    source.carry(&topics, &LOOKUP, (0, ""))?;
    let schema = EventSchema::of_change_events()?;
    let mut updates = 0;
    for record in topics.records()? {
        let event = parse(&record)?;
        schema.check(&event)?;
        if event["operationType"] != "update" {
            ensure!(event.get("fullDocumentLookup").is_none(), "{event}");
            continue;
        }
        updates += 1;
        let id = event["documentKey"]["_id"]["$numberInt"]
            .as_str()
            .context("no _id")?;
        let n = &event["fullDocument"]["n"]["$numberInt"];
        let expected = (id != "9").then(|| format!("10{id}"));
        ensure!(n.as_str() == expected.as_deref(), "{event}");
        let at = &event["fullDocumentLookup"]["operationTime"]["$timestamp"]["t"];
        ensure!(at.as_u64() == Some(source.second.into()), "{event}");
    }
    ensure!(updates == 10, "{updates} updates");
    // A replay applies the updates themselves.
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "lookup", 1, &[])?;
    let replayed = target.model().state();
    ensure!(replayed.get("s.a") == source.server.model().state().get("s.a"));
    Ok(())
}

#[test]
fn debezium_updates_have_the_document_that_the_source_has_now() -> Result<()> {
    let source = updated()?;
    let newest = source.second;
    let topics = Topics::none("lookup-debezium")?;
    source.carry(
        &topics,
        &[&LOOKUP[..], &["--envelope=debezium"]].concat(),
        (0, ""),
    )?;
    let schema = EventSchema::of_debezium()?;
    let all = topics.records()?;
    let mut with_after = 0;
    for record in all.iter().filter(|record| !record.value.is_empty()) {
        let event = parse(record)?;
        schema.check(&event)?;
        let is_update = event["op"] == "u";
        let at = record.header("oplog-lookup").map(<[u8]>::to_vec);
        ensure!(at.is_some() == is_update, "{event}");
        if is_update && let Some(after) = event["after"].as_str() {
            ensure!(at == Some(format!("{newest}:1").into_bytes()), "{at:?}");
            let after: Value = serde_json::from_str(after)?;
            ensure!(
                after["n"]["$numberInt"]
                    .as_str()
                    .is_some_and(|n| n.len() == 3),
                "{event}"
            );
            with_after += 1;
        }
    }
    ensure!(with_after == 9, "{with_after} documents");
    Ok(())
}

#[test]
fn updates_and_deletes_have_the_document_before_them() -> Result<()> {
    let mut source = Source::new()?;
    source.insert(1)?;
    source.update(1, 5)?;
    source.keep_before(doc! { "_id": 1, "n": 1 })?;
    source.update(1, 6)?;
    source.delete(1)?;
    source.keep_before(doc! { "_id": 1, "n": 6 })?;
    source.insert(2)?;
    let flags = [
        "--format=json",
        "--full-document-before=lookup",
        "--start=oldest",
    ];
    let topics = Topics::none("before")?;
    source.carry(&topics, &flags, (0, ""))?;
    let schema = EventSchema::of_change_events()?;
    let mut found = Vec::new();
    for record in topics.records()? {
        let event = parse(&record)?;
        schema.check(&event)?;
        if let Some(before) = event.get("fullDocumentBeforeChange") {
            found.push((event["operationType"].clone(), before["n"].clone()));
        }
    }
    // The source has not kept the document before the second update.
    let expected = serde_json::json!([["update", 1], ["update", null], ["delete", 6]]);
    ensure!(serde_json::to_value(&found)? == expected, "{found:?}");
    // A replay does not need these documents.
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "before", 1, &["--allow-lossy"])?;
    let state = target.model().state();
    ensure!(state.get("s.a") == source.server.model().state().get("s.a"));
    ensure!(
        state
            .get("s.a")
            .is_some_and(|documents| documents.len() == 1)
    );

    let topics = Topics::none("before-debezium")?;
    let flags = [&flags[..], &["--envelope=debezium"]].concat();
    source.carry(&topics, &flags, (0, ""))?;
    let schema = EventSchema::of_debezium()?;
    let mut found = Vec::new();
    for record in topics.records()? {
        if record.value.is_empty() {
            continue;
        }
        let event = parse(&record)?;
        schema.check(&event)?;
        match event["op"] == "c" {
            true => ensure!(event["before"].is_null(), "{event}"),
            false => found.push((event["op"].clone(), event["before"].clone())),
        }
    }
    let expected = serde_json::json!([
        ["u", "{\"_id\":1,\"n\":1}"],
        ["u", null],
        ["d", "{\"_id\":1,\"n\":6}"],
    ]);
    ensure!(serde_json::to_value(&found)? == expected, "{found:?}");
    Ok(())
}
