//! Watches the state topics for new topics.
//!
//! The Kafka client looks for topics that match its pattern only when it refreshes its metadata, every
//! 2 seconds. A producer claims each new topic in its state topic, in the Kafka transaction of the
//! topic's first record. The watch reads the state topics from their ends with one pending fetch, and
//! refreshes the metadata at once when a topic is claimed. It only saves time: if it fails, new topics
//! are found at the interval.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use oplog_relay_core::topic::source_of_state_topic;
use oplog_relay_runtime::kafka::{Context, KafkaOptions, SMALL_FETCH, client_config, limit_fetch};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::context::GroupContext;

/// The time limit of a request for metadata, which holds up the poll thread.
const REQUEST: Duration = Duration::from_secs(1);
/// The pause after the first refresh. It doubles with each further one, because each refresh that
/// finds a topic causes a rebalance, and requests the metadata of the whole cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: at this interval the client refreshes its metadata anyway.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The time after which a claimed topic that does not appear is left to the client.
const PATIENCE: Duration = Duration::from_secs(5);
/// The part of a claim's key before the name of the topic.
const CLAIM: &str = "topic/";

/// Watches the state topics of a prefix for claims of new topics.
pub(super) struct ClaimWatch {
    client: BaseConsumer<Context>,
    prefix: String,
    /// The topics of the prefix that the client of the group knows.
    known: BTreeSet<String>,
    /// The claimed topics that it does not know yet.
    claimed: BTreeSet<String>,
    last_claim: Instant,
    pauses: Pauses,
}

impl ClaimWatch {
    /// Creates a watch without state topics. It does not connect.
    pub(super) fn new(kafka: &KafkaOptions, prefix: &str) -> KafkaResult<Self> {
        let mut config = client_config(kafka);
        // librdkafka needs a group for its queue. The watch neither joins it nor commits.
        config
            .set("group.id", "oplog-relay-reader")
            .set("client.id", "oplog-consumer")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // The claim of a transaction that is aborted costs one request.
            .set("isolation.level", "read_uncommitted")
            .set("auto.offset.reset", "latest")
            .set("fetch.wait.max.ms", "1000")
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "1024");
        limit_fetch(&mut config, SMALL_FETCH, SMALL_FETCH);
        config.remove("group.instance.id");
        let now = Instant::now();
        Ok(Self {
            client: config.create_with_context(Context::new())?,
            prefix: prefix.to_owned(),
            known: BTreeSet::new(),
            claimed: BTreeSet::new(),
            last_claim: now,
            pauses: Pauses::new(now),
        })
    }

    /// Watches the state topics that exist now. Called when partitions were assigned, because they may
    /// belong to a new source.
    pub(super) fn update(&mut self, group: &BaseConsumer<GroupContext>) {
        let watched = group
            .fetch_metadata(None, REQUEST)
            .and_then(|metadata| self.watch(&metadata));
        if let Err(error) = watched {
            tracing::debug!(%error, "the state topics cannot be watched now");
        }
    }

    /// Takes the claims that have arrived. If a topic is new, refreshes the metadata of the group's
    /// client, which then joins the group again with the topic.
    pub(super) fn refresh_if_claimed(&mut self, group: &BaseConsumer<GroupContext>) {
        self.take_claims();
        let now = Instant::now();
        if self.claimed.is_empty() || !self.pauses.is_over(now) {
            return;
        }
        self.pauses.begin(now);
        match group.fetch_metadata(None, REQUEST) {
            Ok(metadata) => self.learn(&metadata),
            Err(error) => tracing::debug!(%error, "refreshing the metadata failed"),
        }
        if self.last_claim.elapsed() >= PATIENCE {
            self.claimed.clear();
        }
    }

    fn take_claims(&mut self) {
        while let Some(polled) = self.client.poll(Duration::ZERO) {
            let record = match polled {
                Ok(record) => record,
                Err(error) => {
                    tracing::debug!(%error, "reading the state topics failed");
                    continue;
                }
            };
            let key = record.key().and_then(|key| std::str::from_utf8(key).ok());
            let topic = key.and_then(|key| key.strip_prefix(CLAIM));
            if let Some(topic) = topic
                && record.payload().is_some()
                && !self.known.contains(topic)
            {
                tracing::debug!(topic, "a producer has claimed a new topic");
                self.claimed.insert(topic.to_owned());
                self.last_claim = Instant::now();
            }
        }
    }

    fn learn(&mut self, metadata: &Metadata) {
        let start = format!("{}.", self.prefix);
        let names = metadata.topics().iter().map(MetadataTopic::name);
        self.known = names
            .filter(|name| name.starts_with(&start))
            .map(str::to_owned)
            .collect();
        let known = &self.known;
        self.claimed.retain(|claimed| !known.contains(claimed));
    }

    /// Continues with the state topics in the metadata, at the end of those that are new.
    fn watch(&mut self, metadata: &Metadata) -> KafkaResult<()> {
        self.learn(metadata);
        let watched = self.client.assignment()?;
        let mut new = TopicPartitionList::new();
        for topic in metadata.topics() {
            let is_state = source_of_state_topic(&self.prefix, topic.name()).is_some();
            if is_state && watched.find_partition(topic.name(), 0).is_none() {
                new.add_partition_offset(topic.name(), 0, Offset::End)?;
            }
        }
        if new.count() == 0 {
            return Ok(());
        }
        self.client.incremental_assign(&new)
    }
}

/// The pauses between refreshes.
#[derive(Debug)]
struct Pauses {
    length: Duration,
    until: Instant,
}

impl Pauses {
    const fn new(now: Instant) -> Self {
        Self {
            length: FIRST_PAUSE,
            until: now,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Begins a pause. It is twice as long as the last one, or short if that ended long ago.
    fn begin(&mut self, now: Instant) {
        if now >= self.until + LONGEST_PAUSE {
            self.length = FIRST_PAUSE;
        }
        self.until = now + self.length;
        self.length = (self.length * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_while_topics_keep_coming_and_are_short_again_later() {
        let mut now = Instant::now();
        let mut pauses = Pauses::new(now);
        let mut lengths = Vec::new();
        for _ in 0..8 {
            assert!(pauses.is_over(now));
            pauses.begin(now);
            lengths.push((pauses.until - now).as_millis());
            assert!(!pauses.is_over(now));
            now = pauses.until;
        }
        assert_eq!(lengths, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        now += LONGEST_PAUSE;
        pauses.begin(now);
        assert_eq!(pauses.until - now, FIRST_PAUSE);
    }
}
