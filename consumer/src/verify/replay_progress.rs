//! Determines whether the replay has passed a given time of the source.
//!
//! The producer's saved position is read first, and then the end offsets of the partitions. The replay
//! has passed a time if the position has reached it and the group's committed offsets have reached those
//! end offsets. An end offset is the last stable offset. A group that has caught up commits it too, so
//! trailing control records do not matter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::{Document as Bson, doc};
use mongodb::{Client, error::Error};
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::{Order, PositionRecord, State};
use oplog_relay_core::topic::{position_topic, source_of_state_topic, state_topic};
use oplog_relay_runtime::kafka::{Reader, client_config};
use oplog_relay_runtime::mongo::{Hello, MongoError, READ, hello, in_time};
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::ReplayPlace;
use crate::error::ConsumerError;
use crate::group::start::{LogRange, REQUEST, log_ranges, persist};
use crate::input::Input;
use crate::saved_state_error::SavedStateError;
use crate::topic_partition::{TopicPartition, list};
use crate::verify::error::VerifyError;

/// First and longest pause between two requests to Kafka.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A replay whose progress can be queried.
#[derive(Clone)]
pub(crate) struct Replay {
    place: ReplayPlace,
    source: String,
    reader: Reader,
    client: Arc<BaseConsumer>,
    patience: Duration,
    shutdown: Shutdown,
}

impl Replay {
    /// Finds the source of a prefix and connects to the group, without joining it.
    pub(crate) async fn open(
        place: &ReplayPlace,
        source: &Client,
        patience: Duration,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let mut config = client_config(&place.kafka);
        config
            .set("group.id", &place.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // With this isolation level, the end offsets are the last stable offsets.
            .set("isolation.level", "read_committed");
        let client: BaseConsumer = config
            .create()
            .map_err(|error| ConsumerError::kafka("creating a Kafka client", error))?;
        let replay = Self {
            place: place.clone(),
            source: String::new(),
            reader: Reader::new(&place.kafka),
            client: Arc::new(client),
            patience,
            shutdown,
        };
        let hello = from_source(hello(source).await)?;
        let source = replay.find_source(&hello).await?;
        Ok(Self { source, ..replay })
    }

    async fn find_source(&self, hello: &Hello) -> Result<String, ConsumerError> {
        let prefix = self.place.prefix.clone();
        let names = self
            .blocking(move |replay| {
                let listed = persist("listing topics", &replay.shutdown, || {
                    replay.client.fetch_metadata(None, REQUEST)
                })?;
                let names = listed.topics().iter();
                let names = names.filter_map(|topic| source_of_state_topic(&prefix, topic.name()));
                Ok(names.map(str::to_owned).collect::<Vec<_>>())
            })
            .await?;
        let named = self.place.source_name.clone();
        let wanted = named.or_else(|| match names.as_slice() {
            [only] => Some(only.clone()),
            _ => hello.set_name.clone(),
        });
        wanted
            .filter(|wanted| names.contains(wanted))
            .ok_or_else(|| {
                let sources = names.clone();
                let prefix = self.place.prefix.clone();
                VerifyError::SourceUnknown { prefix, sources }.into()
            })
    }

    /// Returns the order of each collection, by namespace, as the producer has saved it.
    pub(crate) async fn orders(&self) -> Result<BTreeMap<String, Order>, ConsumerError> {
        let topic = state_topic(&self.place.prefix, &self.source);
        let mut state = State::default();
        for record in self.reader.read_all(&topic).await? {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
            let applied = state.apply(&key, record.value.as_deref());
            applied.map_err(|source| SavedStateError::State {
                topic: topic.clone(),
                offset: record.offset,
                source,
            })?;
        }
        let routes = state.routes.into_values();
        Ok(routes.map(|route| (route.ns, route.order)).collect())
    }

    /// Waits until the replay has passed the current time of the source. Returns false if it has
    /// not passed it within `--patience`, or at shutdown.
    ///
    /// # Errors
    /// Returns an error if a request to Kafka or to the source fails.
    pub(crate) async fn passes_now(&self, source: &Client) -> Result<bool, ConsumerError> {
        let deadline = Instant::now() + self.patience;
        let moment = moment(source).await?;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        while self
            .position()
            .await?
            .is_none_or(|position| position < moment)
        {
            if !self.may_wait(deadline, &mut backoff).await {
                return Ok(false);
            }
        }
        let input = Input::Relay {
            prefix: self.place.prefix.clone(),
        };
        let ends = self
            .blocking(move |replay| log_ranges(&replay.client, &input, &replay.shutdown))
            .await?;
        backoff.reset();
        loop {
            let names: Vec<TopicPartition> = ends.iter().map(|range| range.name.clone()).collect();
            let committed = self
                .blocking(move |replay| {
                    persist("reading committed offsets", &replay.shutdown, || {
                        replay.client.committed_offsets(list(&names), REQUEST)
                    })
                })
                .await?;
            let passed = |range: &LogRange| {
                let name = &range.name;
                let found = committed.find_partition(&name.topic, name.partition);
                match found.map(|found| found.offset()) {
                    Some(Offset::Offset(offset)) => offset >= range.end,
                    _ => range.end == 0,
                }
            };
            if ends.iter().all(passed) {
                return Ok(true);
            }
            if !self.may_wait(deadline, &mut backoff).await {
                return Ok(false);
            }
        }
    }

    async fn may_wait(&self, deadline: Instant, backoff: &mut Backoff) -> bool {
        Instant::now() < deadline && backoff.sleep(&self.shutdown).await
    }

    /// Returns the producer's position, up to which everything is in the topics.
    async fn position(&self) -> Result<Option<Timestamp>, ConsumerError> {
        let topic = position_topic(&self.place.prefix, &self.source);
        let Some(last) = self.reader.read_last_committed(&topic).await? else {
            return Ok(None);
        };
        let (offset, value) = (last.offset, last.value.unwrap_or_default());
        let record: PositionRecord =
            serde_json::from_slice(&value).map_err(|source| SavedStateError::PositionRecord {
                topic: topic.clone(),
                offset,
                source,
            })?;
        let done = record.done().map_err(|source| SavedStateError::Position {
            topic: topic.clone(),
            offset,
            source,
        })?;
        Ok(Some(done))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ConsumerError> + Send + 'static,
    ) -> Result<T, ConsumerError> {
        let replay = self.clone();
        tokio::task::spawn_blocking(move || work(&replay))
            .await
            .map_err(|_| ConsumerError::Ended("a request to Kafka"))?
    }
}

/// Returns a time of the source that is not earlier than any write that can be read now. For a server
/// whose `hello` has no such time, it is that of the newest oplog entry.
async fn moment(source: &Client) -> Result<Timestamp, ConsumerError> {
    let hello = from_source(hello(source).await)?;
    if let Some(time) = time_of(&hello) {
        return Ok(time);
    }
    let oplog = source.database("local").collection::<Bson>("oplog.rs");
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 });
    let newest = from_source(in_time(READ, newest).await)?;
    let ts = newest.and_then(|entry| entry.get_timestamp("ts").ok());
    Ok(ts.map_or_else(Timestamp::default, |ts| {
        Timestamp::new(ts.time, ts.increment)
    }))
}

