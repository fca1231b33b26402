//! Topics that other programs write: MongoShake, mongo-kafka and Debezium.

mod commands;
mod documents;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{Binary, DateTime, Document, doc};
use oplog_relay_core::json::parse_old_document;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Kafka, Program};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::util::Timeout;

use crate::carry::CATALOG;
use crate::topics::LIMIT;

const ORDERS: &str = "shop.orders";
/// The document that the histories of the fixtures change most.
const ID: &str = "63318f67024749a30fc12af6";

/// A record that another program writes.
#[derive(Debug, Clone)]
struct Written {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// The document that it changes, which selects the partition.
    document: usize,
}

impl Written {
    fn new(key: &str, value: impl Into<Vec<u8>>) -> Written {
        Written {
            key: Some(key.into()),
            value: Some(value.into()),
            document: 0,
        }
    }
}

/// Returns the records of a fixture. Each line has a key, a tab and a value, which is empty for a
/// tombstone. The first six records change three documents in turn; a seventh record is the
/// tombstone of the third document.
fn fixture(name: &str) -> Result<Vec<Written>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/foreign");
    let text = std::fs::read_to_string(folder.join(name))?;
    let records = text.lines().enumerate().map(|(index, line)| {
        let (key, value) = line.split_once('\t').context("no tab in the line")?;
        Ok(Written {
            key: Some(key.into()),
            value: (!value.is_empty()).then(|| value.into()),
            document: if index > 5 { 2 } else { index % 3 },
        })
    });
    records.collect()
}

fn bson_of(json: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    parse_old_document(json, &mut bytes)?;
    Ok(bytes)
}

/// Returns the records with converted values, and with converted keys if `with_keys` is set.
fn converted(
    records: Vec<Written>,
    with_keys: bool,
    convert: impl Fn(&[u8]) -> Result<Vec<u8>>,
) -> Result<Vec<Written>> {
    let convert_all = |part: Option<Vec<u8>>| part.map(|part| convert(&part)).transpose();
    let records = records.into_iter().map(|record| {
        let value = convert_all(record.value.clone())?;
        let key = match with_keys {
            true => convert_all(record.key.clone())?,
            false => record.key.clone(),
        };
        Ok(Written {
            key,
            value,
            ..record
        })
    });
    records.collect()
}

/// Returns a frame of MongoShake with these entries.
fn frame(entries: &[&[u8]]) -> Result<Vec<u8>> {
    let sums = entries.iter().map(|entry| {
        let mut crc = flate2::Crc::new();
        crc.update(entry);
        crc.sum()
    });
    let sum = sums.fold(0, |all, sum| all ^ sum);
    let mut frame = Vec::new();
    for number in [sum, 0x1000, 0, 0, u32::try_from(entries.len())?] {
        frame.extend_from_slice(&number.to_be_bytes());
    }
    for entry in entries {
        frame.extend_from_slice(&u32::try_from(entry.len())?.to_be_bytes());
        frame.extend_from_slice(entry);
    }
    Ok(frame)
}

/// Returns the same history as each program writes it, with its `--input`.
fn histories() -> Result<Vec<(&'static str, Vec<Written>)>> {
    let mongoshake = fixture("mongoshake.txt")?;
    let in_bson = converted(mongoshake.clone(), false, bson_of)?;
    let in_frames = converted(in_bson.clone(), false, |entry| frame(&[entry]))?;
    let mongo_kafka = fixture("mongo-kafka.txt")?;
    let events_in_bson = converted(mongo_kafka.clone(), true, bson_of)?;
    let debezium = fixture("debezium.txt")?;
    let with_schema = converted(debezium.clone(), true, |json| {
        Ok([b"{\"schema\":{},\"payload\":", json, b"}"].concat())
    })?;
    Ok(vec![
        ("mongoshake-json", mongoshake),
        ("mongoshake-bson", in_bson),
        ("mongoshake-raw", in_frames),
        ("mongo-kafka-json", mongo_kafka),
        ("mongo-kafka-bson", events_in_bson),
        ("debezium", debezium),
        ("debezium", with_schema),
    ])
}

/// A broker with the topics of other programs.
struct Foreign {
    kafka: Arc<Kafka>,
}

/// The exit code and the output of a program.
struct Ended {
    code: i32,
    stdout: String,
    log: String,
}

