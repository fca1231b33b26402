//! Groups without committed offsets: new ones, and those whose offsets Kafka has removed.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::topic_reader::read_undecoded;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::made::{BEGIN, Made};
use crate::topics::{LIMIT, Topics};

const DOCUMENTS: i32 = 40;
/// Number of documents in a collection that is seldom written to, and in one that is often written
/// to.
const QUIET: usize = 50;
const BUSY: i32 = 400;

fn inserts(ns: &str, ids: std::ops::Range<i32>, made: &mut Made) -> Result<()> {
    ids.into_iter().try_for_each(|id| made.insert(ns, 1, id))
}

fn count(target: &ModelServer, ns: &str) -> usize {
    target.model().state().get(ns).map_or(0, Vec::len)
}

/// Removes a group's offsets, as Kafka does some days after its last member left.
fn expire(topics: &Topics, group: &str) -> Result<()> {
    topics.tool("kafka-consumer-groups", &["--delete", "--group", group])
}

#[test]
fn a_replay_whose_offsets_are_gone_is_not_mistaken_for_a_new_group() -> Result<()> {
    let mut made = Made::default();
    inserts("s.a", 0..DOCUMENTS, &mut made)?;
    let topics = Topics::carry("expired", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "expired", 1, &[])?;
    expire(&topics, "expired")?;
    inserts("s.a", DOCUMENTS..2 * DOCUMENTS, &mut made)?;
    topics.produce(&made.oplog()?, &[])?;
    for start in ["--start=now", "--start=earliest"] {
        let refusal = (4, "--start-again");
        topics.refused(&target, "expired", &[start], refusal)?;
    }
    ensure!(count(&target, "s.a") == usize::try_from(DOCUMENTS)?);
    // Another group of the same target is new.
    topics.replay(&target, "other", 1, &["--start=now"])?;
    topics.replay(&target, "expired", 1, &["--start-again"])?;
    ensure!(count(&target, "s.a") == usize::try_from(2 * DOCUMENTS)?);
    // These flags have no effect on a group with committed offsets.
    topics
        .replay(&target, "expired", 1, &["--start-again", "--start=now"])
        .map(drop)
}

/// Writes a position to the position topic. The transaction stays open until the caller commits it
/// with the returned producer.
fn write_position(topics: &Topics, seconds: u32) -> Result<BaseProducer> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", topics.brokers())
        .set("transactional.id", format!("{}.position", topics.prefix()))
        .create()?;
    producer.init_transactions(LIMIT)?;
    producer.begin_transaction()?;
    let topic = format!("__{}.position.golden", topics.prefix());
    let value = format!(r#"{{"v":1,"ts":"{seconds}:1","term":1,"ord":0,"routing":1}}"#);
    let record = BaseRecord::to(&topic)
        .partition(0)
        .key("position")
        .payload(&value);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    Ok(producer)
}

/// Kafka acknowledges a commit before the markers are written, so the last position may not be
/// readable yet.
#[test]
fn a_start_now_waits_for_the_position_that_is_being_committed() -> Result<()> {
    let mut made = Made::default();
    inserts("s.a", 0..DOCUMENTS, &mut made)?;
    let topics = Topics::carry("committing", &made.oplog()?)?;
    write_position(&topics, BEGIN)?.commit_transaction(LIMIT)?;
    let open = write_position(&topics, BEGIN + 10_000)?;
    let target = ModelServer::start(Model::default())?;
    let flags = ["--start=now", "--until-caught-up"];
    let mut program = topics.start(&target, "committing", &flags)?;
    wait_until("the wait for the transaction", LIMIT, || {
        let log = program.stderr_text();
        log.is_ok_and(|log| log.contains("waiting for the transaction"))
    })?;
    open.commit_transaction(LIMIT)?;
    let code = program.wait(LIMIT)?;
    ensure!(code == 0, "{}", program.stderr_text()?);
    ensure!(count(&target, "s.a") == 0, "{}", program.stderr_text()?);
    Ok(())
}

fn emit(topics: &Topics, prefix: &str, path: &Path, more: &[&str]) -> Result<Program> {
    let flags = [
        format!("--brokers={}", topics.brokers()),
        format!("--topic-prefix={prefix}"),
        format!("--group={prefix}"),
        format!("--to=file:{}", path.display()),
    ];
    let flags = flags.iter().map(String::as_str);
    let common = ["emit", "--http=off"];
    Program::consumer(common.into_iter().chain(flags).chain(more.iter().copied()))
}

