//! `oplog-consumer audit` on a real broker.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, Timestamp, doc};
use oplog_relay_core::format::fragment::FRAGMENT_HEADER;
use oplog_relay_kit::services::{Kafka, Program, wait_for};
use oplog_relay_kit::topic_reader::{TopicRecord, read_undecoded};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const LIMIT: Duration = Duration::from_secs(120);
const SECONDS: u32 = 1_700_000_000;

fn entry(increment: u32, id: i32) -> Result<Vec<u8>> {
    made("i", increment, doc! { "_id": id, "text": "x" })
}

fn made(op: &str, increment: u32, o: Document) -> Result<Vec<u8>> {
    let ts = Timestamp {
        time: SECONDS,
        increment,
    };
    let wall = bson::DateTime::from_millis(i64::from(SECONDS) * 1000);
    let ns = if op == "c" { "app.$cmd" } else { "app.a" };
    Ok(doc! {
        "ts": ts, "t": 1_i64, "v": 2_i64, "op": op, "ns": ns, "wall": wall, "o": o,
    }
    .to_vec()?)
}

/// Sends two thousand inserts and then a command, under a prefix.
fn produce(kafka: &Kafka, prefix: &str, format: &[&str]) -> Result<()> {
    carry(kafka, prefix, &history()?, format)
}

fn history() -> Result<Vec<u8>> {
    let mut dump = Vec::new();
    for number in 1..=2000_i32 {
        dump.extend(entry(number.cast_unsigned(), number)?);
    }
    dump.extend(made("c", 3000, doc! { "drop": "a" })?);
    Ok(dump)
}

/// Sends the part of a dump after the saved position.
fn carry(kafka: &Kafka, prefix: &str, dump: &[u8], format: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("oplog.bson");
    std::fs::write(&path, dump)?;
    let flags = [
        "run".to_owned(),
        "--http=off".to_owned(),
        "--start=oldest".to_owned(),
        format!("--source={}", path.display()),
        format!("--brokers={}", kafka.brokers()),
        format!("--topic-prefix={prefix}"),
        "--source-name=made".to_owned(),
    ];
    let flags = flags.iter().map(String::as_str);
    let mut program = Program::producer(flags.chain(format.iter().copied()))?;
    let code = program.wait(LIMIT)?;
    ensure!(code == 0, "{}", program.stderr_text()?);
    Ok(())
}

/// Sends one record with a producer that is not part of this project.
fn send(
    kafka: &Kafka,
    (topic, partition): (&str, i32),
    headers: &[(&str, &[u8])],
    value: &[u8],
) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .create()?;
    let mut owned = OwnedHeaders::new();
    for (key, value) in headers {
        let value = Some(*value);
        owned = owned.insert(Header { key, value });
    }
    let record = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(partition)
        .headers(owned)
        .payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    Ok(())
}

/// Sends one record in a transaction that stays open.
fn send_open(kafka: &Kafka, topic: &str, name: &str, value: &[u8]) -> Result<BaseProducer> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("transactional.id", topic)
        .set("transaction.timeout.ms", "180000")
        .create()?;
    producer.init_transactions(LIMIT)?;
    producer.begin_transaction()?;
    let headers = OwnedHeaders::new().insert(Header {
        key: "oplog-id",
        value: Some(name.as_bytes()),
    });
    let record = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(0)
        .headers(headers)
        .payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    Ok(producer)
}

/// Returns the id of an entry as the header of its record contains it.
fn name(increment: u32) -> String {
    format!("made/{SECONDS}:{increment}/0")
}

pub(crate) fn audit(kafka: &Kafka, prefix: &str, more: &[&str]) -> Result<(i32, String)> {
    end_of(begin(kafka, prefix, more)?)
}

fn begin(kafka: &Kafka, prefix: &str, more: &[&str]) -> Result<Program> {
    let flags = [
        "audit".to_owned(),
        format!("--brokers={}", kafka.brokers()),
        format!("--topic-prefix={prefix}"),
    ];
    let flags = flags.iter().map(String::as_str);
    Program::consumer(flags.chain(more.iter().copied()))
}

fn end_of(mut program: Program) -> Result<(i32, String)> {
    let code = program.wait(LIMIT)?;
    Ok((code, program.stdout_text()? + &program.stderr_text()?))
}

