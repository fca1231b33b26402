//! The group's committed offsets, for workers that wait at barriers. They are requested for all waiting
//! workers together, repeatedly while any of them waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::{KafkaOptions, client_config, is_transient};
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{Notify, watch};

use crate::error::ConsumerError;
use crate::group::start::REQUEST;
use crate::topic_partition::{TopicPartition, list};

/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(10);

/// Time that a worker waits for a topic before the topic is looked up in the cluster.
const TOPIC_LOOKUP_AFTER: Duration = Duration::from_secs(5);
/// Interval between two lookups of topics.
const TOPIC_LOOKUP_INTERVAL: Duration = Duration::from_secs(2);
/// Time for which a topic must be missing before it counts as absent. A broker that has just
/// started may not know all topics yet.
const ABSENT_AFTER: Duration = Duration::from_secs(10);

/// The reason why the group will commit no further offsets of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// The cluster does not know the topic.
    Unknown,
    /// The user of this program is not authorized to describe the topic.
    Unauthorized,
}

#[derive(Debug, Clone, Copy)]
struct AbsentTopic {
    why: Absence,
    since: Instant,
}

/// Number of open requests for a partition, and the time of the first one.
#[derive(Debug, Clone, Copy)]
struct OpenRequests {
    count: usize,
    since: Instant,
}

/// Committed offsets by partition. Partitions without a committed offset are not included.
pub type Offsets = BTreeMap<TopicPartition, i64>;

/// The lookup of committed offsets. Each waiting worker has a clone.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    open: Arc<Mutex<BTreeMap<TopicPartition, OpenRequests>>>,
    absent: Arc<Mutex<BTreeMap<String, AbsentTopic>>>,
    wake: Arc<Notify>,
    found: watch::Sender<Arc<Offsets>>,
}

/// A request for the offsets of some partitions, open until it is dropped.
#[derive(Debug)]
pub struct OffsetRequest {
    names: Vec<TopicPartition>,
    committed: Committed,
    found: watch::Receiver<Arc<Offsets>>,
}

impl Committed {
    /// Requests the committed offsets of these partitions until the result is dropped.
    #[must_use]
    pub fn request(&self, names: Vec<TopicPartition>) -> OffsetRequest {
        let mut requests = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            let since = Instant::now();
            let entry = requests.entry(name.clone());
            let count = 0;
            entry.or_insert(OpenRequests { count, since }).count += 1;
        }
        drop(requests);
        self.wake.notify_one();
        let mut found = self.found.subscribe();
        // Offsets that were found before this request may not include its partitions.
        found.mark_unchanged();
        OffsetRequest {
            names,
            committed: self.clone(),
            found,
        }
    }

    /// Returns the reason why a topic that a worker waits for counts as absent. Returns `None` if
    /// the topic exists, or has not been missing for long enough.
    #[must_use]
    pub fn absence(&self, topic: &str) -> Option<Absence> {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent
            .get(topic)
            .filter(|absent| absent.since.elapsed() >= ABSENT_AFTER)
            .map(|absent| absent.why)
    }

    /// Returns the topics that workers have waited for so long that the topics may no longer exist.
    fn overdue_topics(&self) -> BTreeSet<String> {
        let requests = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .iter()
            .filter(|(_, requests)| requests.since.elapsed() >= TOPIC_LOOKUP_AFTER)
            .map(|(name, _)| name.topic.clone())
            .collect()
    }

    /// Records which topics are absent. A topic that was already absent keeps its time; a topic
    /// that exists or is not in `found` is no longer absent.
    fn note_topics(&self, found: BTreeMap<String, Option<Absence>>) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.retain(|topic, _| found.get(topic).is_some_and(Option::is_some));
        for (topic, why) in found {
            if let Some(why) = why {
                let since = Instant::now();
                absent.entry(topic).or_insert(AbsentTopic { why, since });
            }
        }
    }

    /// Looks up the requested offsets until shutdown.
    ///
    /// # Errors
    /// Returns an error if a request to Kafka fails with an error that is not transient.
    pub async fn run(
        self,
        kafka: KafkaOptions,
        group: String,
        shutdown: Shutdown,
    ) -> Result<(), ConsumerError> {
        let mut client = None;
        let mut topics_looked_up = Instant::now();
        loop {
            let names: Vec<TopicPartition> = {
                let requests = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                requests.keys().cloned().collect()
            };
            if names.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = shutdown.wait() => return Ok(()),
                }
            }
            let current = match &client {
                Some(client) => Arc::clone(client),
                None => Arc::clone(client.insert(Arc::new(open(&kafka, &group)?))),
            };
            let overdue = match topics_looked_up.elapsed() >= TOPIC_LOOKUP_INTERVAL {
                true => self.overdue_topics(),
                false => BTreeSet::new(),
            };
            if !overdue.is_empty() {
                topics_looked_up = Instant::now();
                let (this, client) = (self.clone(), Arc::clone(&current));
                let lookup = tokio::task::spawn_blocking(move || {
                    if let Some(found) = find_topics(&client, overdue) {
                        this.note_topics(found);
                    }
                });
                lookup
                    .await
                    .map_err(|_| ConsumerError::Ended("the lookup of topics"))?;
            }
            let lookup = tokio::task::spawn_blocking(move || find_offsets(&current, &names)).await;
            match lookup.map_err(|_| ConsumerError::Ended("the lookup of committed offsets"))? {
                Ok(found) => drop(self.found.send_replace(Arc::new(found))),
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "reading committed offsets failed; retrying");
                }
                Err(error) => return Err(ConsumerError::kafka("reading committed offsets", error)),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.wait() => return Ok(()),
            }
        }
    }
}

