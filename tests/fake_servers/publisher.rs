//! The producer's publisher and its table of errors, on librdkafka's mock cluster with injected
//! errors.
//!
//! The mock writes no control records, answers every query for the last stable offset with the end,
//! and lists no aborted transactions. So these tests prove nothing about exactly-once. They show
//! that an error is retried or ends the session as designed, and that no uncommitted record counts
//! as committed.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oplog_producer::encode::chunk::{Chunk, EncodedRecord, NewTopic, Reached, TopicIndex};
use oplog_producer::error::{Directive, ProducerError};
use oplog_producer::prepare::claims::Claims;
use oplog_producer::publish::Oversize;
use oplog_producer::publish::{Publisher, RecordSizes, send_single_record};
use oplog_producer::session::pipeline::{
    BeginsAt, OtherClaims, PublishLoop, Queues, Until, queues,
};
use oplog_producer::telemetry::metrics::Metrics;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::PositionRecord;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::{Admin, KafkaOptions, Reader};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Fault};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::runtime::Handle;

type Cluster = MockCluster<'static, DefaultProducerContext>;

const DATA: &str = "cdc.shop.orders";
const STATE: &str = "__cdc.state.rs0";
const POSITION: &str = "__cdc.position.rs0";

fn cluster() -> Result<Cluster> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(DATA, 4, 1)?;
    cluster.create_topic(POSITION, 1, 1)?;
    Ok(cluster)
}

fn options(cluster: &Cluster) -> KafkaOptions {
    KafkaOptions {
        brokers: cluster.bootstrap_servers(),
        options: Vec::new(),
    }
}

fn open(cluster: &Cluster) -> Result<Publisher, ProducerError> {
    Publisher::open(
        &options(cluster),
        "cdc.rs0",
        POSITION,
        "rs0",
        RecordSizes {
            oversize: Oversize::Stop,
            smallest_limit: 1 << 20,
            position_limit: 1 << 20,
        },
    )
}

fn position(seconds: u32) -> PositionRecord {
    let position = Position {
        ts: Timestamp::new(seconds, 1),
        term: 1,
        ord: 0,
    };
    PositionRecord::new(position, 1)
}

fn new_topic() -> NewTopic {
    NewTopic {
        name: DATA.to_owned(),
        max_bytes: 1 << 20,
        is_claimed_here: false,
        existed: true,
    }
}

/// Returns a chunk of one record; the first chunk of a publisher also names the topic.
fn chunk(first: bool) -> Chunk {
    let record = EncodedRecord {
        topic: TopicIndex(0),
        partition: 1,
        timestamp: 1_700_000_000_000,
        key: Some(0..3),
        header: None,
        router_headers: 0..0,
        value: 3..8,
    };
    Chunk {
        arena: b"keyvalue".to_vec(),
        records: vec![record],
        new_topics: first.then(new_topic).into_iter().collect(),
        ..Chunk::default()
    }
}

/// Sends and commits one record while the requests of a kind receive these errors.
fn commit_with(request: Request, faults: &[Fault]) -> Result<Result<(), ProducerError>> {
    let cluster = cluster()?;
    let mut publisher = open(&cluster)?;
    cluster.request_errors(request, faults);
    let sent = publisher.send(&chunk(true));
    let committed = sent.and_then(|()| publisher.commit(&position(1)).map(drop));
    if committed.is_err() {
        publisher.abort();
    }
    Ok(committed)
}

#[test]
fn transient_faults_are_retried_and_the_transaction_commits() -> Result<()> {
    use Fault::{
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER,
    };
    for (request, faults) in [
        (Request::Produce, [NOT_LEADER, NOT_LEADER]),
        (Request::AddPartitionsToTxn, [LOADING, MOVED]),
        (Request::EndTxn, [LOADING, MOVED]),
    ] {
        commit_with(request, &faults)?.with_context(|| format!("{request:?}"))?;
    }
    Ok(())
}

