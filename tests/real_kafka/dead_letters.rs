//! Entries that cannot be applied: they stop the replay or become dead letters.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::topic_reader::{TopicRecord, read_topic_records};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use crate::carry::CATALOG;
use crate::idle::taken;
use crate::made::Made;
use crate::topics::{LIMIT, Topics};

const DOCUMENTS: i32 = 40;
const ALL: &str = "--dead-letter=undecodable,command,write";
const GARBAGE: &[u8] = b"no document";

/// Returns a history with a document that [`target`] refuses, two updates of missing documents, one
/// of which needs a rewrite, an unknown command, and an index that every target refuses.
fn history() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..DOCUMENTS {
        made.insert("s.a", 1, id)?;
    }
    made.insert_with("s.a", 1, doc! { "_id": 500, "x": [1, 2], "y": [1, 2] })?;
    made.update("s.a", 1, 501, doc! { "$v": 2, "diff": { "u": { "z": 1 } } })?;
    let truncated = doc! { "i": { "z": 1 }, "sx": { "a": true, "l": 1 } };
    made.update("s.a", 1, 502, doc! { "$v": 2, "diff": truncated })?;
    made.command("s.a", 1, doc! { "frobnicate": "a" })?;
    let index =
        doc! { "createIndexes": "a", "v": 2, "unique": true, "key": { "k": "bogus" }, "name": "k" };
    made.command("s.a", 1, index)?;
    for id in DOCUMENTS..2 * DOCUMENTS {
        made.insert("s.a", 1, id)?;
    }
    Ok(made)
}

/// Returns a target that refuses documents with arrays in both `x` and `y`.
fn target() -> Result<ModelServer> {
    let target = ModelServer::start(Model::default())?;
    let uri = target.uri();
    tokio::runtime::Runtime::new()?.block_on(async {
        let database = mongodb::Client::with_uri_str(uri).await?.database("s");
        // An index cannot have keys of two arrays of a document. It is sparse, so documents without
        // these fields are not in it.
        let index =
            doc! { "key": { "x": 1, "y": 1 }, "name": "x_1_y_1", "unique": true, "sparse": true };
        let command = doc! { "createIndexes": "a", "indexes": [index] };
        database.run_command(command).await.map(drop)
    })?;
    Ok(target)
}

/// Writes a record to a topic.
fn inject(topics: &Topics, topic: &str, partition: i32, value: &[u8]) -> Result<()> {
    inject_under(topics, (topic, partition), Some("a key"), value)
}

fn inject_under(
    topics: &Topics,
    (topic, partition): (&str, i32),
    key: Option<&str>,
    value: &[u8],
) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", topics.brokers())
        .set("message.max.bytes", "10000000")
        .create()?;
    let headers = OwnedHeaders::new().insert(Header {
        key: "by",
        value: Some("somebody"),
    });
    let mut record = BaseRecord::<str, [u8]>::to(topic)
        .partition(partition)
        .payload(value)
        .headers(headers);
    record.key = key;
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(Duration::from_secs(30))?;
    Ok(())
}

