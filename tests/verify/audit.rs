//! `oplog-consumer audit` on a real broker.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Timestamp, doc};
use oplog_relay_tests::services::{Kafka, Program};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const LIMIT: Duration = Duration::from_secs(120);
const SECONDS: u32 = 1_700_000_000;

fn entry(increment: u32, id: i32) -> Result<Vec<u8>> {
    let ts = Timestamp {
        time: SECONDS,
        increment,
    };
    let wall = bson::DateTime::from_millis(i64::from(SECONDS) * 1000);
    Ok(doc! {
        "ts": ts, "t": 1_i64, "v": 2_i64, "op": "i", "ns": "app.a", "wall": wall,
        "o": { "_id": id, "text": "x" },
    }
    .to_vec()?)
}

/// Carries two thousand inserts, and a command among them, under a prefix.
fn produce(kafka: &Kafka, prefix: &str, format: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("oplog.bson");
    let mut dump = Vec::new();
    for number in 1..=2000_i32 {
        dump.extend(entry(number.cast_unsigned(), number)?);
    }
    let ts = Timestamp {
        time: SECONDS,
        increment: 3000,
    };
    let wall = bson::DateTime::from_millis(i64::from(SECONDS) * 1000);
    let command = doc! {
        "ts": ts, "t": 1_i64, "v": 2_i64, "op": "c", "ns": "app.$cmd", "wall": wall,
        "o": { "drop": "a" },
    };
    dump.extend(command.to_vec()?);
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

fn audit(kafka: &Kafka, prefix: &str, more: &[&str]) -> Result<(i32, String)> {
    let flags = [
        "audit".to_owned(),
        format!("--brokers={}", kafka.brokers()),
        format!("--topic-prefix={prefix}"),
    ];
    let flags = flags.iter().map(String::as_str);
    let mut program = Program::consumer(flags.chain(more.iter().copied()))?;
    let code = program.wait(LIMIT)?;
    Ok((code, program.stdout_text()? + &program.stderr_text()?))
}

#[test]
fn every_format_is_read_back_and_counted_and_barriers_are_passed() -> Result<()> {
    let kafka = Kafka::shared()?;
    for (prefix, format) in [
        ("auditbson", &["--format=bson"][..]),
        ("auditraw", &["--format=raw"]),
        ("auditjson", &["--format=json"]),
    ] {
        produce(&kafka, prefix, format)?;
        let (code, said) = audit(&kafka, prefix, &[])?;
        ensure!(code == 0, "{prefix}: {code}:\n{said}");
        ensure!(
            said.contains("c 1, i 2000") || said.contains("command 1, insert 2000"),
            "{said}"
        );
    }
    let (code, said) = audit(&kafka, "auditraw", &["--topic=auditraw.app.nothing"])?;
    ensure!(
        code == 2 && said.contains("auditraw.app.nothing"),
        "{code}: {said}"
    );
    Ok(())
}

#[test]
fn a_record_that_is_damaged_out_of_order_or_there_twice_is_named() -> Result<()> {
    let kafka = Kafka::shared()?;
    produce(&kafka, "auditfault", &["--partitions=2"])?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .create()?;
    let send = |partition: i32, name: &str, value: &[u8]| -> Result<()> {
        let value_of = Header {
            key: "oplog-id",
            value: Some(name),
        };
        let record = BaseRecord::<[u8], [u8]>::to("auditfault.app.a")
            .partition(partition)
            .headers(OwnedHeaders::new().insert(value_of))
            .payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(LIMIT)?;
        Ok(())
    };
    let name = |increment: u32| format!("made/{SECONDS}:{increment}/0");
    // A later entry of a document, and then an earlier one of the same.
    send(0, &name(9000), &entry(9000, 5)?)?;
    send(0, &name(8000), &entry(8000, 5)?)?;
    // One of another document is only out of the partition's order.
    send(0, &name(8500), &entry(8500, 6)?)?;
    let (code, said) = audit(&kafka, "auditfault", &[])?;
    ensure!(code == 7 && said.contains("1 faults"), "{code}:\n{said}");
    let after = format!("entry {SECONDS}:8000/0 comes after {SECONDS}:9000/0");
    ensure!(said.contains(&after), "{said}");

    // The same entry once more, in the other partition.
    send(1, &name(9000), &entry(9000, 5)?)?;
    send(1, &name(9100), b"no bson")?;
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let flag = format!("--report={}", report.display());
    let (code, said) = audit(&kafka, "auditfault", &[&flag])?;
    ensure!(code == 7 && said.contains("3 faults"), "{code}:\n{said}");
    let lines = std::fs::read_to_string(report)?;
    for kind in ["out-of-order", "twice", "undecodable", "verdict"] {
        let count = lines.matches(&format!("{{\"kind\":\"{kind}\"")).count();
        ensure!(count == 1, "{kind}: {count} times in {lines}");
    }
    Ok(())
}
