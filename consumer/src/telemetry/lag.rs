//! How far a member is behind what the producers have saved.
//!
//! Offsets tell what is in the topics, not how far the source was read: a producer that is down, or
//! a source of which all is filtered, adds no record. The saved position tells. Everything up to it
//! is in the topics when it can be read, so a partition that is committed to an end that was read
//! after a position is applied up to that position.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::PositionRecord;
use oplog_relay_core::topic::position_topic;
use oplog_relay_runtime::kafka::{KafkaFailure, KafkaOptions, Reader};
use oplog_relay_runtime::shutdown::Shutdown;
use rustc_hash::FxHashMap;

use crate::telemetry::metrics::Lag;
use crate::telemetry::status::{Board, PartitionStatus};
use crate::worker::WorkerContext;

/// How often the positions are read.
const INTERVAL: Duration = Duration::from_secs(3);
/// After that time the ends on the board were read after a position: they come each second.
const SETTLING: Duration = Duration::from_secs(2);

/// What the producers of a prefix have saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// By source: the time up to which everything is in the topics.
    pub positions: BTreeMap<String, Timestamp>,
    /// The source of each topic.
    pub sources: FxHashMap<String, String>,
}

impl Saved {
    fn of_topic(&self, topic: &str) -> Option<Timestamp> {
        self.positions.get(self.sources.get(topic)?).copied()
    }
}

/// How far each assigned partition is in the source's time.
#[derive(Debug, Default)]
pub struct Progress {
    saved: Saved,
    /// By topic and partition, of those that are assigned.
    applied: FxHashMap<(String, i32), Timestamp>,
}

impl Progress {
    /// Takes in what is saved.
    pub fn save(&mut self, saved: Saved) {
        self.saved = saved;
    }

    /// What is saved.
    #[must_use]
    pub const fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Takes in where the partitions stand, with ends that were read after what is saved.
    pub fn look(&mut self, partitions: &[PartitionStatus]) {
        let mut applied = FxHashMap::default();
        for partition in partitions {
            let key = (partition.topic.clone(), partition.partition);
            let before = self.applied.get(&key).copied();
            let last = partition.ts.as_deref().and_then(|ts| ts.parse().ok());
            let end = self.saved.of_topic(&partition.topic);
            let end = end.filter(|_| partition.lag == Some(0));
            if let Some(reached) = before.max(last).max(end) {
                applied.insert(key, reached);
            }
        }
        self.applied = applied;
    }

    /// Where the member stands; `None` while that is not known.
    #[must_use]
    pub fn standing(&self, partitions: &[PartitionStatus]) -> Option<Lag> {
        let mut standing = Lag {
            lag: 0,
            applied: self.saved.positions.values().min().copied()?,
        };
        for partition in partitions {
            let key = (partition.topic.clone(), partition.partition);
            let applied = self.applied.get(&key).copied()?;
            let saved = self.saved.of_topic(&partition.topic)?;
            let lag = saved.seconds.saturating_sub(applied.seconds);
            standing.lag = standing.lag.max(lag);
            standing.applied = standing.applied.min(applied);
        }
        Some(standing)
    }
}

/// Reads the positions and puts them on the board, until shutdown.
pub async fn follow(
    context: Arc<WorkerContext>,
    (kafka, prefix): (KafkaOptions, String),
    board: Board,
    shutdown: Shutdown,
) {
    let reader = Reader::new(&kafka);
    loop {
        let saved = read(&context, &reader, &prefix).await;
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(SETTLING) => {}
        }
        match saved {
            Ok(saved) => board.save(saved),
            Err(error) => tracing::debug!(%error, "the producers' positions cannot be read yet"),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(INTERVAL.saturating_sub(SETTLING)) => {}
        }
    }
}

async fn read(
    context: &WorkerContext,
    reader: &Reader,
    prefix: &str,
) -> Result<Saved, KafkaFailure> {
    let mut positions = BTreeMap::new();
    for source in context.topics.sources().await? {
        let topic = position_topic(prefix, &source);
        let last = match reader.read_last_committed(&topic).await {
            // Its producer is about to begin.
            Err(KafkaFailure::UnknownTopic(_)) => continue,
            last => last?,
        };
        let value = last.and_then(|last| last.value).unwrap_or_default();
        let record = serde_json::from_slice::<PositionRecord>(&value).ok();
        if let Some(done) = record.and_then(|record| record.done().ok()) {
            positions.insert(source, done);
        }
    }
    let known = context.topics.known().into_iter();
    let sources = known.map(|(name, topic)| (name, topic.source.clone()));
    Ok(Saved {
        positions,
        sources: sources.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32, lag: i64, ts: Option<u32>) -> PartitionStatus {
        PartitionStatus {
            topic: "cdc.a.b".to_owned(),
            partition: number,
            committed: None,
            position: None,
            end: None,
            lag: Some(lag),
            ts: ts.map(|seconds| format!("{seconds}:1")),
        }
    }

    fn saved(seconds: u32) -> Saved {
        let source = "rs0".to_owned();
        Saved {
            positions: [(source.clone(), Timestamp::new(seconds, 1))].into(),
            sources: [("cdc.a.b".to_owned(), source)].into_iter().collect(),
        }
    }

    fn standing(lag: u32, applied: u32) -> Option<Lag> {
        let applied = Timestamp::new(applied, 1);
        Some(Lag { lag, applied })
    }

    #[test]
    fn a_partition_without_records_is_where_the_producer_is() {
        let mut progress = Progress::default();
        // The second one got its last record long ago.
        let partitions = [partition(0, 0, Some(95)), partition(1, 0, Some(7))];
        progress.look(&partitions);
        assert_eq!(progress.standing(&partitions), None, "nothing is saved");
        progress.save(saved(100));
        progress.look(&partitions);
        assert_eq!(progress.standing(&partitions), standing(0, 100));
        // The producer goes on, all is filtered.
        progress.save(saved(200));
        assert_eq!(progress.standing(&partitions), standing(100, 100));
        progress.look(&partitions);
        assert_eq!(progress.standing(&partitions), standing(0, 200));
        assert_eq!(progress.standing(&[]), standing(0, 200));
    }

    #[test]
    fn a_partition_with_records_is_where_it_was_or_what_it_applied() {
        let mut progress = Progress::default();
        progress.save(saved(100));
        progress.look(&[partition(0, 0, Some(7)), partition(1, 0, None)]);
        progress.save(saved(190));
        let behind = [partition(0, 3, Some(7)), partition(1, 5, Some(150))];
        progress.look(&behind);
        assert_eq!(progress.standing(&behind), standing(90, 100));
        // Each commits a little late, and is no less at the end.
        let busy = [partition(0, 3, Some(191)), partition(1, 5, Some(192))];
        progress.look(&busy);
        assert_eq!(progress.standing(&busy), standing(0, 190));
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut progress = Progress::default();
        progress.save(saved(100));
        let new = [partition(0, 3, None)];
        progress.look(&new);
        assert_eq!(progress.standing(&new), None);
        let mut foreign = partition(0, 0, Some(90));
        foreign.topic = "cdc.a.c".to_owned();
        progress.look(std::slice::from_ref(&foreign));
        assert_eq!(progress.standing(&[foreign]), None);
    }
}