fn ids(target: &ModelServer) -> Result<Vec<i32>> {
    let state = target.model().state();
    let mut found = Vec::new();
    for (ns, documents) in state.iter().filter(|(ns, _)| !ns.starts_with(CATALOG)) {
        ensure!(ns == "s.a", "{ns}");
        for bytes in documents {
            found.push(bson::Document::from_reader(bytes.as_slice())?.get_i32("_id")?);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn expect(target: &ModelServer) -> Result<()> {
    let found = ids(target)?;
    ensure!(found == (0..2 * DOCUMENTS).collect::<Vec<_>>(), "{found:?}");
    Ok(())
}

/// Returns the content of a group's dead-letter topic: the lines of `dead-letters`, and the
/// records.
fn letters(topics: &Topics, group: &str) -> Result<(Vec<Value>, Vec<TopicRecord>)> {
    let brokers = format!("--brokers={}", topics.brokers());
    let group_flag = format!("--group={group}");
    let mut program = Program::consumer(["dead-letters", &brokers, &group_flag])?;
    let code = program.wait(LIMIT)?;
    ensure!(code == 0, "{code}: {}", program.stderr_text()?);
    let lines = program.stdout_text()?;
    let lines = lines.lines().map(serde_json::from_str);
    let topic = format!("__{group}.dead-letters");
    let records = read_topic_records(&topics.brokers(), &topic)?;
    Ok((lines.collect::<Result<_, _>>()?, records))
}

fn count(letters: &[Value]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for letter in letters {
        let reason = letter["reason"].as_str().unwrap_or_default();
        *counts.entry(reason.to_owned()).or_default() += 1;
    }
    counts
}

fn counts(all: &[(&str, usize)]) -> BTreeMap<String, usize> {
    all.iter().map(|(it, n)| ((*it).to_owned(), *n)).collect()
}

#[test]
fn an_entry_that_cannot_be_applied_stops_with_6_or_becomes_a_dead_letter() -> Result<()> {
    let topics = Topics::carry("dead", &history()?.oplog()?)?;
    inject(&topics, "dead.s.a", 3, GARBAGE)?;
    for (number, others, part) in [
        (1, "command,write", "cannot be decoded"),
        (2, "undecodable,write", "frobnicate"),
        (3, "undecodable,command", "code 171"),
    ] {
        let others = format!("--dead-letter={others}");
        topics.refused(&target()?, &format!("dead-{number}"), &[&others], (6, part))?;
    }
    for (group, processes) in [("dead-all-1", 1), ("dead-all-3", 3)] {
        let target = target()?;
        let unmatched = "--unmatched=dead-letter";
        topics.replay(&target, group, processes, &[ALL, unmatched])?;
        expect(&target)?;
        let (lines, records) = letters(&topics, group)?;
        let once = [
            ("command", 2),
            ("undecodable", 1),
            ("unmatched", 2),
            ("write", 1),
        ];
        ensure!(count(&lines) == counts(&once), "{lines:?}");
        let damaged = records
            .iter()
            .find(|record| record.value == GARBAGE)
            .context("the damaged record is missing")?;
        ensure!(damaged.key.as_deref() == Some(b"a key"), "{damaged:?}");
        for (name, value) in [
            ("by", "somebody"),
            ("oplog-dead-letter-topic", "dead.s.a"),
            ("oplog-dead-letter-partition", "3"),
            ("oplog-dead-letter-reason", "undecodable"),
            ("oplog-dead-letter-group", group),
        ] {
            ensure!(
                damaged.header(name) == Some(value.as_bytes()),
                "{name}: {damaged:?}"
            );
        }
        // The entries are applied again. The catalog skips the commands; the rest is refused again.
        let all = [
            "--to-earliest",
            "--topic",
            "dead.s.a",
            "--topic",
            "dead.s.-cmd",
        ];
        topics.reset(group, &all)?;
        topics.replay(&target, group, processes, &[ALL, unmatched])?;
        expect(&target)?;
        let (lines, _) = letters(&topics, group)?;
        let twice = [
            ("command", 2),
            ("undecodable", 2),
            ("unmatched", 4),
            ("write", 2),
        ];
        ensure!(count(&lines) == counts(&twice), "{lines:?}");
    }
    Ok(())
}

/// No later entry can release the document, and the committed offset stays before it.
#[test]
fn a_held_document_at_the_end_stops_or_becomes_a_dead_letter() -> Result<()> {
    let (topics, target) = taken("waiting")?;
    let refusal = (6, "no more records follow");
    topics.refused(&target, "waiting", &[], refusal)?;
    ensure!(ids(&target)? == [99], "the refused document was written");
    topics.replay(&target, "waiting", 1, &["--dead-letter=write"])?;
    let (lines, _) = letters(&topics, "waiting")?;
    ensure!(count(&lines) == counts(&[("write", 1)]), "{lines:?}");
    Ok(())
}

#[test]
fn a_dead_letter_is_not_lost_by_a_kill() -> Result<()> {
    let topics = Topics::carry("buried", &history()?.oplog()?)?;
    inject(&topics, "buried.s.a", 3, GARBAGE)?;
    let target = target()?;
    let flags = [ALL, "--unmatched=dead-letter"];
    for kill in 1..=3 {
        let mut member = topics.start(&target, "buried", &flags)?;
        // The next run writes those again whose offsets were not committed, but maybe none of them:
        // this waits for a total that every run reaches.
        wait_until("a dead letter", LIMIT, || {
            let ended = !member.is_running().unwrap_or(false);
            let found = letters(&topics, "buried");
            ended || found.is_ok_and(|(lines, _)| lines.len() >= kill)
        })?;
        ensure!(member.is_running()?, "{kill}: {}", member.stderr_text()?);
        member.kill_9()?;
    }
    topics.replay(&target, "buried", 1, &flags)?;
    expect(&target)?;
    let found = count(&letters(&topics, "buried")?.0);
    for reason in ["command", "undecodable", "unmatched", "write"] {
        ensure!(found.contains_key(reason), "{reason}: {found:?}");
    }
    Ok(())
}

#[test]
fn the_committed_offset_does_not_pass_a_dead_letter_that_kafka_refuses() -> Result<()> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    made.insert("s.a", 1, 0)?;
    let topics = Topics::carry("refused", &made.oplog()?)?;
    inject_under(&topics, ("refused.s.a", 3), None, GARBAGE)?;
    // No record fits into this topic, not even a dead letter without its value.
    let letters_topic = "__refused.dead-letters";
    topics.create_topic(letters_topic, &["max.message.bytes=80"])?;
    let target = ModelServer::start(Model::default())?;
    let flags = ["--dead-letter=undecodable"];
    for _ in 0..2 {
        topics.refused(&target, "refused", &flags, (1, letters_topic))?;
    }
    let alter = ["--alter", "--entity-type=topics", "--entity-name"];
    let larger = [letters_topic, "--add-config", "max.message.bytes=1000000"];
    topics.tool("kafka-configs", &[&alter[..], &larger].concat())?;
    topics.replay(&target, "refused", 1, &flags)?;
    ensure!(ids(&target)? == [0], "the rest is missing");
    let (lines, _) = letters(&topics, "refused")?;
    ensure!(count(&lines) == counts(&[("undecodable", 1)]), "{lines:?}");
    Ok(())
}

#[test]
fn a_dead_letter_whose_value_does_not_fit_refers_to_the_record() -> Result<()> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    made.insert("s.a", 1, 0)?;
    let topics = Topics::carry("large", &made.oplog()?)?;
    // These bytes do not compress: the limit of the topic applies to the compressed batch.
    let mut state = 1_u32;
    let large = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let large: Vec<u8> = large.take(200_000).collect();
    inject(&topics, "large.s.a", 2, &large)?;
    topics.create_topic("__large.dead-letters", &["max.message.bytes=20000"])?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "large", 1, &["--dead-letter=undecodable"])?;
    ensure!(ids(&target)? == [0], "the rest is missing");
    let (lines, records) = letters(&topics, "large")?;
    let [letter] = records.as_slice() else {
        anyhow::bail!("{lines:?}")
    };
    ensure!(letter.value.is_empty() && letter.key.as_deref() == Some(b"a key"));
    ensure!(letter.header("by") == Some(b"somebody"), "{letter:?}");
    ensure!(
        lines[0]["partition"] == 2 && lines[0]["offset"].is_i64(),
        "{lines:?}"
    );
    let omitted = lines[0]["omitted"].as_str().unwrap_or_default();
    ensure!(omitted.contains("200000 bytes"), "{lines:?}");
    Ok(())
}

