//! The ends of partitions, records of open transactions included.

use std::time::Duration;

use oplog_relay_core::runtime::kafka::{KafkaOptions, client_config};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::error::ProducerError;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(15);

/// Asks for ends; connects at the first question.
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
    /// Connects nothing yet.
    #[must_use]
    pub fn new(options: &KafkaOptions) -> Self {
        let mut config = client_config(options);
        // A producer's own client would be told the last stable offset.
        config.set("isolation.level", "read_uncommitted");
        Self {
            config,
            client: None,
        }
    }

    /// The next offset of each partition of each topic, in their order.
    ///
    /// # Errors
    /// [`ProducerError::Kafka`].
    pub fn read(&mut self, topics: &[(String, u32)]) -> Result<Vec<Vec<i64>>, ProducerError> {
        let doing = "reading the ends of partitions";
        let failed = |error| ProducerError::kafka(doing, error);
        if self.client.is_none() {
            self.client = Some(self.config.create().map_err(failed)?);
        }
        let client = self.client.as_ref().ok_or(ProducerError::Ended(doing))?;
        let mut list = TopicPartitionList::new();
        for (name, partitions) in topics {
            let last = i32::try_from(*partitions).unwrap_or(i32::MAX) - 1;
            list.add_partition_range(name, 0, last);
        }
        // Asked for the time "end", a broker tells the end.
        list.set_all_offsets(Offset::End).map_err(failed)?;
        let found = client.offsets_for_times(list, REQUEST).map_err(failed)?;
        topics
            .iter()
            .map(|(name, partitions)| {
                (0..i32::try_from(*partitions).unwrap_or(i32::MAX))
                    .map(|partition| end_of(&found, name, partition))
                    .collect()
            })
            .collect()
    }
}

fn end_of(found: &TopicPartitionList, topic: &str, partition: i32) -> Result<i64, ProducerError> {
    let doing = format!("reading the end of {topic}[{partition}]");
    let element = found
        .find_partition(topic, partition)
        .ok_or_else(|| ProducerError::kafka(&doing, "the broker says nothing of it"))?;
    element
        .error()
        .map_err(|error| ProducerError::kafka(&doing, error))?;
    match element.offset() {
        Offset::Offset(end) => Ok(end),
        other => Err(ProducerError::kafka(
            &doing,
            format!("{other:?} is no offset"),
        )),
    }
}
