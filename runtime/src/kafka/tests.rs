use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::*;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> (Cluster, KafkaOptions) {
    let cluster = MockCluster::new(1).unwrap();
    let options = KafkaOptions {
        brokers: cluster.bootstrap_servers(),
        options: Vec::new(),
    };
    (cluster, options)
}

/// Returns options with a port on which no server listens.
fn nowhere() -> KafkaOptions {
    KafkaOptions {
        brokers: "127.0.0.1:1".to_owned(),
        options: Vec::new(),
    }
}

fn produce(options: &KafkaOptions, topic: &str, count: usize) {
    let producer: BaseProducer = client_config(options).create().unwrap();
    for i in 0..count {
        let (key, value) = (format!("k{i}"), format!("v{i}"));
        let record = BaseRecord::to(topic).partition(0).key(&key).timestamp(1000);
        producer.send(record.payload(&value)).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_awaited_and_counted() {
    let (cluster, options) = cluster();
    cluster.create_topic("there", 3, 1).unwrap();
    let admin = Admin::connect(&options).await.unwrap();
    assert_eq!(admin.partitions("there").await.unwrap(), Some(3));
    assert_eq!(
        admin
            .wait_for_topic("there", Duration::from_secs(5))
            .await
            .unwrap(),
        3
    );
    assert_eq!(admin.topics().await.unwrap().get("there"), Some(&3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_leader_is_awaited_and_then_reported() {
    let (cluster, options) = cluster();
    cluster.create_topic("led", 2, 1).unwrap();
    cluster.partition_leader("led", 1, None).unwrap();
    let admin = Admin::connect(&options).await.unwrap();
    let error = admin
        .wait_for_topic("led", Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 of 2 partitions have a leader"),
        "{error}"
    );
    assert!(error.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_and_all_records_are_read() {
    let (cluster, options) = cluster();
    cluster.create_topic("internal", 1, 1).unwrap();
    produce(&options, "internal", 200);
    let reader = Reader::new(&options);
    let last = reader
        .read_last_committed("internal")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((last.offset, last.timestamp_ms), (199, Some(1000)));
    assert_eq!(last.key.as_deref(), Some(b"k199".as_slice()));
    assert_eq!(last.value.as_deref(), Some(b"v199".as_slice()));
    let all = reader.read_all("internal").await.unwrap();
    assert_eq!(all.len(), 200);
    assert!(all.iter().map(|record| record.offset).eq(0..200));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_topic_has_no_records() {
    let (cluster, options) = cluster();
    cluster.create_topic("empty", 1, 1).unwrap();
    let reader = Reader::new(&options);
    assert_eq!(reader.read_last_committed("empty").await.unwrap(), None);
    assert_eq!(reader.read_all("empty").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_reads_each_record_once() {
    let (cluster, options) = cluster();
    cluster.create_topic("internal", 1, 1).unwrap();
    produce(&options, "internal", 200);
    let reader = Reader::new(&options);
    let mut follower = Follower::new(reader.clone(), "internal".to_owned());
    let first = follower.read().await.unwrap();
    assert_eq!((first.records.len(), first.next), (200, 200));
    assert!(first.is_whole);
    let nothing = follower.read().await.unwrap();
    assert_eq!((nothing.records.len(), nothing.next), (0, 200));
    assert!(!nothing.is_whole);
    produce(&options, "internal", 3);
    let newer = follower.read().await.unwrap();
    assert!(newer.records.iter().map(|it| it.offset).eq(200..203));
    assert!(!newer.is_whole);
    // A topic that was deleted and created again is shorter.
    let other = reader.read_from("internal", Some(1_000)).await.unwrap();
    assert_eq!((other.records.len(), other.is_whole), (203, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_brokers_are_reported_within_the_time_limit() {
    let reader = Reader::new(&nowhere()).with_patience(Duration::from_millis(300));
    let error = reader.read_all("internal").await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn wrong_options_are_reported_immediately() {
    let options = KafkaOptions {
        brokers: "127.0.0.1:1".to_owned(),
        options: vec![KafkaOption {
            name: "no.such.option".to_owned(),
            value: "1".to_owned(),
        }],
    };
    let error = Reader::new(&options)
        .read_all_blocking("internal")
        .unwrap_err();
    assert!(matches!(error, KafkaFailure::Options(_)));
}
