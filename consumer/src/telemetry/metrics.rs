//! The metrics of the consumer. Dashboards depend on the names, which are constants here.

use std::sync::atomic::{AtomicI64, Ordering};

use oplog_relay_core::entry::Operation;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::metrics::{register_build_info, registered};
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

use oplog_relay_core::position::Timestamp;

use crate::dead_letter::Reason;
use crate::worker::batch::Located;

const PREFIX: &str = "oplog_consumer";

use crate::telemetry::latency::Latency;

/// The lag of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Seconds in the source's time between what is saved and what is applied.
    pub lag: u32,
    /// The source time up to which everything is applied.
    pub applied: Timestamp,
}

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    /// The registry of all metrics, for `/metrics`.
    pub registry: Registry,
    entries: [IntCounter; Operation::ALL.len()],
    /// Number of entries that the namespace filter excluded.
    pub filtered: IntCounter,
    /// Number of skipped entries of collections that have been dropped since.
    pub dropped_entries: IntCounter,
    /// Number of documents that an index refused temporarily.
    pub held_documents: IntCounter,
    /// Number of held documents that the index accepted later.
    pub released_documents: IntCounter,
    /// Bytes of the values of the records that were read.
    pub bytes: IntCounter,
    lag: Gauge,
    source_lag: Gauge,
    position: Gauge,
    /// Number of commits that Kafka confirmed.
    pub commits: IntCounter,
    /// Time from sending a commit to its confirmation.
    pub commit_seconds: Histogram,
    /// Number of commands and names of the catalog that are held in memory.
    catalog_held: IntGauge,
    /// Bytes between the poll thread and the sink.
    pub queue_bytes: IntGauge,
    /// Number of partitions assigned to this member.
    pub partitions: IntGauge,
    errors: IntCounterVec,
    dead_letters: IntCounterVec,
    /// Number of updates that matched no document.
    pub unmatched_updates: IntCounter,
    /// Number of inserts of documents that already existed. Those that differ are replaced.
    pub duplicate_inserts: IntCounter,
    /// Number of documents that were read, changed and replaced.
    pub rewritten_documents: IntCounter,
    /// Documents that got another shard key on a sharded target.
    pub moved_documents: IntCounter,
    /// Number of entries that a later entry of the same batch made superfluous.
    pub folded: IntCounter,
    /// Time that applying a batch takes.
    pub apply_seconds: Histogram,
    /// The latency of entries, by part.
    pub latency: Latency,
    /// Source time of the last entry applied, milliseconds since 1970; 0 before the first.
    applied_ms: AtomicI64,
}