#[test]
fn faults_that_leave_a_commit_unclear_end_the_session_and_nothing_counts() -> Result<()> {
    use Fault::{
        RD_KAFKA_RESP_ERR_INVALID_TXN_STATE as STATE,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as NO_RIGHT,
        RD_KAFKA_RESP_ERR_UNKNOWN as UNKNOWN,
    };
    for (request, fault) in [
        (Request::Produce, NO_RIGHT),
        (Request::AddPartitionsToTxn, NO_RIGHT),
        (Request::AddPartitionsToTxn, STATE),
        (Request::EndTxn, STATE),
        (Request::EndTxn, UNKNOWN),
    ] {
        let error = commit_with(request, &[fault])?.err();
        let error =
            error.with_context(|| format!("{request:?} {fault:?} was treated as success"))?;
        ensure!(
            error.directive() == Directive::Retry,
            "{request:?}: {error}"
        );
    }
    Ok(())
}

/// Each session would end the same way, so the program ends.
#[test]
fn a_record_that_violates_a_policy_of_the_broker_ends_the_program() -> Result<()> {
    let fault = Fault::RD_KAFKA_RESP_ERR_POLICY_VIOLATION;
    let error = commit_with(Request::Produce, &[fault])?.err();
    let error = error.context("the failure was treated as success")?;
    let stop = Directive::Stop(ExitCode::Failed);
    ensure!(error.directive() == stop, "{error}");
    Ok(())
}

#[test]
fn fencing_ends_the_program_whichever_request_learns_of_it() -> Result<()> {
    use Fault::{
        RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH as EPOCH,
        RD_KAFKA_RESP_ERR_PRODUCER_FENCED as FENCED,
    };
    for (request, fault) in [
        (Request::AddPartitionsToTxn, FENCED),
        (Request::AddPartitionsToTxn, EPOCH),
        (Request::EndTxn, FENCED),
        (Request::EndTxn, EPOCH),
    ] {
        let error = commit_with(request, &[fault])?.err();
        let error =
            error.with_context(|| format!("{request:?} {fault:?} was treated as success"))?;
        let stop = Directive::Stop(ExitCode::Fenced);
        ensure!(error.directive() == stop, "{request:?} {fault:?}: {error}");
    }
    Ok(())
}

#[test]
fn a_new_session_commits_after_one_that_failed() -> Result<()> {
    let cluster = cluster()?;
    let mut failing = open(&cluster)?;
    let fault = Fault::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE;
    cluster.request_errors(Request::EndTxn, &[fault]);
    failing.send(&chunk(true))?;
    ensure!(failing.commit(&position(1)).is_err());
    drop(failing);
    let mut next = open(&cluster)?;
    next.send(&chunk(true))?;
    next.commit(&position(1))?;
    ensure!(!next.in_transaction());
    next.send(&chunk(false))?;
    next.commit(&position(2))?;
    Ok(())
}

