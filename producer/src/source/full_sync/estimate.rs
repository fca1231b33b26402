//! The duration of a full sync, estimated before it starts.

use std::time::{Duration, Instant};

use bson::doc;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::CopyKind;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, in_time};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::copies::Copy;
use super::listing::number;
use super::range::split;
use super::reader::SourceReader;
use super::{Options, window};
use crate::error::ProducerError;
use crate::position_lost::Gap;
use crate::source::Batch;

/// An oplog whose size is below this percentage of its maximum does not drop entries yet.
const FULL_PERCENT: u64 = 90;

/// The size of what is copied, and the expected throughput.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    documents: u64,
    bytes: u64,
    /// Number of bytes per second: the configured limit, or the rate of the first reads.
    rate: Option<u64>,
    /// The time that the oplog spans.
    window: Gap,
    /// Size of the oplog in percent of its maximum, if the server reports it.
    filled: Option<u64>,
}

impl Estimate {
    /// Estimates the size and the throughput of copies. The throughput is the configured rate
    /// limit, or is measured by a few reads of the largest collection.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub(super) async fn make<'c>(
        source: &SourceReader,
        copies: impl Iterator<Item = &'c Copy> + Clone,
        position: Position,
        options: Options,
    ) -> Result<Self, ProducerError> {
        let sizes = copies.clone().map(|copy| &copy.record);
        let (documents, bytes) = sizes.fold((0, 0), |(documents, bytes), record| {
            (
                documents + record.expected_documents,
                bytes + record.expected_bytes,
            )
        });
        let mut rate = options.rate;
        if rate.is_none() {
            let readable = copies.filter(|copy| copy.record.kind == CopyKind::Collection);
            let largest = readable.max_by_key(|copy| copy.record.expected_bytes);
            if let Some(largest) = largest.filter(|copy| copy.record.expected_bytes > 0) {
                rate = measured(source, largest, position.ts, options.readers).await?;
            }
        }
        Ok(Self {
            documents,
            bytes,
            rate,
            window: window(source.client(), position).await?,
            filled: filled(source).await,
        })
    }

    /// Returns the expected duration; `None` if the rate is unknown, or if the size is unknown or 0.
    fn takes(self) -> Option<Gap> {
        let seconds = self.bytes.div_ceil(self.rate?.max(1));
        (self.bytes > 0).then(|| Gap {
            seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        })
    }

    /// Returns true if the oplog will have dropped its current entries before the copy ends.
    fn outlives_window(self) -> bool {
        let is_full = self.filled.is_none_or(|percent| percent >= FULL_PERCENT);
        let takes = self.takes().map_or(0, |takes| takes.seconds);
        is_full && takes > self.window.seconds
    }

    /// Logs the estimate, and warns if the copy takes longer than the oplog window.
    pub(super) fn log(self, collections: usize, position: Position) {
        let takes = self.takes();
        let takes = takes.map_or_else(|| "unknown".to_owned(), |takes| takes.to_string());
        tracing::info!(
            collections,
            documents = self.documents,
            megabytes = self.bytes / 1_000_000,
            start = %position.ts,
            estimated_duration = takes,
            megabytes_per_second = self.rate.map_or(0, |rate| rate / 1_000_000),
            oplog_window = %self.window,
            "full sync planned; the tail runs at the same time"
        );
        if self.outlives_window() {
            tracing::warn!(
                estimated_duration = takes,
                oplog_window = %self.window,
                "the full sync will take longer than the oplog window. Nothing is lost while the \
                 tail keeps up (a warning is logged if it does not), but if the producer is down for \
                 longer than the window before the full sync ends, the position is lost. Enlarge the \
                 oplog, or read faster (--full-sync-readers, --full-sync-rate)"
            );
        }
    }
}

/// Measures the bytes per second of the first reads of a collection, with the concurrency of a full
/// sync.
async fn measured(
    source: &SourceReader,
    copy: &Copy,
    from: Timestamp,
    readers: usize,
) -> Result<Option<u64>, ProducerError> {
    let ns = &copy.record.ns;
    let smallest = source.smallest(ns, from).await?;
    let samples = source.sample(
        ns,
        from,
        u32::try_from(readers).expect("--full-sync-readers is at most 64"),
    );
    let ranges = split(&smallest, samples.await?, readers);
    let begun = Instant::now();
    let mut reads = JoinSet::new();
    for range in ranges.into_iter().take(readers) {
        let (source, ns, limit) = (source.clone(), ns.clone(), copy.limit);
        let read = async move {
            let query = range.query();
            source.documents(&ns, &query, None, limit, from).await
        };
        reads.spawn(read.in_current_span());
    }
    let mut bytes = 0;
    while let Some(read) = reads.join_next().await {
        let read = read.map_err(|_| ProducerError::Ended("a task of the full sync ended"))??;
        bytes += read.map_or(0, |reply| Batch::Reply(reply).size());
    }
    Ok(rate_of(bytes, begun.elapsed()))
}

fn rate_of(bytes: usize, took: Duration) -> Option<u64> {
    let micros = took.as_micros().max(1);
    let rate = u128::try_from(bytes).ok()? * 1_000_000 / micros;
    u64::try_from(rate).ok().filter(|rate| *rate > 0)
}

/// Returns the size of the oplog in percent of its maximum; `None` if the server does not report it.
async fn filled(source: &SourceReader) -> Option<u64> {
    let local = source.client().database("local");
    let stats = local.run_command(doc! { "collStats": "oplog.rs" });
    let stats = in_time(REPLY_LIMIT, stats).await.ok()?;
    let [size, most] = ["size", "maxSize"].map(|name| number(stats.get(name)));
    size.saturating_mul(100).checked_div(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(rate: Option<u64>, window: u32, filled: Option<u64>) -> Estimate {
        Estimate {
            documents: 5,
            bytes: 36_000_000,
            rate,
            window: Gap { seconds: window },
            filled,
        }
    }

    #[test]
    fn a_copy_that_takes_longer_than_the_oplog_window_is_reported() {
        let takes = |rate| estimate(rate, 0, None).takes().map(|takes| takes.seconds);
        assert_eq!(
            [takes(Some(10_000)), takes(Some(u64::MAX)), takes(None)],
            [Some(3600), Some(1), None]
        );
        let warned = |rate, window, filled| estimate(rate, window, filled).outlives_window();
        assert!(warned(Some(10_000), 3599, Some(95)) && warned(Some(10_000), 3599, None));
        assert!(!warned(Some(10_000), 3600, Some(95)));
        // The oplog has not lost anything yet, or the rate is unknown.
        assert!(!warned(Some(10_000), 10, Some(50)) && !warned(None, 10, Some(95)));
    }

    #[test]
    fn a_rate_is_in_bytes_per_second() {
        assert_eq!(
            rate_of(5_000_000, Duration::from_millis(250)),
            Some(20_000_000)
        );
        assert_eq!(rate_of(0, Duration::from_secs(1)), None);
    }
}
