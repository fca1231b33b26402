//! Creates topics before a case, counts their entries after it, and removes them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oplog_relay_core::format::RANGE_HEADER;
use oplog_relay_core::topic::{collection_topic, is_data_topic, position_topic, state_topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::case::Place;
use oplog_relay_kit::services::wait_for;
use oplog_relay_kit::topic_reader::wait_until_settled;

const LIMIT: Duration = Duration::from_secs(30);
/// The name of the stub's replica set.
const SOURCE: &str = "rs0";

/// Returns the topic that a case writes to, or the first one if there are several.
pub(super) fn name(place: &Place<'_>) -> String {
    collection_topic(&place.prefix, "bench", "orders")
}

/// Returns the topics of that many collections of the stub, of which `topic` is the first one.
pub(super) fn all(topic: &str, collections: u64) -> Vec<String> {
    let others = (1..collections).map(|number| format!("{topic}{number}"));
    std::iter::once(topic.to_owned()).chain(others).collect()
}

/// Creates the topics as `oplog-producer` does, and waits until the broker serves them: creating
/// the topics of 200 collections takes it a second.
pub(super) fn create(place: &Place<'_>) -> Result<()> {
    create_all(place, &all(&name(place), place.collections))?;
    let collections = usize::try_from(place.collections)?;
    let found = wait_for("the new topics", LIMIT, || {
        let seen = data_topics(place.brokers, &place.prefix)?.len();
        let count = || count_entries(place.brokers, &place.prefix).ok();
        Ok(if seen == collections { count() } else { None })
    })?;
    ensure!(
        found == 0,
        "{found} entries are in topics that were just created"
    );
    Ok(())
}

/// Creates one more topic.
pub(super) fn create_more(place: &Place<'_>, name: &str) -> Result<()> {
    create_all(place, &[name.to_owned()])
}

fn create_all(place: &Place<'_>, names: &[String]) -> Result<()> {
    let partitions = i32::try_from(place.partitions)?;
    let topic = |name| {
        NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            .set("max.message.bytes", "104857600")
    };
    let topics: Vec<NewTopic<'_>> = names.iter().map(|name| topic(name)).collect();
    with_admin(place.brokers, async |admin| {
        for outcome in admin.create_topics(&topics, &AdminOptions::new()).await? {
            outcome.map_err(|(name, code)| anyhow::anyhow!("{name}: {code}"))?;
        }
        Ok(())
    })
}

/// Removes the topics under a prefix, so that the disk has room for the next case.
pub(super) fn remove(brokers: &str, prefix: &str) -> Result<()> {
    let found = data_topics(brokers, prefix)?;
    let mut names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    names.extend([position_topic(prefix, SOURCE), state_topic(prefix, SOURCE)]);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    with_admin(brokers, async |admin| {
        // A baseline does not create internal topics, so the result of each deletion is ignored.
        drop(admin.delete_topics(&names, &AdminOptions::new()).await?);
        Ok(())
    })
}

fn with_admin(
    brokers: &str,
    work: impl AsyncFnOnce(AdminClient<DefaultClientContext>) -> Result<()>,
) -> Result<()> {
    let admin = config(brokers).create()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work(admin))
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// Returns the data topics of a prefix with their numbers of partitions.
fn data_topics(brokers: &str, prefix: &str) -> Result<Vec<(String, i32)>> {
    let consumer: BaseConsumer = config(brokers).create()?;
    let metadata = consumer.fetch_metadata(None, LIMIT)?;
    let topics = metadata.topics().iter();
    let ours = topics.filter(|topic| is_data_topic(prefix, topic.name()));
    ours.map(|topic| {
        let partitions = i32::try_from(topic.partitions().len())?;
        Ok((topic.name().to_owned(), partitions))
    })
    .collect()
}

/// Returns a plain consumer of these topics that reads committed records from the start.
pub(super) fn reader(brokers: &str, topics: &[(String, i32)]) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = config(brokers)
        .set("group.id", "bench")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "16777216")
        .create()?;
    let mut all = TopicPartitionList::new();
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
    }
    consumer.assign(&all)?;
    Ok(consumer)
}

/// Passes every committed record of these topics to `take`.
pub(super) fn read_whole(
    brokers: &str,
    topics: &[(String, i32)],
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    // The client would report the end of a partition twice if it moved during the read.
    let numbered = topics.iter().flat_map(|(topic, partitions)| {
        (0..*partitions).map(|partition| (topic.as_str(), partition))
    });
    wait_until_settled(brokers, numbered)?;
    let consumer = reader(brokers, topics)?;
    let all: i32 = topics.iter().map(|(_, partitions)| partitions).sum();
    let mut ended = 0;
    while ended < all {
        match consumer.poll(LIMIT).context("no record arrives")? {
            Ok(message) => take(&message)?,
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads all topics of a prefix as a consumer sees them and counts their entries.
pub(super) fn count_entries(brokers: &str, prefix: &str) -> Result<u64> {
    let mut count = 0;
    read_whole(brokers, &data_topics(brokers, prefix)?, |message| {
        count += entries_in(message)?;
        Ok(())
    })?;
    Ok(count)
}

/// Returns the number of entries in a record: for a frame, the number in its header; otherwise 1,
/// or 0 for a command or a barrier, which have no key.
fn entries_in(message: &BorrowedMessage<'_>) -> Result<u64> {
    let header = message.headers().and_then(|headers| {
        headers
            .iter()
            .find(|header| header.key == RANGE_HEADER)?
            .value
    });
    let Some(range) = header else {
        return Ok(u64::from(message.key().is_some()));
    };
    let count = std::str::from_utf8(range)?.rsplit('/').next();
    Ok(count.unwrap_or_default().parse()?)
}
