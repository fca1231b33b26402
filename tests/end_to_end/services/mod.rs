//! The servers that every end-to-end test uses: they start, serve, and restart.
#![allow(clippy::unwrap_used, reason = "a panic is the failure report")]

mod plumbing;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_kit::services::{
    FerretDb, FerretDbOptions, Kafka, KafkaOptions, Program, compose_services, java_partitions,
    wait_for,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(120);
const LARGE_RECORD_BYTES: usize = 100 << 20;

fn client(kafka: &Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", kafka.brokers())
        .set("message.max.bytes", "110000000")
        .set("receive.message.max.bytes", "220000000")
        .set("fetch.message.max.bytes", "110000000")
        .set("group.id", "reader")
        .set("auto.offset.reset", "earliest");
    client
}

async fn create_topic(kafka: &Kafka, name: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics([&topic], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

fn produce(kafka: &Kafka, topic: &str, payload: &[u8]) -> Result<()> {
    let producer: BaseProducer = client(kafka).create()?;
    let record = BaseRecord::to(topic)
        .key("key")
        .payload(payload)
        .partition(0);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    Ok(())
}

/// Returns the lengths of the records of partition 0, once `count` of them exist.
fn lengths(kafka: &Kafka, topic: &str, count: usize) -> Result<Vec<usize>> {
    let consumer: BaseConsumer = client(kafka).create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let mut lengths = Vec::new();
    wait_for("records", LIMIT, || {
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
            lengths.push(record.payload_len());
        }
        Ok((lengths.len() == count).then(|| lengths.clone()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_serves_and_keeps_its_data_over_restarts() -> Result<()> {
    let mut kafka = Kafka::start(&KafkaOptions::default())?;
    let brokers = kafka.brokers();
    create_topic(&kafka, "events", 2).await?;
    produce(&kafka, "events", b"first")?;
    kafka.restart()?;
    produce(&kafka, "events", b"another")?;
    kafka.kill()?;
    kafka.restart()?;
    assert_eq!(kafka.brokers(), brokers);
    assert_eq!(lengths(&kafka, "events", 2)?, [5, 7]);

    let described = kafka.tool("kafka-topics", &["--describe", "--topic", "events"])?;
    let text = String::from_utf8(described.stdout)?;
    assert!(text.contains("PartitionCount: 2"), "{text}");
    let offsets = kafka.tool("kafka-get-offsets", &["--topic", "events"])?;
    assert_eq!(
        String::from_utf8(offsets.stdout)?,
        "events:0:2\nevents:1:0\n"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_takes_records_of_a_hundred_megabytes() -> Result<()> {
    let kafka = Kafka::start(&KafkaOptions::default())?;
    create_topic(&kafka, "large", 1).await?;
    produce(&kafka, "large", &vec![b'x'; LARGE_RECORD_BYTES])?;
    assert_eq!(lengths(&kafka, "large", 1)?, [LARGE_RECORD_BYTES]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_seen_by_kafkas_own_tools() -> Result<()> {
    let kafka = Kafka::start(&KafkaOptions::default())?;
    create_topic(&kafka, "events", 1).await?;
    produce(&kafka, "events", b"first")?;
    let consumer: BaseConsumer = client(&kafka).create()?;
    consumer.subscribe(&["events"])?;
    let offset = wait_for("a record by subscription", LIMIT, || {
        let record = consumer.poll(Duration::from_millis(100)).transpose()?;
        Ok(record.map(|record| record.offset()))
    })?;
    assert_eq!(offset, 0);
    consumer.commit_consumer_state(rdkafka::consumer::CommitMode::Sync)?;
    let described = kafka.tool(
        "kafka-consumer-groups",
        &["--describe", "--group", "reader"],
    )?;
    let text = String::from_utf8(described.stdout)?;
    let lag_column = text
        .lines()
        .find(|line| line.contains("events"))
        .and_then(|line| line.split_whitespace().nth(5));
    assert_eq!(lag_column, Some("0"), "{text}");

    let read = kafka.tool(
        "kafka-console-consumer",
        &[
            "--topic",
            "events",
            "--from-beginning",
            "--max-messages",
            "1",
        ],
    )?;
    assert_eq!(String::from_utf8(read.stdout)?, "first\n");
    Ok(())
}

async fn oplog(client: &Client) -> Result<Vec<Document>> {
    use futures_util::TryStreamExt as _;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    Ok(oplog.find(doc! {}).await?.try_collect().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn ferretdb_logs_inserts_and_keeps_them_over_restarts() -> Result<()> {
    let mut ferretdb = FerretDb::start(&FerretDbOptions::source())?;
    let uri = ferretdb.uri();
    let client = Client::with_uri_str(&uri).await?;
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await?;
    assert_eq!(hello.get_str("setName")?, "rs0");
    let people = client.database("app").collection::<Document>("people");
    people.insert_one(doc! { "_id": 1, "name": "Ada" }).await?;
    ferretdb.restart()?;
    people
        .insert_one(doc! { "_id": 2, "name": "Grace" })
        .await?;
    ferretdb.kill()?;
    ferretdb.restart()?;
    assert_eq!(ferretdb.uri(), uri);

    assert_eq!(people.count_documents(doc! {}).await?, 2);
    let entries = oplog(&client).await?;
    let inserted: Vec<i32> = entries
        .iter()
        .filter(|entry| entry.get_str("op").is_ok_and(|op| op == "i"))
        .map(|entry| Ok(entry.get_document("o")?.get_i32("_id")?))
        .collect::<Result<_>>()?;
    assert_eq!(inserted, [1, 2]);
    assert_eq!(entries[0].get_str("ns")?, "app.people");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ferretdb_without_an_oplog_has_none() -> Result<()> {
    let ferretdb = FerretDb::start(&FerretDbOptions::target())?;
    let client = Client::with_uri_str(ferretdb.uri()).await?;
    let people = client.database("app").collection::<Document>("people");
    people.insert_one(doc! { "_id": 1 }).await?;
    assert!(oplog(&client).await?.is_empty());
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await?;
    assert!(!hello.contains_key("setName"));
    Ok(())
}

#[test]
fn servers_started_at_once_do_not_collide() -> Result<()> {
    let started: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| FerretDb::start(&FerretDbOptions::target())))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().expect("no panic"))
            .collect::<Result<_>>()
    })?;
    let mut uris: Vec<String> = started.iter().map(FerretDb::uri).collect();
    uris.sort();
    uris.dedup();
    assert_eq!(uris.len(), 4);
    Ok(())
}

#[test]
fn the_java_partitioner_answers_for_every_key() -> Result<()> {
    // The first three keys and their hashes are those of Kafka's own test of murmur2. With 2^31 - 1
    // partitions the partition is the hash without its sign bit.
    let keys = [
        (b"21".to_vec(), i32::MAX),
        (b"foobar".to_vec(), i32::MAX),
        (b"abc".to_vec(), i32::MAX),
        (Vec::new(), 7),
        (vec![0xff; 300], 1),
    ];
    let murmur2 = [-973_932_308_i32, -790_332_482, 479_470_107];
    let partitions = java_partitions(&keys)?;
    for (hash, partition) in murmur2.iter().zip(&partitions) {
        assert_eq!((hash & 0x7fff_ffff) % i32::MAX, *partition);
    }
    assert!((0..7).contains(&partitions[3]));
    assert_eq!(partitions[4], 0);
    Ok(())
}

#[test]
fn the_compose_file_is_valid_and_complete() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker-compose.yml");
    let services = compose_services(&file)?;
    let services = services.as_object().context("the services are not a map")?;
    let mut names: Vec<&str> = services.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "consumer-emit",
            "consumer-replay",
            "kafka",
            "mongo",
            "producer",
            "registry",
            "target"
        ],
    );
    for (name, command) in [
        ("producer", "/usr/local/bin/oplog-producer"),
        ("consumer-replay", "/usr/local/bin/oplog-consumer"),
        ("consumer-emit", "/usr/local/bin/oplog-consumer"),
    ] {
        let service = &services[name];
        assert_eq!(service["healthcheck"]["test"][1], command, "{name}");
        assert_eq!(service["healthcheck"]["test"][2], "health", "{name}");
        assert_eq!(
            service["depends_on"]["kafka"]["condition"], "service_healthy",
            "{name}"
        );
        assert_eq!(service["read_only"], true, "{name}");
    }
    ensure!(services["producer"]["depends_on"]["mongo"]["condition"] == "service_healthy");
    Ok(())
}

#[test]
fn a_programs_end_and_output_are_seen() -> Result<()> {
    // Any program would do; this one is always built with the tests.
    let mut program = Program::start("services", ["sideways"], &[])?;
    assert_eq!(program.wait(LIMIT)?, 1);
    assert!(!program.is_running()?);
    assert_eq!(program.stdout_text()?, "");
    let error = program.stderr_text()?;
    assert!(error.contains("unknown action sideways"), "{error}");
    Ok(())
}
