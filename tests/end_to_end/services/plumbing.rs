//! The crate `runtime` with real servers. Only a real broker shows how transactions leave control
//! records, abort and stay open.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka, KafkaOptions};
use oplog_relay_kit::topic_reader::wait_until_settled;
use oplog_relay_runtime::config::Secret;
use oplog_relay_runtime::kafka::{
    Admin, Creation, KafkaFailure, KafkaOptions as Options, Reader, TopicSetting, client_config,
};
use oplog_relay_runtime::mongo;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const LIMIT: Duration = Duration::from_secs(120);

fn options(kafka: &Kafka) -> Options {
    Options {
        brokers: kafka.brokers(),
        options: Vec::new(),
    }
}

fn name(part: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    format!("runtime-{part}-{now}")
}

async fn topic(admin: &Admin, part: &str) -> String {
    let name = name(part);
    assert_eq!(
        admin.create_topic(&name, 1, -1, &[]).await.unwrap(),
        Creation::Created
    );
    admin.wait_for_topic(&name, LIMIT).await.unwrap();
    name
}

fn producer(options: &Options, id: &str) -> BaseProducer {
    let mut config = client_config(options);
    let producer: BaseProducer = config.set("transactional.id", id).create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer
}

/// Opens a transaction, writes records and leaves it open.
fn write(producer: &BaseProducer, topic: &str, records: std::ops::Range<usize>) {
    producer.begin_transaction().unwrap();
    for i in records {
        let (key, value) = (format!("k{i}"), format!("v{i}"));
        let record = BaseRecord::to(topic).partition(0).key(&key).payload(&value);
        producer.send(record).unwrap();
    }
    producer.flush(LIMIT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_once_with_their_settings_and_not_by_a_query() {
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let options = options(&kafka);
    let admin = Admin::connect(&options).await.unwrap();
    let name = name("settings");
    assert_eq!(admin.partitions(&name).await.unwrap(), None);
    assert_eq!(admin.topic_settings(&name).await.unwrap(), None);
    let reader = Reader::new(&options);
    let error = reader.read_last_committed(&name).await.unwrap_err();
    assert!(matches!(error, KafkaFailure::UnknownTopic(_)), "{error}");
    assert_eq!(
        admin.partitions(&name).await.unwrap(),
        None,
        "a query must not create a topic"
    );

    let settings = [
        ("retention.ms", "-1"),
        ("cleanup.policy", "compact"),
        ("max.message.bytes", "2000000"),
    ]
    .map(|(name, value)| TopicSetting::new(name, value));
    assert_eq!(
        admin.create_topic(&name, 3, -1, &settings).await.unwrap(),
        Creation::Created
    );
    assert_eq!(
        admin.create_topic(&name, 5, -1, &[]).await.unwrap(),
        Creation::Existed
    );
    assert_eq!(admin.wait_for_topic(&name, LIMIT).await.unwrap(), 3);
    let found = admin
        .describe_topics(&[&name, "runtime-none"])
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    let found = &found[&name];
    assert_eq!((found.partitions, found.replication_factor), (3, 1));
    assert_eq!(
        (found.retention_ms, found.max_message_bytes),
        (Some(-1), Some(2_000_000))
    );
    assert_eq!(found.cleanup_policy.as_deref(), Some("compact"));
    assert_eq!(found.timestamp_type.as_deref(), Some("CreateTime"));
    assert!(admin.topics().await.unwrap().contains_key(&name));
    let refused = admin
        .create_topic("no/such name", 1, -1, &[])
        .await
        .unwrap_err();
    assert!(!refused.is_transient(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_committed_record_is_found_before_aborted_and_open_ones() {
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let options = options(&kafka);
    let admin = Admin::connect(&options).await.unwrap();
    let topic = topic(&admin, "tail").await;
    let reader = Reader::new(&options).with_patience(LIMIT);
    let writer = producer(&options, &topic);

    write(&writer, &topic, 0..100);
    writer.abort_transaction(LIMIT).unwrap();
    assert_eq!(reader.read_last_committed(&topic).await.unwrap(), None);
    assert_eq!(reader.read_all(&topic).await.unwrap(), []);

    write(&writer, &topic, 100..103);
    writer.commit_transaction(LIMIT).unwrap();
    wait_until_settled(&kafka.brokers(), [(topic.as_str(), 0)]).unwrap();
    // The aborted transaction and its marker have the first 101 offsets.
    let third = reader.read_last_committed(&topic).await.unwrap().unwrap();
    assert_eq!(
        (third.offset, third.value.as_deref()),
        (103, Some(b"v102".as_slice()))
    );

    for _ in 0..3 {
        write(&writer, &topic, 200..700);
        writer.abort_transaction(LIMIT).unwrap();
    }
    assert_eq!(
        reader.read_last_committed(&topic).await.unwrap(),
        Some(third.clone())
    );

    write(&writer, &topic, 700..1200);
    assert_eq!(
        reader.read_last_committed(&topic).await.unwrap(),
        Some(third.clone())
    );
    let all = reader.read_all(&topic).await.unwrap();
    assert!(
        all.iter().map(|record| record.offset).eq(101..104),
        "{all:?}"
    );
    writer.commit_transaction(LIMIT).unwrap();
    wait_until_settled(&kafka.brokers(), [(topic.as_str(), 0)]).unwrap();
    let last = reader.read_last_committed(&topic).await.unwrap().unwrap();
    assert_eq!(last.value.as_deref(), Some(b"v1199".as_slice()));
    assert_eq!(reader.read_all(&topic).await.unwrap().len(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_and_error_codes_of_a_server_are_read() {
    let server = FerretDb::start(&FerretDbOptions::source()).unwrap();
    let client = mongo::connect(&Secret::new(server.uri()), "tests", |_| {})
        .await
        .unwrap();
    let hello = mongo::hello(&client).await.unwrap();
    assert!(hello.max_wire_version >= 9, "{hello:?}");
    assert!(hello.is_writable_primary && !hello.is_mongos, "{hello:?}");
    assert!(hello.max_bson_object_size.is_some(), "{hello:?}");
    let error = client
        .database("admin")
        .run_command(bson::doc! { "noSuch": 1 })
        .await;
    assert_eq!(mongo::error_code(&error.unwrap_err()), Some(59));
}