impl Metrics {
    /// Creates and registers all metrics.
    ///
    /// # Errors
    /// Returns an error if a name is registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        register_build_info(&registry, PREFIX, env!("CARGO_PKG_VERSION"))?;
        let int_gauge =
            |name: &str, help: &str| registered(&registry, IntGauge::with_opts(opts(name, help))?);
        let histogram = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let opts =
                HistogramOpts::from(opts(name, help)).buckets(exponential_buckets(0.001, 2.0, 16)?);
            registered(&registry, Histogram::with_opts(opts)?)
        };
        let by = |label: &str, name: &str, help: &str| {
            registered(&registry, IntCounterVec::new(opts(name, help), &[label])?)
        };
        let by_operation = by("op", "entries_total", ENTRIES)?;
        let errors = by("kind", "errors_total", ERRORS)?;
        let dead_letters = by("reason", "dead_letters_total", DEAD_LETTERS)?;
        let [
            filtered,
            dropped_entries,
            held_documents,
            released_documents,
            bytes,
            commits,
            unmatched_updates,
            duplicate_inserts,
            rewritten_documents,
            moved_documents,
            folded,
        ] = all(&registry, &COUNTERS, IntCounter::with_opts)?;
        let [lag, source_lag, position] = all(&registry, &TIMES, Gauge::with_opts)?;
        Ok(Self {
            entries: Operation::ALL
                .map(|operation| by_operation.with_label_values(&[operation.name()])),
            filtered,
            dropped_entries,
            held_documents,
            released_documents,
            bytes,
            lag,
            source_lag,
            position,
            commits,
            commit_seconds: histogram("commit_seconds", "Time from a commit to its confirmation.")?,
            catalog_held: int_gauge(
                "catalog_held",
                "Commands and names of the catalog that are held in memory.",
            )?,
            queue_bytes: int_gauge("queue_bytes", "Bytes read and not yet applied.")?,
            partitions: int_gauge("assigned_partitions", "Partitions assigned to this member.")?,
            errors,
            dead_letters,
            unmatched_updates,
            duplicate_inserts,
            rewritten_documents,
            moved_documents,
            folded,
            apply_seconds: histogram("apply_seconds", "Time that applying a batch takes.")?,
            latency: Latency::register(&registry)?,
            applied_ms: AtomicI64::new(0),
            registry,
        })
    }

    /// Sets the number of commands and names of the catalog that are held in memory.
    pub fn set_catalog_held(&self, count: usize) {
        self.catalog_held
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts applied entries.
    pub fn count(&self, entries: &[Located<'_>]) {
        let mut counts = [0_u64; Operation::ALL.len()];
        for located in entries {
            if let Some(count) = counts.get_mut(located.entry.operation.index()) {
                *count += 1;
            }
        }
        for (operation, count) in Operation::ALL.into_iter().zip(counts) {
            self.count_entries(operation, count);
        }
        if let Some(last) = entries.last() {
            self.applied(last.entry.ts.clamp_wall(last.entry.wall));
        }
    }

    /// Counts applied entries of one operation.
    pub fn count_entries(&self, operation: Operation, count: u64) {
        if let Some(counter) = self.entries.get(operation.index()) {
            counter.inc_by(count);
        }
    }

    /// Returns the number of entries applied so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.iter().map(IntCounter::get).sum()
    }

    /// Counts an error.
    pub fn count_error(&self, kind: &str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    /// Counts a dead letter.
    pub fn count_dead_letter(&self, reason: Reason) {
        self.dead_letters.with_label_values(&[reason.word()]).inc();
    }

    /// Returns the number of dead letters written so far.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        Reason::ALL
            .iter()
            .map(|reason| self.dead_letters.with_label_values(&[reason.word()]).get())
            .sum()
    }

    /// Records that an entry with this source time was applied.
    pub fn applied(&self, source_ms: i64) {
        self.applied_ms.fetch_max(source_ms, Ordering::Relaxed);
        self.position
            .set(seconds(self.applied_ms.load(Ordering::Relaxed)));
    }

    /// Sets the lag behind the positions that the producers have saved.
    pub fn set_lag_behind_saved(&self, lag: Lag) {
        self.applied(i64::from(lag.applied.seconds) * 1000);
        self.lag.set(f64::from(lag.lag));
        self.set_source_lag();
    }

    /// Shows that the lag is unknown.
    pub fn set_lag_unknown(&self) {
        self.lag.set(f64::NAN);
        self.set_source_lag();
    }

    /// Sets the age of the last applied entry, which is unknown before the first one.
    fn set_source_lag(&self) {
        let age = match self.applied_ms.load(Ordering::Relaxed) {
            0 => f64::NAN,
            applied => seconds(now_ms().saturating_sub(applied).max(0)),
        };
        self.source_lag.set(age);
    }

    /// Sets the lag to the age of the last applied entry and returns it; `None` before the first
    /// entry. If nothing is left to apply (`caught_up`), the lag is 0.
    pub fn set_lag(&self, caught_up: bool) -> Option<f64> {
        let applied = self.applied_ms.load(Ordering::Relaxed);
        let lag = match (caught_up, applied) {
            (true, _) => Some(0.0),
            (false, 0) => None,
            (false, applied) => Some(seconds(now_ms().saturating_sub(applied)).max(0.0)),
        };
        self.lag.set(lag.unwrap_or(f64::NAN));
        self.set_source_lag();
        lag
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of this millennium fit in 53 bits"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The help text of the counter of entries.
const ENTRIES: &str = "Entries applied, by op: insert, update, delete, command or noop.";

/// The help text of the counter of errors. The kinds that end the program are those of
/// `ConsumerError::kind`.
const ERRORS: &str = "Errors, by kind. Those that are retried or passed over: kafka, commit (of \
    offsets), target, write_concern, dead_letter, and fragment (an incomplete record was \
    discarded). Those that end the program: usage, undecodable, unplayable (an entry cannot be \
    applied), refused, offsets_lost, kafka, target, output and internal.";

/// The help text of the counter of dead letters.
const DEAD_LETTERS: &str =
    "Dead letters written, by reason: undecodable, command, write, unmatched or unrepeatable.";

/// Names and help texts of the gauges of source time.
const TIMES: [(&str, &str); 3] = [
    (
        "lag_seconds",
        "Source time between what the producers have saved and what is applied; NaN if unknown.",
    ),
    (
        "source_lag_seconds",
        "Age of the source time up to which everything is applied; NaN before the first entry.",
    ),
    (
        "position_timestamp_seconds",
        "Source time of the last entry applied, or up to which everything is applied.",
    ),
];

/// Names and help texts of the plain counters.
const COUNTERS: [(&str, &str); 11] = [
    (
        "filtered_total",
        "Entries that the namespace filter excluded.",
    ),
    (
        "dropped_collection_entries_total",
        "Skipped entries of collections that have been dropped since.",
    ),
    (
        "held_documents_total",
        "Documents that an index of the target refused temporarily.",
    ),
    (
        "released_documents_total",
        "Held documents that the target accepted later.",
    ),
    ("bytes_total", "Bytes of the values of the records read."),
    ("commits_total", "Offset commits that Kafka confirmed."),
    (
        "unmatched_updates_total",
        "Updates that matched no document.",
    ),
    (
        "duplicate_inserts_total",
        "Inserts of documents that already existed; those that differed were replaced.",
    ),
    (
        "rewritten_documents_total",
        "Documents that were read, changed and replaced.",
    ),
    (
        "moved_documents_total",
        "Documents that got another shard key on a sharded target.",
    ),
    (
        "folded_total",
        "Entries that a later entry made superfluous.",
    ),
];

/// Creates and registers one metric for each name and help text.
fn all<M: Collector + Clone + 'static, const N: usize>(
    registry: &Registry,
    definitions: &[(&str, &str); N],
    make: impl Fn(Opts) -> Result<M, prometheus::Error>,
) -> Result<[M; N], prometheus::Error> {
    let metrics: Vec<M> = definitions
        .iter()
        .map(|(name, help)| registered(registry, make(opts(name, help))?))
        .collect::<Result<_, _>>()?;
    metrics
        .try_into()
        .map_err(|_| prometheus::Error::Msg("a metric is missing".to_owned()))
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_the_last_entry_grows_while_the_lag_is_unknown() {
        let metrics = Metrics::new().unwrap();
        metrics.set_lag_unknown();
        assert!(metrics.source_lag.get().is_nan());
        metrics.applied(now_ms() - 10_000);
        metrics.set_lag_unknown();
        assert!(metrics.source_lag.get() >= 10.0);
        metrics.applied(now_ms() - 5_000);
        metrics.set_lag(false);
        let age = metrics.source_lag.get();
        assert!((5.0..10.0).contains(&age), "{age}");
    }
}
