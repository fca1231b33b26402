//! The client of the group, and its settings.

use oplog_relay_runtime::kafka::{HEARTBEAT_MS, client_config};
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;

use super::GroupContextParts;
use super::context::GroupContext;
use super::fetch::FetchSize;
use crate::config::GroupConfig;
use crate::error::ConsumerError;
use crate::input::INTERNAL_TOPICS;

/// Maximum size of a reply: the largest record that a topic accepts (100 MiB), and room for the
/// headers and for other partitions.
const LARGEST_REPLY: usize = (100 << 20) + (28 << 20);

/// Creates the client. It does not join the group yet.
pub(super) fn connect(
    client: &ClientConfig,
    config: &GroupConfig,
    parts: &GroupContextParts,
) -> Result<BaseConsumer<GroupContext>, ConsumerError> {
    let context = GroupContext::new(config.group.clone(), parts.clone());
    client
        .create_with_context(context)
        .map_err(|error| ConsumerError::kafka("creating the Kafka client", error))
}

/// Returns the settings of a client that is a member of the group.
pub(super) fn consumer_config(config: &GroupConfig, fetch: FetchSize) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    fetch.set(&mut client);
    client
        .set("group.id", &config.group)
        .set("client.id", "oplog-consumer")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("check.crcs", "true")
        .set("statistics.interval.ms", "1000")
        .set(
            "queued.max.messages.kbytes",
            (config.queue_bytes / 2 / 1024).max(1).to_string(),
        )
        .set("queued.min.messages", "100000")
        .set("receive.message.max.bytes", LARGEST_REPLY.to_string());
    if config.input.foreign().is_some() {
        // A pattern may match internal topics, which would be assigned to the group.
        client.set("topic.blacklist", INTERNAL_TOPICS);
    }
    // The client has at most one fetch in flight for each broker. A fetch for partitions without
    // new records delays the partitions that it does not include because their queue was full, and
    // it delays the detection of a partition's end. With a short wait, replies arrive sooner, but
    // each reply costs the broker and this client processor time.
    let wait = if config.until_caught_up { "50" } else { "100" };
    // The operator may override these, for example to get fewer, larger fetches.
    for (name, value) in [
        ("fetch.wait.max.ms", wait),
        ("fetch.error.backoff.ms", "100"),
        // A full queue drains within milliseconds. By default, the client then fetches nothing for
        // a second.
        ("fetch.queue.backoff.ms", "5"),
        // Interval of the search for new topics. One rebalance adds all topics that were created in the
        // meantime, and the assigned partitions continue during it. A cluster with very many partitions
        // may need a longer interval, because each member requests the metadata of all topics.
        ("topic.metadata.refresh.interval.ms", "2000"),
        // The time for which partitions that move to another member are not read.
        ("heartbeat.interval.ms", HEARTBEAT_MS),
    ] {
        if client.get(name).is_none() {
            client.set(name, value);
        }
    }
    client
}
