//! The lag of a member behind what the producers have saved.
//!
//! Offsets show what is in the topics, but not how far the source was read: a producer that is
//! down, or a source whose changes the filter excludes, adds no records. The saved position shows
//! that. Everything up to a saved position is in the topics when the position can be read. If a
//! partition is committed up to a last stable offset that was read after a saved position, it is
//! therefore applied up to that position.

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

/// Interval between two reads of the saved positions.
const INTERVAL: Duration = Duration::from_secs(3);
/// Time to wait after reading the positions, so that the last stable offsets on the status board
/// are newer. The board is updated every second.
const SETTLING: Duration = Duration::from_secs(2);

/// The positions that the producers of a topic prefix have saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The time up to which everything is in the topics, by source.
    pub positions: BTreeMap<String, Timestamp>,
    /// The source of each topic, by topic.
    pub sources: FxHashMap<String, String>,
}

impl Saved {
    fn of_topic(&self, topic: &str) -> Option<Timestamp> {
        self.positions.get(self.sources.get(topic)?).copied()
    }
}

/// Progress of each assigned partition in the source's time.
#[derive(Debug, Default)]
pub struct Progress {
    saved: Saved,
    /// The time up to which everything is applied, by topic and partition. Only assigned partitions are
    /// included.
    applied: FxHashMap<(String, i32), Timestamp>,
}

impl Progress {
    /// Replaces the saved positions.
    pub fn save(&mut self, saved: Saved) {
        self.saved = saved;
    }

    /// Returns the saved positions.
    #[must_use]
    pub const fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Updates the progress of the partitions. Their last stable offsets must have been read after
    /// the saved positions.
    pub fn update(&mut self, partitions: &[PartitionStatus]) {
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

    /// Returns the lag of the member, or `None` while it is unknown.
    #[must_use]
    pub fn lag(&self, partitions: &[PartitionStatus]) -> Option<Lag> {
        let mut member = Lag {
            lag: 0,
            applied: self.saved.positions.values().min().copied()?,
        };
        for partition in partitions {
            let key = (partition.topic.clone(), partition.partition);
            let applied = self.applied.get(&key).copied()?;
            let saved = self.saved.of_topic(&partition.topic)?;
            let lag = saved.seconds.saturating_sub(applied.seconds);
            member.lag = member.lag.max(lag);
            member.applied = member.applied.min(applied);
        }
        Some(member)
    }
}

/// Reads the saved positions periodically and publishes them on the status board, until shutdown.
pub async fn follow(
    context: Arc<WorkerContext>,
    kafka: KafkaOptions,
    prefix: String,
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
            // The producer of this source has not written its first position yet.
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
    let sources = known.map(|known| (known.name, known.topic.source.clone()));
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

    fn expected(lag: u32, applied: u32) -> Option<Lag> {
        let applied = Timestamp::new(applied, 1);
        Some(Lag { lag, applied })
    }

    #[test]
    fn a_caught_up_partition_is_at_the_saved_position() {
        let mut progress = Progress::default();
        // The last record of the second partition is old.
        let partitions = [partition(0, 0, Some(95)), partition(1, 0, Some(7))];
        progress.update(&partitions);
        assert_eq!(progress.lag(&partitions), None, "nothing is saved");
        progress.save(saved(100));
        progress.update(&partitions);
        assert_eq!(progress.lag(&partitions), expected(0, 100));
        // The producer continues, but the filter excludes all changes.
        progress.save(saved(200));
        assert_eq!(progress.lag(&partitions), expected(100, 100));
        progress.update(&partitions);
        assert_eq!(progress.lag(&partitions), expected(0, 200));
        assert_eq!(progress.lag(&[]), expected(0, 200));
    }

    #[test]
    fn a_partition_behind_its_end_is_at_its_last_known_progress() {
        let mut progress = Progress::default();
        progress.save(saved(100));
        progress.update(&[partition(0, 0, Some(7)), partition(1, 0, None)]);
        progress.save(saved(190));
        let behind = [partition(0, 3, Some(7)), partition(1, 5, Some(150))];
        progress.update(&behind);
        assert_eq!(progress.lag(&behind), expected(90, 100));
        // The partitions are slightly behind their ends, but have applied recent entries.
        let busy = [partition(0, 3, Some(191)), partition(1, 5, Some(192))];
        progress.update(&busy);
        assert_eq!(progress.lag(&busy), expected(0, 190));
    }

    #[test]
    fn an_unknown_lag_is_not_reported() {
        let mut progress = Progress::default();
        progress.save(saved(100));
        let new = [partition(0, 3, None)];
        progress.update(&new);
        assert_eq!(progress.lag(&new), None);
        let mut foreign = partition(0, 0, Some(90));
        foreign.topic = "cdc.a.c".to_owned();
        progress.update(std::slice::from_ref(&foreign));
        assert_eq!(progress.lag(&[foreign]), None);
    }
}
