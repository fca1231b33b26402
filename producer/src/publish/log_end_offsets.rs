//! End offsets of partitions, including records of open transactions.

use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::{KafkaOptions, client_config, is_transient};
use oplog_relay_runtime::retry::Backoff;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::error::ProducerError;

/// Time limit of one request.
const REQUEST: Duration = Duration::from_secs(10);
/// Time for which transient failures are retried: well below the default transaction timeout.
const PATIENCE: Duration = Duration::from_secs(20);

/// A topic with its number of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionedTopic {
    /// The name of the topic.
    pub name: String,
    /// The number of its partitions.
    pub partitions: u32,
}

/// A reader of end offsets. It connects at the first request.
pub struct Ends {
    config: ClientConfig,
    client: Option<BaseConsumer>,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").finish_non_exhaustive()
    }
}

impl Ends {
    /// Creates a reader without connecting.
    #[must_use]
    pub fn new(options: &KafkaOptions) -> Self {
        let mut config = client_config(options);
        // With read_committed the request would return the last stable offset.
        config.set("isolation.level", "read_uncommitted");
        Self {
            config,
            client: None,
        }
    }

    /// Returns the end offset of each partition of each topic, in the order of `topics` and of their
    /// partitions. Retries after transient failures: right after a topic is created, partitions may
    /// have no leader.
    ///
    /// # Errors
    /// [`ProducerError::Kafka`].
    pub fn read(&mut self, topics: &[PartitionedTopic]) -> Result<Vec<Vec<i64>>, ProducerError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            match self.request(topics) {
                Ok(ends) => return Ok(ends),
                Err(error) if is_transient(&error) && begun.elapsed() < PATIENCE => {
                    tracing::debug!(%error, "end offsets cannot be read yet, retrying");
                    std::thread::sleep(backoff.next_delay());
                }
                Err(error) => {
                    return Err(ProducerError::kafka("reading end offsets", error));
                }
            }
        }
    }

    fn request(&mut self, topics: &[PartitionedTopic]) -> KafkaResult<Vec<Vec<i64>>> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(self.config.create()?),
        };
        let mut list = TopicPartitionList::new();
        for PartitionedTopic { name, partitions } in topics {
            let last = i32::try_from(*partitions).unwrap_or(i32::MAX) - 1;
            list.add_partition_range(name, 0, last);
        }
        // This is sent as the timestamp -1, for which a broker returns the end offset.
        list.set_all_offsets(Offset::End)?;
        let found = client.offsets_for_times(list, REQUEST)?;
        topics
            .iter()
            .map(|PartitionedTopic { name, partitions }| {
                (0..i32::try_from(*partitions).unwrap_or(i32::MAX))
                    .map(|partition| end_of(&found, name, partition))
                    .collect()
            })
            .collect()
    }
}

fn end_of(found: &TopicPartitionList, topic: &str, partition: i32) -> KafkaResult<i64> {
    let unknown = KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable);
    let element = found
        .find_partition(topic, partition)
        .ok_or(unknown.clone())?;
    element.error()?;
    match element.offset() {
        Offset::Offset(end) => Ok(end),
        _ => Err(unknown),
    }
}