fn emitted(topics: &Topics, prefix: &str, path: &Path, more: &[&str]) -> Result<(i32, String)> {
    let flags = [&["--until-caught-up"], more].concat();
    let mut program = emit(topics, prefix, path, &flags)?;
    let code = program.wait(LIMIT)?;
    Ok((code, program.stderr_text()?))
}

fn lines(path: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(path)?.lines().count())
}

#[test]
fn an_emit_whose_offsets_are_gone_recognizes_its_file() -> Result<()> {
    let mut made = Made::default();
    inserts("s.a", 0..DOCUMENTS, &mut made)?;
    let topics = Topics::carry("emitted", &made.oplog()?)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events");
    let all = usize::try_from(DOCUMENTS)?;
    for (more, expected) in [(&[][..], 0), (&[], 4), (&["--start-again"], 0)] {
        let (code, log) = emitted(&topics, "emitted", &path, more)?;
        ensure!(code == expected, "{more:?} ended with {code}: {log}");
        ensure!(code == 0 || log.contains("--start-again"), "{log}");
        expire(&topics, "emitted").or_else(|error| match code {
            0 => Err(error),
            _ => Ok(()),
        })?;
    }
    ensure!(lines(&path)? == 2 * all, "{} lines", lines(&path)?);
    Ok(())
}

#[test]
fn only_one_member_writes_to_a_file() -> Result<()> {
    let mut made = Made::default();
    inserts("s.a", 0..DOCUMENTS, &mut made)?;
    let topics = Topics::carry("locked", &made.oplog()?)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events");
    let mut first = emit(&topics, "locked", &path, &[])?;
    wait_until("the lines", LIMIT, || {
        lines(&path).is_ok_and(|lines| i32::try_from(lines) == Ok(DOCUMENTS))
    })?;
    let (code, log) = emitted(&topics, "locked", &path, &[])?;
    ensure!(
        code == 2 && log.contains("a file of its own"),
        "ended with {code}: {log}"
    );
    first.terminate()?;
    first.wait(LIMIT)?;
    let (code, log) = emitted(&topics, "locked", &path, &[])?;
    ensure!(code == 0, "ended with {code}: {log}");
    Ok(())
}

/// Removes the records before offset 40 from each of the eight partitions of a topic.
fn remove_records(topics: &Topics, topic: &str) -> Result<()> {
    let partitions = (0..8).map(|partition| {
        format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":40}}")
    });
    let partitions: Vec<String> = partitions.collect();
    let text = format!(
        "{{\"version\":1,\"partitions\":[{}]}}",
        partitions.join(",")
    );
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("offsets.json");
    std::fs::write(&path, text)?;
    let path = path.to_str().context("the path is not UTF-8")?;
    topics.tool("kafka-delete-records", &["--offset-json-file", path])
}

#[test]
fn a_new_group_refuses_to_replay_when_old_records_of_one_topic_were_removed() -> Result<()> {
    let mut made = Made::default();
    for id in 0..BUSY {
        if id % 8 == 0 {
            made.insert("s.quiet", 1, id)?;
        }
        made.insert_with("s.busy", 2, doc! { "_id": id })?;
    }
    let first = made.next_second()?;
    let topics = Topics::carry("cut", &made.oplog()?)?;
    remove_records(&topics, "cut.s.busy")?;
    let left: usize = read_undecoded(&topics.brokers(), "cut")?
        .values()
        .map(Vec::len)
        .sum();
    ensure!((QUIET + 1..QUIET + 200).contains(&left), "{left} records");

    // An `emit` takes all remaining records, and logs that.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events");
    let (code, log) = emitted(&topics, "cut", &path, &[])?;
    ensure!(code == 0 && log.contains("topic cut.s.busy"), "{log}");
    ensure!(lines(&path)? == left, "{} of {left}", lines(&path)?);

    // A replay would be incomplete, from the start and also from the time of the last 100 documents
    // of `s.busy`, because some of their records were removed too. One entry in nine inserts into
    // `s.quiet`, and each entry has its own second.
    let target = ModelServer::start(Model::default())?;
    let early = format!("--start={}:1", first - 100 * 9 / 8);
    for flags in [&[][..], &[early.as_str()]] {
        let refusal = (4, "topic cut.s.busy, partition");
        topics.refused(&target, "partial", flags, refusal)?;
    }
    ensure!(count(&target, "s.quiet") == 0);
    let log = topics.replay(&target, "partial", 1, &["--allow-missing-records"])?;
    ensure!(log.contains("earlier entries are not replayed"), "{log}");
    // The group now has committed offsets.
    topics.replay(&target, "partial", 1, &[])?;
    let replayed = count(&target, "s.quiet") + count(&target, "s.busy");
    ensure!((1..left).contains(&replayed), "{replayed} of {left}");
    Ok(())
}