#[test]
fn emit_keeps_what_it_cannot_decode() -> Result<()> {
    let topics = Topics::carry("lines", &history()?.oplog()?)?;
    inject(&topics, "lines.s.a", 3, GARBAGE)?;
    let brokers = format!("--brokers={}", topics.brokers());
    let emit = |group: &str, more: &[&str]| -> Result<(i32, usize)> {
        let group = format!("--group={group}");
        let flags = [
            "emit",
            "--http=off",
            "--until-caught-up",
            "--topic-prefix=lines",
        ];
        let flags = flags.into_iter().chain([brokers.as_str(), &group]);
        let mut program = Program::consumer(flags.chain(more.iter().copied()))?;
        let code = program.wait(LIMIT)?;
        Ok((code, program.stdout_text()?.lines().count()))
    };
    ensure!(emit("lines-1", &[])?.0 == 6);
    let (code, lines) = emit("lines-2", &["--dead-letter=undecodable"])?;
    // The create, the documents, the refused document, two updates and two other commands.
    let expected = usize::try_from(2 * DOCUMENTS)? + 6;
    ensure!((code, lines) == (0, expected), "{code}, {lines} lines");
    ensure!(count(&letters(&topics, "lines-2")?.0) == counts(&[("undecodable", 1)]));
    Ok(())
}