/// Returns the time of a source that its `hello` reply shows. `lastWrite` is not earlier than any write
/// that a majority read has returned. A mongos has no oplog, and so no last write; its cluster time is
/// not earlier than that of any reply that a shard has sent it.
fn time_of(hello: &Hello) -> Option<Timestamp> {
    if hello.is_mongos {
        return hello.cluster_time.max(hello.operation_time);
    }
    let written = hello.last_write.or(hello.last_majority_write)?;
    Some(written.ts)
}

fn from_source<T>(answer: Result<T, Error>) -> Result<T, ConsumerError> {
    answer.map_err(|error| MongoError::from_driver("the source", &error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_mongos_is_its_cluster_time() {
        let time = |time, increment| mongodb::bson::Timestamp { time, increment };
        let mongos = Hello::from_reply(&doc! {
            "msg": "isdbgrid",
            "operationTime": time(7, 1),
            "$clusterTime": { "clusterTime": time(8, 2) },
        });
        assert_eq!(time_of(&mongos), Some(Timestamp::new(8, 2)));
        let member = Hello::from_reply(&doc! {
            "setName": "rs0",
            "lastWrite": { "opTime": { "ts": time(5, 1), "t": 1_i64 } },
            "$clusterTime": { "clusterTime": time(8, 2) },
        });
        assert_eq!(time_of(&member), Some(Timestamp::new(5, 1)));
    }
}