#[test]
fn every_format_is_read_back_and_counted_and_barriers_are_skipped() -> Result<()> {
    let kafka = Kafka::shared()?;
    for (prefix, format) in [
        ("auditbson", &["--format=bson"][..]),
        ("auditraw", &["--format=raw"]),
        ("auditjson", &["--format=json"]),
    ] {
        produce(&kafka, prefix, format)?;
        let (code, said) = audit(&kafka, prefix, &[])?;
        ensure!(code == 0, "{prefix}: {code}:\n{said}");
        ensure!(said.contains("command 1, insert 2000"), "{said}");
    }
    let (code, said) = audit(&kafka, "auditraw", &["--topic=auditraw.app.nothing"])?;
    ensure!(
        code == 2 && said.contains("auditraw.app.nothing"),
        "{code}: {said}"
    );
    Ok(())
}

#[test]
fn removed_records_and_topics_are_reported() -> Result<()> {
    let kafka = Kafka::shared()?;
    produce(&kafka, "auditgone", &["--format=bson", "--partitions=1"])?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("offsets.json");
    let offsets =
        r#"{"partitions":[{"topic":"auditgone.app.a","partition":0,"offset":100}],"version":1}"#;
    std::fs::write(&path, offsets)?;
    let file = path.display().to_string();
    tool(
        &kafka,
        "kafka-delete-records",
        &["--offset-json-file", &file],
    )?;
    let (code, said) = audit(&kafka, "auditgone", &[])?;
    ensure!(code == 0, "{code}: {said}");
    let part = "auditgone.app.a, partition 0 begins at offset 100";
    ensure!(said.contains(part), "{said}");
    ensure!(said.contains("do not begin at offset 0: 1"), "{said}");

    tool(
        &kafka,
        "kafka-topics",
        &["--delete", "--topic=auditgone.app.a"],
    )?;
    let (code, said) = audit(&kafka, "auditgone", &[])?;
    ensure!(code == 7, "{code}: {said}");
    ensure!(said.contains("missing: topic auditgone.app.a"), "{said}");

    let flags = [
        "emit".to_owned(),
        "--http=off".to_owned(),
        "--until-caught-up".to_owned(),
        "--group=auditgone".to_owned(),
        format!("--brokers={}", kafka.brokers()),
        "--topic-prefix=auditgone".to_owned(),
    ];
    let (_, said) = end_of(Program::consumer(&flags)?)?;
    ensure!(said.contains("topic=\"auditgone.app.a\""), "{said}");
    Ok(())
}

fn tool(kafka: &Kafka, name: &str, arguments: &[&str]) -> Result<()> {
    let output = kafka.tool(name, arguments)?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {log}");
    Ok(())
}

#[test]
fn the_audit_waits_for_open_transactions() -> Result<()> {
    let kafka = Kafka::shared()?;
    produce(&kafka, "auditopen", &[])?;
    let last = entry(5000, 5000)?;
    let producer = send_open(&kafka, "auditopen.app.a", &name(5000), &last)?;
    let program = begin(&kafka, "auditopen", &[])?;
    wait_for("the audit to wait", LIMIT, || {
        Ok(program
            .stderr_text()?
            .contains("a transaction is open")
            .then_some(()))
    })?;
    producer.commit_transaction(LIMIT)?;
    let (code, said) = end_of(program)?;
    ensure!(code == 0 && said.contains("insert 2001"), "{code}:\n{said}");
    Ok(())
}

#[test]
fn a_damaged_out_of_order_or_duplicate_record_is_named() -> Result<()> {
    let kafka = Kafka::shared()?;
    produce(&kafka, "auditfault", &["--partitions=2"])?;
    let send = |partition, name: &str, value: &[u8]| {
        let headers = [("oplog-id", name.as_bytes())];
        send(&kafka, ("auditfault.app.a", partition), &headers, value)
    };
    // A later entry of a document is followed by an earlier one of the same document.
    send(0, &name(9000), &entry(9000, 5)?)?;
    send(0, &name(8000), &entry(8000, 5)?)?;
    // An entry of another document is not a fault, although the order in the partition is wrong.
    send(0, &name(8500), &entry(8500, 6)?)?;
    let (code, said) = audit(&kafka, "auditfault", &[])?;
    ensure!(code == 7 && said.contains("faults: 1"), "{code}:\n{said}");
    let after = format!("entry {SECONDS}:8000/0 comes after {SECONDS}:9000/0");
    ensure!(said.contains(&after), "{said}");

    // The same entry is repeated in the other partition.
    send(1, &name(9000), &entry(9000, 5)?)?;
    send(1, &name(9100), b"no bson")?;
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let flag = format!("--report={}", report.display());
    let (code, said) = audit(&kafka, "auditfault", &[&flag])?;
    ensure!(code == 7 && said.contains("faults: 3"), "{code}:\n{said}");
    let lines = std::fs::read_to_string(report)?;
    for kind in ["out-of-order", "twice", "undecodable", "verdict"] {
        let count = lines.matches(&format!("{{\"kind\":\"{kind}\"")).count();
        ensure!(count == 1, "{kind}: {count} times in {lines}");
    }
    Ok(())
}