impl Ended {
    fn expect(self, code: i32, parts: &[&str]) -> Result<Ended> {
        ensure!(self.code == code, "ended with {}: {}", self.code, self.log);
        for part in parts {
            ensure!(self.log.contains(part), "{part} is missing: {}", self.log);
        }
        Ok(self)
    }
}

impl Foreign {
    fn new() -> Result<Foreign> {
        let kafka = Kafka::shared()?;
        Ok(Foreign { kafka })
    }

    /// Creates a topic and writes records to it, those of one document to one partition.
    fn write(&self, topic: &str, partitions: usize, records: &[Written]) -> Result<()> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.kafka.brokers());
        let admin: AdminClient<DefaultClientContext> = client.create()?;
        let count = i32::try_from(partitions)?;
        let new = NewTopic::new(topic, count, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(Timeout::After(LIMIT)));
        let created =
            tokio::runtime::Runtime::new()?.block_on(admin.create_topics([&new], &options))?;
        ensure!(created.iter().all(Result::is_ok), "{created:?}");
        self.append(topic, partitions, records)
    }

    /// Resets the group, which has the name of its topic, to the beginning.
    fn rewind(&self, topic: &str) -> Result<()> {
        let place = ["--group", topic, "--topic", topic];
        let reset = ["--reset-offsets", "--execute", "--to-earliest"];
        let reset = self
            .kafka
            .tool("kafka-consumer-groups", &[&reset[..], &place].concat())?;
        ensure!(reset.status.success(), "{reset:?}");
        Ok(())
    }

    fn append(&self, topic: &str, partitions: usize, records: &[Written]) -> Result<()> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.brokers())
            .create()?;
        for record in records {
            let partition = i32::try_from(record.document % partitions)?;
            let mut sent = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
            sent.key = record.key.as_deref();
            sent.payload = record.value.as_deref();
            producer.send(sent).map_err(|(error, _)| error)?;
        }
        producer.flush(Duration::from_secs(30))?;
        Ok(())
    }

    fn run(&self, command: &str, group: &str, more: &[&str]) -> Result<Ended> {
        let brokers = format!("--brokers={}", self.kafka.brokers());
        let group = format!("--group={group}");
        let common = [command, "--http=off", "--until-caught-up", &brokers, &group];
        let mut program = Program::consumer(common.iter().chain(more))?;
        Ok(Ended {
            code: program.wait(LIMIT)?,
            stdout: program.stdout_text()?,
            log: program.stderr_text()?,
        })
    }

    /// Replays topics to their ends.
    fn replay(
        &self,
        target: &ModelServer,
        input: &str,
        topics: &str,
        more: &[&str],
    ) -> Result<Ended> {
        let target = format!("--target={}", target.uri());
        let flags = [format!("--input={input}"), format!("--topics={topics}")];
        let flags = [target.as_str(), &flags[0], &flags[1]];
        self.run("replay", topics, &[&flags, more].concat())
    }
}

fn documents(target: &ModelServer) -> Result<BTreeMap<String, Vec<Document>>> {
    let mut state = target.model().state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    let all = state.into_iter().map(|(ns, documents)| {
        let documents = documents.iter();
        let documents = documents.map(|bytes| Document::from_reader(bytes.as_slice()));
        Ok((ns, documents.collect::<Result<_, _>>()?))
    });
    all.collect()
}

/// Returns the documents at the end of the history of the fixtures.
fn expected() -> Result<BTreeMap<String, Vec<Document>>> {
    let bytes = Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: vec![1, 2],
    };
    let first = doc! {
        "_id": ObjectId::parse_str(ID)?, "n": 5_i64, "d": DateTime::from_millis(1_700_000_000_123),
        "bytes": bytes, "tags": [9, 2], "a": { "b": 2 },
    };
    let mut both = vec![first, doc! { "_id": 2, "text": "new" }];
    both.sort_by_key(|document| document.get("_id").map(ToString::to_string));
    Ok([(ORDERS.to_owned(), both)].into())
}

fn sorted(mut found: BTreeMap<String, Vec<Document>>) -> BTreeMap<String, Vec<Document>> {
    for documents in found.values_mut() {
        documents.sort_by_key(|document| document.get("_id").map(ToString::to_string));
    }
    found
}

fn target() -> Result<ModelServer> {
    Ok(ModelServer::start(Model::default())?)
}
