//! The status display: `/status`, the live line on a terminal, and periodic log lines elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::status_line::StatusLine;
use serde::Serialize;
use serde_json::{Value, json};

use crate::telemetry::lag::{Progress, Saved};
use crate::telemetry::metrics::Metrics;

/// Interval between progress log lines where the output is not a terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between updates of the live line.
const LINE_INTERVAL: Duration = Duration::from_millis(500);

/// The status of one assigned partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that the group has committed.
    pub committed: Option<i64>,
    /// The offset of the next record to read.
    pub position: Option<i64>,
    /// The last stable offset: the end that a `read_committed` reader sees.
    pub end: Option<i64>,
    /// Number of offsets between `committed` and `end`.
    pub lag: Option<i64>,
    /// The position of the last entry applied: `<seconds>:<increment>`.
    pub ts: Option<String>,
}

/// The assigned partitions as of the last statistics. Clones refer to the same board.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    partitions: Vec<PartitionStatus>,
    progress: Progress,
}

impl Board {
    /// Replaces the status of the partitions.
    pub fn put(&self, partitions: Vec<PartitionStatus>) {
        let mut shown = self.lock();
        shown.progress.update(&partitions);
        shown.partitions = partitions;
    }

    /// Replaces the positions that the producers have saved.
    pub fn save(&self, saved: Saved) {
        self.lock().progress.save(saved);
    }

    /// Returns the lag in seconds, and sets the metrics to it; `None` while the lag is unknown. The
    /// lag is the source time between what the producers have saved and what is applied. Before the
    /// first saved position is known, it is the age of the last entry applied, or 0 if nothing is
    /// left to apply.
    pub fn lag_seconds(&self, metrics: &Metrics) -> Option<f64> {
        let shown = self.lock();
        let lag = shown.progress.lag(&shown.partitions);
        let is_known = !shown.progress.saved().positions.is_empty();
        drop(shown);
        match lag {
            Some(lag) => {
                metrics.set_lag_behind_saved(lag);
                Some(f64::from(lag.lag))
            }
            None if is_known => {
                metrics.set_lag_unknown();
                None
            }
            None => metrics.set_lag(self.is_caught_up()),
        }
    }

    /// Returns the sum of all lags, in offsets; `None` while one of them is unknown.
    #[must_use]
    pub fn lag(&self) -> Option<i64> {
        let shown = self.lock();
        shown.partitions.iter().map(|partition| partition.lag).sum()
    }

    /// Returns true if every assigned partition is known to be committed up to its end.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.lag() == Some(0)
    }

    /// Returns the response body of `/status`.
    #[must_use]
    pub fn json(&self, group: &str, metrics: &Metrics) -> Value {
        let lag_seconds = self.lag_seconds(metrics);
        let lag_offsets = self.lag();
        let shown = self.lock();
        let saved = shown.progress.saved().positions.iter();
        let saved = saved.map(|(source, ts)| (source.clone(), json!(ts.to_string())));
        json!({
            "program": "oplog-consumer",
            "version": env!("CARGO_PKG_VERSION"),
            "group": group,
            "lag_seconds": lag_seconds,
            "lag_offsets": lag_offsets,
            "entries": metrics.entries(),
            "bytes": metrics.bytes.get(),
            "queue_bytes": metrics.queue_bytes.get(),
            "unmatched_updates": metrics.unmatched_updates.get(),
            "dead_letters": metrics.dead_letters(),
            "duplicate_inserts": metrics.duplicate_inserts.get(),
            "positions": saved.collect::<serde_json::Map<_, _>>(),
            "partitions": shown.partitions,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the progress until shutdown: as a live line on a terminal, otherwise as a log line every
/// few seconds while entries are applied, or while the lag is unknown or not 0.
pub async fn show(metrics: Arc<Metrics>, board: Board, visible: bool, shutdown: Shutdown) {
    let line = StatusLine::new(visible);
    let interval = if line.is_visible() {
        LINE_INTERVAL
    } else {
        LOG_INTERVAL
    };
    let mut before = (metrics.entries(), metrics.bytes.get(), Instant::now());
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let now = (metrics.entries(), metrics.bytes.get(), Instant::now());
        let elapsed = now.2.duration_since(before.2).as_secs_f64().max(0.001);
        let rate = ratio(now.0 - before.0, elapsed);
        let megabytes = ratio(now.1 - before.1, elapsed) / 1e6;
        let lag_s = board.lag_seconds(&metrics);
        if line.is_visible() {
            let lag = lag_s.map_or_else(|| "?".to_owned(), |lag| format!("{lag:.1} s"));
            line.update(format!(
                "{} entries · {rate:.0}/s · {megabytes:.1} MB/s · lag {lag}, {} offsets",
                now.0,
                board
                    .lag()
                    .map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            ));
        } else if now.0 != before.0 || lag_s != Some(0.0) {
            tracing::info!(
                entries = now.0,
                entries_per_s = rate.round(),
                mb_per_s = (megabytes * 10.0).round() / 10.0,
                lag_s,
                lag_offsets = board.lag(),
                "progress"
            );
        }
        before = now;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn ratio(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_known_if_the_lag_of_every_partition_is_known() {
        let board = Board::default();
        assert_eq!(board.lag(), Some(0));
        let partition = |lag| PartitionStatus {
            topic: "t".into(),
            partition: 0,
            committed: None,
            position: None,
            end: None,
            lag,
            ts: None,
        };
        board.put(vec![partition(Some(3)), partition(Some(0))]);
        assert_eq!(board.lag(), Some(3));
        board.put(vec![partition(Some(3)), partition(None)]);
        assert_eq!(board.lag(), None);
        assert!(!board.is_caught_up());
    }
}