#[test]
fn a_document_of_a_full_sync_may_occur_twice_but_not_after_a_later_change() -> Result<()> {
    let kafka = Kafka::shared()?;
    produce(&kafka, "auditread", &["--partitions=2"])?;
    let send = |partition, name: &str, value: &[u8]| {
        let headers = [("oplog-id", name.as_bytes())];
        send(&kafka, ("auditread.app.a", partition), &headers, value)
    };
    let read = |increment, id| made("r", increment, doc! { "_id": id });
    for (partition, increment, id) in [(0, 4000, 5), (0, 4000, 5), (1, 4000, 5), (0, 3500, 6)] {
        send(partition, &name(increment), &read(increment, id)?)?;
    }
    let (code, said) = audit(&kafka, "auditread", &[])?;
    ensure!(code == 0 && said.contains("snapshot 4"), "{code}:\n{said}");
    // The second of these records would undo the first.
    send(0, &name(9000), &entry(9000, 5)?)?;
    send(0, &name(8000), &read(8000, 5)?)?;
    let (code, said) = audit(&kafka, "auditread", &[])?;
    ensure!(code == 7 && said.contains("faults: 1"), "{code}:\n{said}");
    let after = format!("entry {SECONDS}:8000/0 comes after {SECONDS}:9000/0");
    ensure!(said.contains(&after), "{said}");
    Ok(())
}

#[test]
fn records_in_fragments_are_read_back_and_an_incomplete_one_is_named() -> Result<()> {
    let kafka = Kafka::shared()?;
    let topic = "auditsplit.app.a";
    let create = ["--create", "--topic", topic, "--partitions", "2"];
    let keep = ["--config", "retention.ms=-1"];
    let limit = ["--config", "max.message.bytes=4096"];
    let output = kafka.tool("kafka-topics", &[&create[..], &keep, &limit].concat())?;
    ensure!(output.status.success(), "{output:?}");
    let mut dump = history()?;
    for number in 0..20_i32 {
        let text = "text ".repeat(1000 * usize::try_from(number)?);
        let read = doc! { "_id": 10_000 + number, "text": text };
        dump.extend(made("i", 4000 + number.cast_unsigned(), read)?);
    }
    carry(&kafka, "auditsplit", &dump, &["--oversize=split"])?;
    let contents = read_undecoded(&kafka.brokers(), "auditsplit")?;
    let is_fragment = |record: &&TopicRecord| record.header(FRAGMENT_HEADER).is_some();
    let records = contents.values().flatten();
    let count = records.filter(is_fragment).count();
    ensure!(count > 100, "{count} fragments");
    let (code, said) = audit(&kafka, "auditsplit", &[])?;
    ensure!(code == 0, "{code}:\n{said}");
    ensure!(said.contains("insert 2020"), "{said}");
    // The first of two fragments, without the second one.
    let headers = [
        ("oplog-id", name(9000).into_bytes()),
        (FRAGMENT_HEADER, b"0/2".to_vec()),
    ];
    let headers = headers.each_ref().map(|(key, value)| (*key, &value[..]));
    send(&kafka, (topic, 0), &headers, &entry(9000, 5)?[..9])?;
    let (code, said) = audit(&kafka, "auditsplit", &[])?;
    ensure!(code == 7 && said.contains("faults: 1"), "{code}:\n{said}");
    ensure!(said.contains("the rest of it is missing"), "{said}");
    Ok(())
}

#[test]
fn topics_whose_format_changed_are_read_back() -> Result<()> {
    let kafka = Kafka::shared()?;
    let mut dump = history()?;
    for (number, format) in (0..).zip(["bson", "raw", "json", "bson"]) {
        for id in 0..50_i32 {
            let increment = 4000 + number * 100 + id.cast_unsigned();
            dump.extend(entry(increment, 20_000 + i32::try_from(increment)?)?);
        }
        let format = format!("--format={format}");
        carry(&kafka, "auditturn", &dump, &[&format, "--change-routing"])?;
    }
    let (code, said) = audit(&kafka, "auditturn", &[])?;
    ensure!(code == 0, "{code}:\n{said}");
    ensure!(said.contains("insert 2200"), "{said}");
    Ok(())
}