/// Returns a chunk that claims the data topic and has a record for it.
fn claiming(claim: &[u8]) -> Chunk {
    let key = format!("topic/{DATA}");
    let record = |topic, key: Range<usize>, value: Range<usize>| EncodedRecord {
        topic: TopicIndex(topic),
        partition: 0,
        timestamp: 1_700_000_000_000,
        key: Some(key),
        header: None,
        router_headers: 0..0,
        value,
    };
    let arena = [key.as_bytes(), claim].concat();
    let state = NewTopic {
        name: STATE.to_owned(),
        ..new_topic()
    };
    let data = NewTopic {
        is_claimed_here: true,
        ..new_topic()
    };
    Chunk {
        records: vec![
            record(0, 0..key.len(), key.len()..arena.len()),
            record(1, 0..3, 3..8),
        ],
        arena,
        new_topics: vec![state, data],
        reached: Reached {
            position: position(1).position().ok(),
            ..Reached::default()
        },
        ..Chunk::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_finds_its_topic_claimed_by_another_withdraws_its_claim() -> Result<()> {
    let cluster = cluster()?;
    let other = "__cdc.state.rs1";
    for topic in [STATE, other] {
        cluster.create_topic(topic, 1, 1)?;
    }
    let options = options(&cluster);
    let claim = br#"{"v":1,"format":"bson","format_version":1,"partitions":4}"#;
    tokio::task::block_in_place(|| {
        send_single_record(&options, other, &format!("topic/{DATA}"), claim)
    })?;
    let reader = Reader::new(&options);
    let others = OtherClaims {
        claims: Claims::new(
            Admin::connect(&options).await?,
            reader.clone(),
            "cdc",
            "rs0",
        ),
        runtime: Handle::current(),
    };
    let Queues {
        mut handover,
        intake,
    } = queues();
    handover.hand_over(&mut claiming(claim), &Metrics::new()?)?;
    drop(handover);
    let publisher = open(&cluster)?;
    let ended = tokio::task::spawn_blocking(move || {
        let (metrics, health) = (Metrics::new()?, Health::default());
        let publishing = PublishLoop::new(
            publisher,
            &metrics,
            &health,
            Until::End,
            BeginsAt::default(),
        );
        anyhow::Ok(publishing.among(others).run(&intake))
    });
    let error = ended.await??.err().context("both write to the topic")?;
    ensure!(
        error.directive() == Directive::Stop(ExitCode::Usage) && error.to_string().contains("rs1"),
        "{error}"
    );
    let own = reader.read_all(STATE).await?;
    let values: Vec<bool> = own.iter().map(|record| record.value.is_some()).collect();
    ensure!(values == [true, false], "{own:?}");
    Ok(())
}

#[test]
fn a_coordinator_that_is_slow_to_load_only_delays_the_opening() -> Result<()> {
    let cluster = cluster()?;
    let loading = Fault::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    cluster.request_errors(Request::InitProducerId, &[loading, loading]);
    let mut publisher = open(&cluster)?;
    publisher.send(&chunk(true))?;
    publisher.commit(&position(1))?;
    Ok(())
}

/// Returns records of that many bytes for one partition.
fn many(count: usize, bytes: usize) -> Chunk {
    let one = chunk(true);
    Chunk {
        arena: vec![7; bytes],
        records: (0..count)
            .map(|_| EncodedRecord {
                value: 0..bytes,
                ..one.records[0].clone()
            })
            .collect(),
        ..one
    }
}

#[test]
fn the_first_record_to_a_partition_is_delivered_before_the_next_is_sent() -> Result<()> {
    let cluster = cluster()?;
    let mut publisher = open(&cluster)?;
    cluster.broker_round_trip_time(1, Duration::from_millis(300))?;
    publisher.send(&many(2, 100))?;
    let in_flight = publisher.in_flight();
    ensure!(in_flight <= 1, "{in_flight} records wait");
    Ok(())
}

#[test]
fn a_slow_broker_delays_sending() -> Result<()> {
    const BYTES: usize = 500_000;
    let cluster = cluster()?;
    let mut publisher = open(&cluster)?;
    cluster.broker_round_trip_time(1, Duration::from_millis(300))?;
    publisher.send(&many(80, BYTES))?;
    let waiting = usize::try_from(publisher.in_flight())? * BYTES;
    ensure!(waiting < 20_000_000, "{waiting} bytes wait");
    Ok(())
}

/// Returns the values of all records, by partition.
fn values(cluster: &Cluster, count: usize) -> Result<[Vec<u8>; 4]> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .set("isolation.level", "read_uncommitted")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        list.add_partition_offset(DATA, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut values: [Vec<u8>; 4] = Default::default();
    for _ in 0..count {
        let message = consumer.poll(Duration::from_secs(20));
        let message = message.context("a record is missing")??;
        let partition = usize::try_from(message.partition())?;
        values[partition].push(message.payload().context("no value")?[0]);
    }
    ensure!(consumer.poll(Duration::from_millis(200)).is_none());
    Ok(values)
}

#[test]
fn first_records_are_sent_together_and_each_partition_keeps_its_order() -> Result<()> {
    let cluster = cluster()?;
    let mut publisher = open(&cluster)?;
    let one = chunk(true);
    let partitions = [0, 1, 0, 2, 1, 1, 3, 0, 2, 3];
    let records = (0..).zip(partitions).map(|(at, partition)| EncodedRecord {
        partition,
        value: at..at + 1,
        ..one.records[0].clone()
    });
    let records = Chunk {
        arena: (0..10).collect(),
        records: records.collect(),
        ..one
    };
    publisher.send(&records)?;
    publisher.commit(&position(1))?;
    let expected = [vec![0, 2, 7], vec![1, 4, 5], vec![3, 8], vec![6, 9]];
    assert_eq!(values(&cluster, partitions.len())?, expected);
    Ok(())
}
