//! `oplog-consumer audit` of the topics of a full sync, in the formats bson, raw and json.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, Timestamp, doc};
use oplog_relay_core::document::Document as Raw;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Kafka, Program};
use oplog_relay_kit::topic_reader::{TopicRecord, read_undecoded};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::verify::audit::audit;

const LIMIT: Duration = Duration::from_secs(120);
const DOCUMENTS: i32 = 300;
const FORMATS: [(&str, &str); 3] = [
    ("copiedbson", "bson"),
    ("copiedraw", "raw"),
    ("copiedjson", "json"),
];

fn run(model: &mut Model, command: &Document) -> Result<()> {
    let reply = model.command("app", Raw::new(&command.to_vec()?)?)?;
    let reply = Document::from_reader(reply.as_slice())?;
    ensure!(reply.get_f64("ok")? > 0.0, "{reply}");
    Ok(())
}

fn log(model: &mut Model, increment: u32, fields: Document) -> Result<()> {
    let ts = Timestamp {
        time: 1_700_000_000,
        increment,
    };
    let mut entry = doc! { "ts": ts, "t": 1_i64, "v": 2 };
    entry.extend(fields);
    let logged = model.log(&entry.to_vec()?);
    logged.map_err(|failure| anyhow::anyhow!("{failure:?}"))
}

/// Returns a source with an indexed collection, and an oplog with one entry.
fn source() -> Result<ModelServer> {
    let mut model = Model::default();
    log(
        &mut model,
        1,
        doc! { "op": "n", "ns": "", "o": { "msg": "begin" } },
    )?;
    let documents: Vec<Document> = (0..DOCUMENTS).map(|n| doc! { "_id": n, "v": 1 }).collect();
    run(&mut model, &doc! { "insert": "a", "documents": documents })?;
    let index = doc! { "key": { "v": 1 }, "name": "v_1" };
    run(
        &mut model,
        &doc! { "createIndexes": "a", "indexes": [index] },
    )?;
    Ok(ModelServer::start(model)?)
}

fn produce(kafka: &Kafka, source: &ModelServer, prefix: &str, format: &str) -> Result<()> {
    let flags = [
        "run".to_owned(),
        "--http=off".to_owned(),
        "--sync=full-then-tail".to_owned(),
        "--until-caught-up".to_owned(),
        "--source-name=made".to_owned(),
        format!("--source={}", source.uri()),
        format!("--brokers={}", kafka.brokers()),
        format!("--topic-prefix={prefix}"),
        format!("--format={format}"),
    ];
    let mut program = Program::producer(flags)?;
    let code = program.wait(LIMIT)?;
    ensure!(code == 0, "{}", program.stderr_text()?);
    Ok(())
}

/// Sends a record again, without its key, to the end of its partition.
fn send_again(kafka: &Kafka, topic: &str, partition: i32, record: &TopicRecord) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .create()?;
    let mut headers = OwnedHeaders::new();
    for (key, value) in &record.headers {
        let value = Some(value);
        headers = headers.insert(Header { key, value });
    }
    let copy = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(partition)
        .headers(headers)
        .payload(&record.value);
    producer.send(copy).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    Ok(())
}

/// Returns the last record of partition 1; commands are in partition 0.
fn last(kafka: &Kafka, prefix: &str) -> Result<(String, i32, TopicRecord)> {
    let contents = read_undecoded(&kafka.brokers(), prefix)?;
    let mut places = contents.into_iter();
    let found = places.find(|((_, partition), _)| *partition == 1);
    let ((topic, partition), mut records) = found.context("partition 1")?;
    Ok((topic, partition, records.pop().context("no record")?))
}

#[test]
fn a_full_sync_and_the_changes_after_it_are_sound_in_each_format() -> Result<()> {
    let kafka = Kafka::shared()?;
    for (prefix, format) in FORMATS {
        let source = source()?;
        produce(&kafka, &source, prefix, format)?;
        let (code, said) = audit(&kafka, prefix, &[])?;
        ensure!(
            code == 0 && said.contains("snapshot 300"),
            "{prefix}: {code}:\n{said}"
        );

        // A document that was already copied is sent again, as after a crash.
        let (topic, partition, read) = last(&kafka, prefix)?;
        send_again(&kafka, &topic, partition, &read)?;
        let (code, said) = audit(&kafka, prefix, &[])?;
        ensure!(code == 0, "{prefix}: {code}:\n{said}");

        // Every document is changed, and then a copy of a document arrives that is older than its change.
        {
            let mut model = source.model();
            for n in 0..DOCUMENTS {
                let o = doc! { "$v": 1, "$set": { "v": 2 } };
                let change = doc! { "op": "u", "ns": "app.a", "o": o, "o2": { "_id": n } };
                log(&mut model, 2 + n.cast_unsigned(), change)?;
            }
        }
        produce(&kafka, &source, prefix, format)?;
        let (code, said) = audit(&kafka, prefix, &[])?;
        ensure!(
            code == 0 && said.contains("update 300"),
            "{prefix}: {code}:\n{said}"
        );
        send_again(&kafka, &topic, partition, &read)?;
        let (code, said) = audit(&kafka, prefix, &[])?;
        let undone = said.contains("out-of-order") && said.contains("of the same key");
        ensure!(code == 7 && undone, "{prefix}: {code}:\n{said}");

        // One change arrives a second time, and then a third time with only half of its value.
        let contents = read_undecoded(&kafka.brokers(), prefix)?;
        let records = contents.get(&(topic.clone(), partition));
        let change = records.context("its partition")?.iter().rev().nth(1);
        let mut change = change.context("no change")?.clone();
        send_again(&kafka, &topic, partition, &change)?;
        change.value.truncate(change.value.len() / 2);
        send_again(&kafka, &topic, partition, &change)?;
        let folder = tempfile::tempdir()?;
        let report = folder.path().join("report");
        let (code, said) = audit(&kafka, prefix, &[&format!("--report={}", report.display())])?;
        let lines = std::fs::read_to_string(report)?;
        let is_reported = |kind: &str| lines.contains(&format!("{{\"kind\":\"{kind}\""));
        let reported = ["out-of-order", "twice", "undecodable"].map(is_reported);
        ensure!(
            code == 7 && reported == [true; 3],
            "{prefix}: {reported:?}:\n{said}"
        );
    }
    Ok(())
}