#[test]
fn a_refused_create_becomes_a_dead_letter_and_a_refused_drop_stops() -> Result<()> {
    const INVALID_OPTIONS: i32 = 72;
    const ILLEGAL: i32 = 20;
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..DOCUMENTS {
        made.insert("s.a", 1, id)?;
    }
    let topics = Topics::carry("refusal", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    target.fail_next("create", INVALID_OPTIONS);
    let refusal = (6, "refused by the target");
    topics.refused(&target, "refusal", &["--dead-letter=write"], refusal)?;
    let flags = ["--dead-letter=command"];
    target.fail_next("create", INVALID_OPTIONS);
    // Only one process: with several, the one that receives the failure may lose the partition at
    // that moment.
    topics.replay(&target, "refusal", 1, &flags)?;
    let all: Vec<i32> = (0..DOCUMENTS).collect();
    ensure!(
        ids(&target)? == all,
        "the documents did not create the collection"
    );
    let letters_of = |times| -> Result<()> {
        let found = count(&letters(&topics, "refusal")?.0);
        ensure!(found == counts(&[("command", times)]), "{found:?}");
        Ok(())
    };
    letters_of(1)?;
    // The create counts as done: applied again, it neither runs nor becomes a dead letter.
    topics.reset("refusal", &["--all-topics", "--to-earliest"])?;
    topics.replay(&target, "refusal", 2, &flags)?;
    letters_of(1)?;

    // Without the drop the name's next incarnation would contain documents of this one.
    made.drop("s.a", 1)?;
    topics.produce(&made.oplog()?, &[])?;
    // The first drop is the one by which a starting replay checks whether the target accepts UUIDs.
    target.fail_next("drop", ILLEGAL);
    target.fail_next("drop", ILLEGAL);
    topics.refused(&target, "refusal", &flags, refusal)?;
    letters_of(1)?;
    topics.replay(&target, "refusal", 2, &flags)?;
    ensure!(ids(&target)?.is_empty(), "the collection was not dropped");
    Ok(())
}

#[test]
fn a_held_document_at_a_barrier_stops_or_becomes_a_dead_letter() -> Result<()> {
    let unique =
        |name: &str| doc! { "key": { name: 1 }, "name": name, "unique": true, "sparse": true };
    let mut made = Made::default();
    made.create("s.a", 1)?;
    made.insert_with("s.a", 1, doc! { "_id": 0, "x": 7 })?;
    made.insert_with("s.a", 1, doc! { "_id": 1, "x": 8 })?;
    let change = doc! { "$v": 2, "diff": { "i": { "w": "later" } } };
    made.update("s.a", 1, 0, change)?;
    let mut index = doc! { "createIndexes": "a", "v": 2 };
    index.extend(unique("z"));
    made.command("s.a", 1, index)?;
    made.insert_with("s.a", 1, doc! { "_id": 2, "x": 9 })?;
    let topics = Topics::none("waits")?;
    // In one partition, all documents before the command are read before it.
    topics.produce(&made.oplog()?, &["--order=collection"])?;
    let target = ModelServer::start(Model::default())?;
    let uri = target.uri();
    tokio::runtime::Runtime::new()?.block_on(async {
        let database = mongodb::Client::with_uri_str(uri).await?.database("s");
        let foreign = doc! { "insert": "a", "documents": [{ "_id": 100, "x": 7 }] };
        let command = doc! { "createIndexes": "a", "indexes": [unique("x")] };
        database.run_command(foreign).await?;
        database.run_command(command).await.map(drop)
    })?;
    let refusal = (6, "and a command follows");
    topics.refused(&target, "waits", &["--dead-letter=command"], refusal)?;
    ensure!(
        ids(&target)? == [1, 100],
        "an entry after the command was applied"
    );
    topics.replay(&target, "waits", 2, &["--dead-letter=write"])?;
    ensure!(ids(&target)? == [1, 2, 100], "the rest is missing");
    let (lines, records) = letters(&topics, "waits")?;
    ensure!(count(&lines) == counts(&[("write", 1)]), "{lines:?}");
    ensure!(lines[0]["code"] == 11000, "{lines:?}");
    // The dead letter has the document as it is after all of its entries.
    let value = bson::Document::from_reader(records[0].value.as_slice())?;
    let whole = doc! { "_id": 0, "x": 7, "w": "later" };
    ensure!(value.get_document("o")? == &whole, "{value}");
    Ok(())
}

/// Returns a target with a unique index and a document, because of which the first document of the
/// history is held, and the topics of that history. Its command creates an index that may refuse
/// documents; if `is_last` is false, another one creates a unique index.
fn held_before_commands(prefix: &str, is_last: bool) -> Result<(Topics, ModelServer)> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    made.insert_with("s.a", 1, doc! { "_id": 0, "x": 7 })?;
    let passable =
        doc! { "createIndexes": "a", "v": 2, "key": { "p": "2dsphere" }, "name": "p_2dsphere" };
    made.command("s.a", 1, passable)?;
    if !is_last {
        let unique =
            doc! { "createIndexes": "a", "v": 2, "unique": true, "key": { "k": 1 }, "name": "k" };
        made.command("s.a", 1, unique)?;
    }
    let topics = Topics::none(prefix)?;
    topics.produce(&made.oplog()?, &["--order=collection"])?;
    let target = ModelServer::start(Model::default())?;
    let uri = target.uri();
    tokio::runtime::Runtime::new()?.block_on(async {
        let database = mongodb::Client::with_uri_str(uri).await?.database("s");
        let index = doc! { "key": { "x": 1 }, "name": "x", "unique": true, "sparse": true };
        let other = doc! { "insert": "a", "documents": [{ "_id": 100, "x": 7 }] };
        let command = doc! { "createIndexes": "a", "indexes": [index] };
        database.run_command(other).await?;
        database.run_command(command).await.map(drop)
    })?;
    Ok((topics, target))
}

