//! Kafka's own command-line tools on the project's topics and groups: the console consumer, and the
//! lag and the offsets of a group.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::model::{Model, ModelServer};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use crate::made::mixed;
use crate::topics::{LIMIT, Topics};

/// Writes a record to a topic in a transaction that is aborted.
fn abort_record(brokers: &str, topic: &str) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", "aborted")
        .create()?;
    producer.init_transactions(LIMIT)?;
    producer.begin_transaction()?;
    let record = BaseRecord::to(topic)
        .partition(0)
        .key("aborted")
        .payload("{\"op\":\"aborted\"}");
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    producer.abort_transaction(LIMIT)?;
    Ok(())
}

/// Returns what the console consumer prints of the topic of `s.a`. It stops after `count` records,
/// or when none has arrived for five seconds.
fn print_records(topics: &Topics, isolation: &str, count: usize) -> Result<String> {
    let topic = format!("{}.s.a", topics.prefix());
    let (isolation, count) = (
        format!("--isolation-level={isolation}"),
        format!("--max-messages={count}"),
    );
    let common = ["--from-beginning", "--timeout-ms=5000", "--topic", &topic];
    topics.tool_text(
        "kafka-console-consumer",
        &[&common[..], &[&isolation, &count]].concat(),
    )
}

#[test]
fn the_console_consumer_prints_debeziums_envelope_without_aborted_records() -> Result<()> {
    let topics = Topics::none("console")?;
    let flags = ["--format=json", "--envelope=debezium"];
    topics.produce(&mixed()?.oplog()?, &flags)?;
    abort_record(&topics.brokers(), "console.s.a")?;
    // 45 changes, and a tombstone after each of 5 deletes.
    let all = print_records(&topics, "read_uncommitted", 51)?;
    ensure!(all.matches("aborted").count() == 1, "{all}");

    let printed = print_records(&topics, "read_committed", 51)?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in printed.lines() {
        // The tool prints the value of a tombstone as `null`.
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let op = value["op"].as_str().unwrap_or("tombstone");
        *counts.entry(op.to_owned()).or_default() += 1;
    }
    let expected = [("c", 20), ("d", 5), ("tombstone", 5), ("u", 20)];
    let expected = expected.map(|(op, count)| (op.to_owned(), count));
    ensure!(counts == expected.into(), "{printed}");
    Ok(())
}

/// Returns the sum of the lags that Kafka's tool shows for a group.
fn lag(topics: &Topics, group: &str) -> Result<i64> {
    let described = topics.tool_text("kafka-consumer-groups", &["--describe", "--group", group])?;
    let mut rows = described.lines().filter(|line| !line.is_empty());
    let header = rows
        .find(|line| line.contains("LAG"))
        .context(described.clone())?;
    let column = header.split_whitespace().position(|name| name == "LAG");
    let column = column.context("no column LAG")?;
    rows.map(|row| {
        let lag = row.split_whitespace().nth(column);
        lag.and_then(|lag| lag.parse::<i64>().ok())
            .with_context(|| row.to_owned())
    })
    .sum()
}

#[test]
fn the_lag_of_a_group_is_shown_and_reset_by_kafkas_own_tool() -> Result<()> {
    let made = mixed()?;
    let topics = Topics::carry("lagging", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    for processes in [1, 2] {
        topics.replay(&target, "lagging", processes, &[])?;
        let state = target.model().state();
        ensure!(state.get("s.a") == made.expected()?.state().get("s.a"));
        ensure!(lag(&topics, "lagging")? == 0);
        topics.reset("lagging", &["--all-topics", "--to-earliest"])?;
        // The lag also counts barriers and the markers of transactions, so it is at least the
        // number of entries.
        let behind = lag(&topics, "lagging")?;
        ensure!(behind >= 47, "{behind} records behind");
    }
    Ok(())
}
