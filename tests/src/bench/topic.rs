//! Topics: made before a case, counted after it, removed.

use std::time::Duration;

use anyhow::{Context, Result};
use oplog_relay_core::format::RANGE_HEADER;
use oplog_relay_core::topic::{collection_topic, position_topic, state_topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::case::Place;

const LIMIT: Duration = Duration::from_secs(30);
/// The name of the stub's set.
const SOURCE: &str = "rs0";

/// The topic that a case writes to.
pub(super) fn name(place: &Place<'_>) -> String {
    collection_topic(&place.prefix, "bench", "orders")
}

/// Creates it as `oplog-producer` does.
pub(super) fn create(place: &Place<'_>) -> Result<()> {
    let name = name(place);
    let partitions = i32::try_from(place.partitions)?;
    let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1))
        .set("retention.ms", "-1")
        .set("max.message.bytes", "104857600");
    with_admin(place, async |admin| {
        for outcome in admin.create_topics([&topic], &AdminOptions::new()).await? {
            outcome.map_err(|(name, code)| anyhow::anyhow!("{name}: {code}"))?;
        }
        Ok(())
    })
}

/// Removes what a case wrote, so that the disk has room for the next.
pub(super) fn remove(place: &Place<'_>) -> Result<()> {
    let prefix = &place.prefix;
    let names = [
        name(place),
        position_topic(prefix, SOURCE),
        state_topic(prefix, SOURCE),
    ];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    with_admin(place, async |admin| {
        // A baseline has no internal topics to remove.
        drop(admin.delete_topics(&names, &AdminOptions::new()).await?);
        Ok(())
    })
}

fn with_admin(
    place: &Place<'_>,
    work: impl AsyncFnOnce(AdminClient<DefaultClientContext>) -> Result<()>,
) -> Result<()> {
    let admin = config(place).create()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work(admin))
}

fn config(place: &Place<'_>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", place.brokers);
    config
}

/// Reads the whole topic as a consumer sees it and counts the entries in it.
pub(super) fn count_entries(place: &Place<'_>) -> Result<u64> {
    let consumer: BaseConsumer = config(place)
        .set("group.id", "bench")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "16777216")
        .create()?;
    let topic = name(place);
    let mut all = TopicPartitionList::new();
    for partition in 0..i32::try_from(place.partitions)? {
        all.add_partition_offset(&topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut count, mut ended) = (0, 0);
    while ended < place.partitions {
        match consumer.poll(LIMIT).context("the topic goes silent")? {
            Ok(message) => count += entries_in(&message)?,
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}

/// One; as many as its header says in a frame.
fn entries_in(message: &BorrowedMessage<'_>) -> Result<u64> {
    let header = message.headers().and_then(|headers| {
        headers
            .iter()
            .find(|header| header.key == RANGE_HEADER)?
            .value
    });
    let Some(range) = header else { return Ok(1) };
    let count = std::str::from_utf8(range)?.rsplit('/').next();
    Ok(count.unwrap_or_default().parse()?)
}
