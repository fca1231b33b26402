//! The group's committed offsets, for those who wait at barriers: looked up for all of them at
//! once, again and again while anybody waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oplog_relay_core::runtime::kafka::{KafkaOptions, client_config, is_transient};
use oplog_relay_core::runtime::shutdown::Shutdown;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use tokio::sync::{Notify, watch};

use crate::error::ConsumerError;
use crate::start::{PartitionName, REQUEST, list};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Committed offsets by partition; one without a commit is not in it.
pub type Offsets = BTreeMap<PartitionName, i64>;

/// Looks up what is asked for. Cloned for everybody who asks.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    asked: Arc<Mutex<BTreeMap<PartitionName, usize>>>,
    wake: Arc<Notify>,
    found: watch::Sender<Arc<Offsets>>,
}

/// A question that stays open until it is dropped.
#[derive(Debug)]
pub struct Question {
    names: Vec<PartitionName>,
    committed: Committed,
    found: watch::Receiver<Arc<Offsets>>,
}

impl Committed {
    /// Asks for these partitions.
    #[must_use]
    pub fn ask(&self, names: Vec<PartitionName>) -> Question {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            *asked.entry(name.clone()).or_default() += 1;
        }
        drop(asked);
        self.wake.notify_one();
        let mut found = self.found.subscribe();
        // What was found before the question may lack its partitions.
        found.mark_unchanged();
        Question {
            names,
            committed: self.clone(),
            found,
        }
    }

    /// Answers questions until the shutdown.
    ///
    /// # Errors
    /// When Kafka refuses for good.
    pub async fn run(
        self,
        kafka: KafkaOptions,
        group: String,
        shutdown: Shutdown,
    ) -> Result<(), ConsumerError> {
        let mut client = None;
        loop {
            let names: Vec<PartitionName> = {
                let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.keys().cloned().collect()
            };
            if names.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = shutdown.wait() => return Ok(()),
                }
            }
            let asked = match &client {
                Some(client) => Arc::clone(client),
                None => Arc::clone(client.insert(Arc::new(open(&kafka, &group)?))),
            };
            let looked = tokio::task::spawn_blocking(move || look(&asked, &names)).await;
            match looked.map_err(|_| ConsumerError::Ended("the look at committed offsets"))? {
                Ok(found) => drop(self.found.send_replace(Arc::new(found))),
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "committed offsets cannot be read yet");
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

impl Question {
    /// Waits for an answer that is newer than the question and the answer before.
    pub async fn answer(&mut self) -> Arc<Offsets> {
        // The sender lives as long as the question.
        drop(self.found.changed().await);
        Arc::clone(&self.found.borrow_and_update())
    }

    /// The partitions asked for.
    #[must_use]
    pub fn names(&self) -> &[PartitionName] {
        &self.names
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let asked = &self.committed.asked;
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            if let Some(count) = asked.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    asked.remove(name);
                }
            }
        }
    }
}

/// A client of the group that joins nothing and commits nothing.
fn open(kafka: &KafkaOptions, group: &str) -> Result<BaseConsumer, ConsumerError> {
    let mut config = client_config(kafka);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false");
    config
        .create()
        .map_err(|error| ConsumerError::kafka("making a kafka client", error))
}

fn look(client: &BaseConsumer, names: &[PartitionName]) -> KafkaResult<Offsets> {
    let committed = client.committed_offsets(list(names), REQUEST)?;
    Ok(committed
        .elements()
        .iter()
        .filter_map(|element| match element.offset() {
            Offset::Offset(offset) => {
                let name = PartitionName {
                    topic: element.topic().to_owned(),
                    partition: element.partition(),
                };
                Some((name, offset))
            }
            _ => None,
        })
        .collect())
}
