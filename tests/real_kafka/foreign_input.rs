//! Topics that other programs write: MongoShake, mongo-kafka and Debezium.

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
use serde_json::Value;

use crate::carry::CATALOG;
use crate::topics::LIMIT;

const ORDERS: &str = "shop.orders";
/// The document that the histories of the fixtures change most.
const ID: &str = "63318f67024749a30fc12af6";

/// A record of another program.
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
/// tombstone. The records change three documents in turn; the seventh one belongs to the third
/// document.
fn fixture(name: &str) -> Result<Vec<Written>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/foreign");
    let text = std::fs::read_to_string(folder.join(name))?;
    let records = text.lines().enumerate().map(|(index, line)| {
        let (key, value) = line.split_once('\t').context("a key and a value")?;
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

/// A broker with topics of other programs.
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

    /// Resets the group that is named as its topic to the beginning.
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

#[test]
fn every_program_leads_to_the_same_documents() -> Result<()> {
    let foreign = Foreign::new()?;
    for partitions in [1, 3] {
        for (index, (input, records)) in histories()?.into_iter().enumerate() {
            let topic = format!("replayed-{partitions}-{index}.{ORDERS}");
            foreign.write(&topic, partitions, &records)?;
            let target = target()?;
            let ended = foreign.replay(&target, input, &topic, &[])?;
            ended.expect(0, &["reading the topics of another program"])?;
            let found = sorted(documents(&target)?);
            ensure!(found == expected()?, "{input} {partitions}: {found:?}");
            // The topic is replayed again from the beginning, into the target that is ahead of it.
            let again = format!("again-{topic}");
            let flags = [
                format!("--target={}", target.uri()),
                format!("--input={input}"),
                format!("--topics={topic}"),
            ];
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            foreign.run("replay", &again, &flags)?.expect(0, &[])?;
            let found = sorted(documents(&target)?);
            ensure!(found == expected()?, "{input} {partitions}: {found:?}");
        }
    }
    Ok(())
}

#[test]
fn every_program_is_emitted_as_change_events() -> Result<()> {
    let foreign = Foreign::new()?;
    for (index, (input, records)) in histories()?.into_iter().enumerate() {
        let topic = format!("emitted-{index}.{ORDERS}");
        foreign.write(&topic, 1, &records)?;
        let flags = [
            format!("--input={input}"),
            format!("--topics=emitted-{index}.*"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let ended = foreign.run("emit", &topic, &flags)?.expect(0, &[])?;
        let lines = ended.stdout.lines().map(serde_json::from_str);
        let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
        let of =
            |field: &str| -> Vec<Value> { lines.iter().map(|line| line[field].clone()).collect() };
        let types = ["insert", "insert", "insert", "update", "replace", "delete"];
        ensure!(of("operationType") == types, "{input}: {lines:?}");
        let id = serde_json::json!({ "source": topic, "ts": "1700000001:1", "ord": 3 });
        ensure!(lines[3]["_id"] == id, "{input}: {}", lines[3]);
        ensure!(lines[3]["documentKey"]["_id"]["$oid"] == ID, "{}", lines[3]);
        let described = &lines[3]["updateDescription"];
        ensure!(described["removedFields"][0] == "c", "{input}: {described}");
        ensure!(
            described["truncatedArrays"][0]["newSize"] == 2,
            "{input}: {described}"
        );
        ensure!(
            described["updatedFields"]["a.b"] == 2,
            "{input}: {described}"
        );
        ensure!(lines[5]["documentKey"]["_id"] == 3, "{input}: {}", lines[5]);
    }
    Ok(())
}

#[test]
fn debeziums_envelope_is_emitted_from_a_change_event() -> Result<()> {
    let foreign = Foreign::new()?;
    foreign.write("converted", 1, &fixture("mongo-kafka.txt")?)?;
    let flags = [
        "--input=mongo-kafka-json",
        "--topics=converted",
        "--envelope=debezium",
    ];
    let ended = foreign.run("emit", "converted", &flags)?.expect(0, &[])?;
    let last = ended.stdout.lines().last().context("a line")?;
    let line: Value = serde_json::from_str(last)?;
    ensure!(
        line["key"]["id"] == "3" && line["value"]["op"] == "d",
        "{line}"
    );
    ensure!(
        line["value"]["source"]["ts_ms"] == 1_700_000_002_250_i64,
        "{line}"
    );
    Ok(())
}

/// Returns entries of MongoShake with commands, each with its own timestamp.
fn commands() -> Result<Vec<Written>> {
    let command = |o: Document| ("c", "s.$cmd", o, Document::new());
    let insert = |ns, o: Document| ("i", ns, o, Document::new());
    let unique =
        doc! { "createIndexes": "b", "v": 2, "unique": true, "key": { "u": 1 }, "name": "u_1" };
    let entries = [
        command(doc! { "create": "a" }),
        insert("s.a", doc! { "_id": 1, "of": "the first collection" }),
        command(doc! { "drop": "a" }),
        command(doc! { "create": "a" }),
        insert("s.a", doc! { "_id": 2, "u": 1 }),
        command(doc! { "renameCollection": "s.a", "to": "s.b", "dropTarget": false }),
        command(unique),
        insert("s.b", doc! { "_id": 3, "u": 2 }),
        insert("s.a", doc! { "_id": 4, "of": "the third collection" }),
        (
            "u",
            "s.b",
            doc! { "$v": 1, "$set": { "u": 3 } },
            doc! { "_id": 2 },
        ),
        command(doc! { "dropDatabase": 1 }),
    ];
    let records = (1_u32..).zip(entries).map(|(second, (op, ns, o, o2))| {
        let ts = bson::Timestamp {
            time: 1000 + second,
            increment: 1,
        };
        let mut entry = doc! { "ts": ts, "t": 1_i64, "v": 2, "op": op, "ns": ns, "o": o };
        if !o2.is_empty() {
            entry.insert("o2", o2);
        }
        Ok(Written {
            document: usize::try_from(second)?,
            ..Written::new("17d", entry.to_vec()?)
        })
    });
    records.collect()
}

fn expect_commands(target: &ModelServer) -> Result<()> {
    let found = sorted(documents(target)?);
    let expected: BTreeMap<String, Vec<Document>> = [
        (
            "s.a".to_owned(),
            vec![doc! { "_id": 4, "of": "the third collection" }],
        ),
        (
            "s.b".to_owned(),
            vec![doc! { "_id": 2, "u": 3 }, doc! { "_id": 3, "u": 2 }],
        ),
    ]
    .into();
    ensure!(found == expected, "{found:?}");
    let collections = format!("{:?}", target.model().collections());
    ensure!(collections.contains("unique"), "{collections}");
    Ok(())
}

#[test]
fn commands_run_in_their_place_in_a_topic_of_one_partition() -> Result<()> {
    let foreign = Foreign::new()?;
    let mut records = commands()?;
    // After a failover, MongoShake writes everything since its checkpoint again.
    records.extend_from_slice(&commands()?[1..]);
    foreign.write("ordered", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-bson", "ordered", &[])?;
    ended.expect(0, &["filter.ddl_enable"])?;
    expect_commands(&target)?;
    foreign.rewind("ordered")?;
    let ended = foreign.replay(&target, "mongoshake-bson", "ordered", &[])?;
    ended.expect(0, &[])?;
    expect_commands(&target)
}

#[test]
fn commands_run_in_their_place_within_a_frame() -> Result<()> {
    let foreign = Foreign::new()?;
    let records = commands()?;
    let entries = records.iter().filter_map(|record| record.value.as_deref());
    let entries: Vec<&[u8]> = entries.collect();
    let frame = Written::new("17d", frame(&entries)?);
    foreign.write("framed", 1, &[frame])?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-raw", "framed", &[])?;
    ended.expect(0, &[])?;
    expect_commands(&target)
}

#[test]
fn a_command_whose_order_is_unknown_is_refused() -> Result<()> {
    let foreign = Foreign::new()?;
    foreign.write("unordered", 3, &commands()?)?;
    let unordered = target()?;
    let parts = [
        "among the writes of its collections is unknown",
        "topic unordered has 3 partitions",
        "offset",
    ];
    let ended = foreign.replay(&unordered, "mongoshake-bson", "unordered", &[])?;
    ended.expect(6, &parts)?;
    let kept = ["--dead-letter=command"];
    let ended = foreign.replay(&unordered, "mongoshake-bson", "unordered", &kept)?;
    ended.expect(0, &[])?;
    let found = documents(&unordered)?;
    // Nothing was dropped or renamed.
    ensure!(
        found["s.a"].len() == 3 && found["s.b"].len() == 1,
        "{found:?}"
    );

    // One topic for each collection: the writes after a rename are in another topic.
    let rename = &commands()?[5];
    foreign.write("renames.a", 1, std::slice::from_ref(rename))?;
    foreign.write("renames.b", 1, &[])?;
    let ended = foreign.replay(&target()?, "mongoshake-bson", "renames.*", &[])?;
    ended.expect(6, &["s.a and s.b", "2 topics"])?;

    // MongoShake with several workers: a later write comes first.
    let mut records = commands()?;
    records.swap(2, 4);
    foreign.write("workers", 1, &records)?;
    let ended = foreign.replay(&target()?, "mongoshake-bson", "workers", &[])?;
    ended.expect(6, &["later entries, up to 1005:1", "incr_sync.worker"])?;
    Ok(())
}

#[test]
fn commands_of_change_events_run_in_a_topic_of_one_partition() -> Result<()> {
    let foreign = Foreign::new()?;
    let event = |operation: &str, increment: u32, more: &str| {
        let text = format!(
            r#"{{"_id":{{"_data":"82"}},"operationType":"{operation}","clusterTime":{{"$timestamp":{{"t":7,"i":{increment}}}}},"ns":{{"db":"s","coll":"a"}}{more}}}"#
        );
        Written::new(r#"{"_id": {"_data": "82"}}"#, text)
    };
    let insert = |increment, id| {
        let more = format!(r#","documentKey":{{"_id":{id}}},"fullDocument":{{"_id":{id}}}"#);
        event("insert", increment, &more)
    };
    let index = r#","operationDescription":{"indexes":[{"v":2,"key":{"x":1},"name":"x_1"}]}"#;
    let records = [
        insert(1, 1),
        event("createIndexes", 2, index),
        event("drop", 3, ""),
        event("invalidate", 3, ""),
        insert(4, 2),
        event("rename", 5, r#","to":{"db":"s","coll":"b"}"#),
    ];
    foreign.write("events", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongo-kafka-json", "events", &[])?;
    ended.expect(0, &["show.expanded.events"])?;
    let found = documents(&target)?;
    let expected = [("s.b".to_owned(), vec![doc! { "_id": 2 }])].into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn records_without_order_per_document_need_consent() -> Result<()> {
    let foreign = Foreign::new()?;
    let by_token = |record: Written| Written {
        key: Some(br#"{"_id": {"_data": "82"}}"#.to_vec()),
        ..record
    };
    let records: Vec<Written> = fixture("mongo-kafka.txt")?
        .into_iter()
        .map(by_token)
        .collect();
    foreign.write("tokens", 3, &records)?;
    let target = target()?;
    let parts = ["topic tokens", "resume token", "--allow-unordered"];
    let dead_letter = ["--dead-letter=undecodable"];
    let ended = foreign.replay(&target, "mongo-kafka-json", "tokens", &dead_letter)?;
    ended.expect(6, &parts)?;
    ensure!(documents(&target)?.is_empty());
    let consent = ["--allow-unordered"];
    let ended = foreign.replay(&target, "mongo-kafka-json", "tokens", &consent)?;
    ended.expect(0, &["the keys of the records are not checked"])?;
    ensure!(sorted(documents(&target)?) == expected()?);
    Ok(())
}

#[test]
fn gos_own_json_needs_consent() -> Result<()> {
    let foreign = Foreign::new()?;
    let text = format!(
        r#"{{"ts":{{"T":7,"I":1}},"t":1,"h":null,"v":2,"op":"i","ns":"s.a","o":[{{"Key":"_id","Value":"{ID}"}},{{"Key":"n","Value":5}}],"o2":null,"PrevOpTime":null}}"#
    );
    foreign.write("go", 1, &[Written::new("17d", text)])?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-json", "go", &[])?;
    ended.expect(6, &["canonical_extended_json", "--allow-lossy"])?;
    let ended = foreign.replay(&target, "mongoshake-json", "go", &["--allow-lossy"])?;
    ended.expect(0, &[])?;
    let found = documents(&target)?;
    let expected = [("s.a".to_owned(), vec![doc! { "_id": ID, "n": 5 }])].into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn a_record_of_another_kind_is_an_error_or_a_dead_letter() -> Result<()> {
    let foreign = Foreign::new()?;
    let mut records = fixture("debezium.txt")?;
    records.insert(2, Written::new("x", "no document"));
    foreign.write("mixed", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "debezium", "mixed", &[])?;
    ended.expect(6, &["topic mixed, partition 0, offset 2", "not JSON"])?;
    // With the other inputs, the error names the one that fits.
    for other in ["mongo-kafka-json", "mongoshake-bson", "mongoshake-raw"] {
        let input = format!("--input={other}");
        let flags = [input.as_str(), "--topics=mixed"];
        let ended = foreign.run("emit", other, &flags)?;
        ended.expect(
            6,
            &["topic mixed, partition 0, offset 0", "--input debezium"],
        )?;
    }
    let kept = ["--dead-letter=undecodable"];
    let ended = foreign.replay(&target, "debezium", "mixed", &kept)?;
    ended.expect(0, &[])?;
    ensure!(sorted(documents(&target)?) == expected()?);
    Ok(())
}

#[test]
fn the_default_input_names_the_one_that_fits() -> Result<()> {
    let foreign = Foreign::new()?;
    foreign.write("fulfillment.shop.orders", 1, &fixture("debezium.txt")?)?;
    let ended = foreign.run("emit", "default", &["--topic-prefix=fulfillment"])?;
    ended.expect(6, &["no state topic", "--input debezium --topics"])?;
    let target = target()?;
    let ended = foreign.replay(&target, "debezium", "fulfillment.shop.ordres", &[])?;
    ended.expect(2, &["topic fulfillment.shop.ordres does not exist"])?;
    let ended = foreign.replay(&target, "debezium", "fulfilment.*", &[])?;
    ended.expect(2, &["topic fulfilment.* does not exist"])?;
    Ok(())
}

#[test]
fn a_document_before_a_drop_does_not_come_back() -> Result<()> {
    // The connector copies a document, and the source drops the collection before the copy ends.
    // The copied document has no time, so it counts as older than the drop when it is read again.
    let foreign = Foreign::new()?;
    let copied = r#"{"_id":{"_id":1,"copyingData":true},"operationType":"insert","ns":{"db":"s","coll":"a"},"documentKey":{"_id":1},"fullDocument":{"_id":1}}"#;
    let dropped = r#"{"_id":{"_data":"82"},"operationType":"drop","clusterTime":{"$timestamp":{"t":7,"i":1}},"ns":{"db":"s","coll":"a"}}"#;
    let records = [Written::new("1", copied), Written::new("2", dropped)];
    foreign.write("copied", 1, &records)?;
    let target = target()?;
    for _ in 0..2 {
        let ended = foreign.replay(&target, "mongo-kafka-json", "copied", &[])?;
        ended.expect(0, &[])?;
        ensure!(documents(&target)?.is_empty(), "{:?}", documents(&target)?);
        foreign.rewind("copied")?;
    }
    Ok(())
}