impl OffsetRequest {
    /// Waits for the next result of the lookup. A lookup that was already in progress when this
    /// request was made may not include its partitions, so a partition that is missing from the
    /// result may have a committed offset.
    pub async fn next_result(&mut self) -> Arc<Offsets> {
        // This request holds a clone of the sender, so this cannot fail.
        drop(self.found.changed().await);
        Arc::clone(&self.found.borrow_and_update())
    }

    /// Returns the requested partitions.
    #[must_use]
    pub fn names(&self) -> &[TopicPartition] {
        &self.names
    }
}

impl Drop for OffsetRequest {
    fn drop(&mut self) {
        let requests = &self.committed.open;
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            if let Some(entry) = requests.get_mut(name) {
                entry.count -= 1;
                if entry.count == 0 {
                    requests.remove(name);
                }
            }
        }
    }
}

/// Creates a client of the group that does not join it and does not commit.
fn open(kafka: &KafkaOptions, group: &str) -> Result<BaseConsumer, ConsumerError> {
    let mut config = client_config(kafka);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false");
    config
        .create()
        .map_err(|error| ConsumerError::kafka("creating a Kafka client", error))
}

fn find_offsets(client: &BaseConsumer, names: &[TopicPartition]) -> KafkaResult<Offsets> {
    let committed = client.committed_offsets(list(names), REQUEST)?;
    Ok(committed
        .elements()
        .iter()
        .filter_map(|element| match element.offset() {
            Offset::Offset(offset) => {
                let name = TopicPartition {
                    topic: element.topic().to_owned(),
                    partition: element.partition(),
                };
                Some((name, offset))
            }
            _ => None,
        })
        .collect())
}

/// Returns for each topic why it is absent, or `None` if it exists. Returns `None` if the cluster
/// does not answer.
fn find_topics(
    client: &BaseConsumer,
    topics: BTreeSet<String>,
) -> Option<BTreeMap<String, Option<Absence>>> {
    let mut found = BTreeMap::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(&topic), REQUEST).ok()?;
        let mut described = metadata.topics().iter();
        let described = described.find(|described| described.name() == topic)?;
        found.insert(topic, described.error().and_then(absence));
    }
    Some(found)
}

fn absence(error: RDKafkaRespErr) -> Option<Absence> {
    use RDKafkaErrorCode as Code;
    match Code::from(error) {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => Some(Absence::Unknown),
        Code::TopicAuthorizationFailed => Some(Absence::Unauthorized),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_absent_only_after_it_was_missing_for_a_while() {
        let committed = Committed::default();
        let unknown = || BTreeMap::from([("a".to_owned(), Some(Absence::Unknown))]);
        committed.note_topics(unknown());
        assert_eq!(committed.absence("a"), None, "it was missing only once");
        let age = |committed: &Committed| {
            let mut absent = committed.absent.lock().unwrap();
            absent.get_mut("a").unwrap().since -= ABSENT_AFTER;
        };
        age(&committed);
        committed.note_topics(unknown());
        assert_eq!(committed.absence("a"), Some(Absence::Unknown));
        committed.note_topics(BTreeMap::from([("a".to_owned(), None)]));
        committed.note_topics(unknown());
        assert_eq!(committed.absence("a"), None, "it was found in the meantime");
    }
}