/// The document is held before a command. When it is tried again, the target refuses it for another
/// reason than an index, so it is no longer held.
#[test]
fn a_held_document_that_is_refused_at_a_barrier_is_a_dead_letter_before_the_commit() -> Result<()> {
    const DUPLICATE: i32 = 11000;
    const INVALID: i32 = 121;
    const CANNOT_CREATE_INDEX: i32 = 67;
    // The document is tried after the first command, and at the barrier of the second one.
    for (prefix, is_last, codes) in [
        ("letters-after", true, &[INVALID, INVALID][..]),
        ("letters-before", false, &[DUPLICATE, INVALID, INVALID]),
    ] {
        let (topics, target) = held_before_commands(prefix, is_last)?;
        target.hold("createIndexes", "a");
        let more = ["--dead-letter=write", "--until-caught-up"];
        let mut member = topics.start(&target, prefix, &more)?;
        wait_until("the first command", LIMIT, || target.held() > 0)?;
        for code in codes {
            target.refuse_next("update a", *code);
        }
        // The second command stops the replay, so no later batch makes the dead letter.
        // Its index is tried in two forms.
        for _ in 0..2 {
            target.fail_next("createIndexes", CANNOT_CREATE_INDEX);
        }
        target.resume();
        let code = member.wait(LIMIT)?;
        let log = member.stderr_text()?;
        ensure!((code == 0) == is_last, "{code}: {log}");
        let (lines, _) = letters(&topics, prefix)?;
        ensure!(count(&lines) == counts(&[("write", 1)]), "{lines:?}: {log}");
        ensure!(lines[0]["code"] == INVALID, "{lines:?}");
    }
    Ok(())
}
