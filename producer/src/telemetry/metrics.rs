//! Metrics of the producer. Their names are a contract with dashboards.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use oplog_relay_core::entry::Operation;
use oplog_relay_core::position::Position;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::metrics::{register_build_info, registered};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};
use serde_json::{Value, json};

use crate::encode::chunk::Chunk;
use crate::telemetry::counters::{CopyCounters, LookupCounters, TransactionCounters, TurnMetrics};
use crate::telemetry::latency::{ChunkTimes, CommitTimes, Latency};
use crate::telemetry::names::opts;
use crate::telemetry::oplog_window::{KnownWindow, OplogGauges};
use crate::telemetry::progress::Progress;
use crate::telemetry::queue::QueuedBytes;

/// Buckets of the commit duration, in seconds.
const COMMIT_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];

/// The help text of the counter of entries.
const ENTRIES: &str =
    "Entries read from the source, by op: insert, update, delete, command or noop.";

/// The help text of the counter of failures. The kinds are those of `ProducerError::kind`.
const ERRORS: &str = "Failures, by kind: source, kafka, registry (the schema registry), \
    undecodable (an entry cannot be read), position_lost, fenced (by another instance, or by a \
    change of the position), usage (wrong configuration) or internal.";

/// The label of the metrics of several sources.
const SOURCE: &str = "source";

/// The metrics of one source. Shared by reference.
#[derive(Debug)]
pub struct Metrics {
    /// The registry behind `/metrics`.
    pub registry: Registry,
    entries: [IntCounter; 5],
    filtered: IntCounter,
    transactions: TransactionCounters,
    source_bytes: IntCounter,
    records: IntCounter,
    record_bytes: IntCounter,
    lag: Gauge,
    position: Gauge,
    commits: IntCounter,
    commit_seconds: Histogram,
    latency: Latency,
    queue_records: IntGauge,
    queue_bytes: IntGauge,
    errors: IntCounterVec,
    turns: TurnMetrics,
    copied: CopyCounters,
    lookups: LookupCounters,
    oplog: OplogGauges,
    /// Progress of a full sync.
    pub full_sync: Progress,
    committed: Mutex<Option<Position>>,
    /// The number of times that the position had been set back when the session began.
    moves: AtomicU32,
    /// Source time in milliseconds up to which everything is committed: the time of the last entry,
    /// or the time at which the producer was last caught up. 0 if unknown.
    known_until: AtomicI64,
    /// True if everything that the source had at the last read is committed.
    caught_up: AtomicBool,
    source_fails: AtomicBool,
}

/// The entries of all chunks that were handed to Kafka since the program started, including entries
/// without a record.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of the entries.
    pub bytes: u64,
}

/// Returns the counter of each operation.
fn by_operation(entries: &IntCounterVec) -> [IntCounter; 5] {
    Operation::ALL.map(|operation| entries.with_label_values(&[operation.name()]))
}

fn commit_histogram() -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::new(
        "oplog_producer_commit_seconds",
        "Time from the flush to the commit of a Kafka transaction.",
    );
    Histogram::with_opts(options.buckets(COMMIT_BUCKETS.to_vec()))
}

impl Metrics {
    /// Registers all metrics of a program with one source.
    ///
    /// # Errors
    /// [`prometheus::Error`] if a name is registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        Self::in_registry(Registry::new())
    }

    /// Registers all metrics of one of several sources, with its name as the label `source`.
    ///
    /// # Errors
    /// [`prometheus::Error`] if a name is registered twice.
    pub fn of_source(name: &str) -> Result<Self, prometheus::Error> {
        let label = HashMap::from([(SOURCE.to_owned(), name.to_owned())]);
        Self::in_registry(Registry::new_custom(None, Some(label))?)
    }

    fn in_registry(registry: Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            registered(&registry, IntCounter::with_opts(opts(name, help))?)
        };
        let gauge =
            |name: &str, help: &str| registered(&registry, Gauge::with_opts(opts(name, help))?);
        let int_gauge =
            |name: &str, help: &str| registered(&registry, IntGauge::with_opts(opts(name, help))?);
        register_build_info(&registry, "oplog_producer", env!("CARGO_PKG_VERSION"))?;
        let by = |label: &str, name: &str, help: &str| {
            registered(&registry, IntCounterVec::new(opts(name, help), &[label])?)
        };
        let metrics = Self {
            entries: by_operation(&by("op", "entries_total", ENTRIES)?),
            filtered: counter(
                "filtered_total",
                "Entries for which no record was written: excluded by the filter, omitted from \
                 topics for readers, or index builds that a full sync sends later.",
            )?,
            transactions: TransactionCounters::register(&registry)?,
            source_bytes: counter("source_bytes_total", "Bytes of the entries read.")?,
            records: counter(
                "records_total",
                "Records handed to Kafka, without barriers and their commands.",
            )?,
            record_bytes: counter(
                "record_bytes_total",
                "Bytes of keys, header values and values of records.",
            )?,
            lag: gauge(
                "source_lag_seconds",
                "Age of the last committed entry, or the time since the producer was last caught \
                 up; 0 while caught up, NaN if unknown.",
            )?,
            position: gauge(
                "position_timestamp_seconds",
                "Source time of the saved position.",
            )?,
            commits: counter("commits_total", "Kafka transactions committed.")?,
            commit_seconds: registered(&registry, commit_histogram()?)?,
            latency: Latency::register(&registry)?,
            queue_records: int_gauge("queue_records", "Records that wait for the broker.")?,
            queue_bytes: int_gauge("queue_bytes", "Encoded bytes that wait for the publisher.")?,
            turns: TurnMetrics::register(&registry)?,
            errors: by("kind", "errors_total", ERRORS)?,
            copied: CopyCounters::register(&registry)?,
            lookups: LookupCounters::register(&registry)?,
            oplog: OplogGauges::register(&registry)?,
            full_sync: Progress::default(),
            committed: Mutex::new(None),
            moves: AtomicU32::new(0),
            known_until: AtomicI64::new(0),
            caught_up: AtomicBool::new(false),
            source_fails: AtomicBool::new(false),
            registry,
        };
        metrics.refresh();
        Ok(metrics)
    }

    /// Counts a chunk that was handed to Kafka.
    pub fn sent(&self, chunk: &Chunk, in_flight: i32) {
        for (counter, count) in self.entries.iter().zip(chunk.counts.entries) {
            counter.inc_by(count);
        }
        self.filtered.inc_by(chunk.counts.filtered);
        self.transactions.add(chunk.counts.transactions);
        self.source_bytes.inc_by(chunk.counts.source_bytes);
        self.copied.documents.inc_by(chunk.counts.copied_documents);
        self.copied.bytes.inc_by(chunk.counts.copied_bytes);
        self.lookups.found.inc_by(chunk.counts.looked_up);
        self.lookups.gone.inc_by(chunk.counts.gone);
        self.lookups.found_before.inc_by(chunk.counts.found_before);
        self.lookups
            .missing_before
            .inc_by(chunk.counts.missing_before);
        self.records.inc_by(chunk.records.len() as u64);
        self.record_bytes.inc_by(chunk.arena.len() as u64);
        self.queue_records.set(in_flight.into());
    }

    /// Counts encoded bytes that wait for the publisher, until the result is dropped.
    #[must_use]
    pub fn queued(&self, bytes: usize) -> QueuedBytes {
        QueuedBytes::add(&self.queue_bytes, bytes)
    }

    /// Counts a Kafka transaction that was committed.
    pub fn committed(&self, position: Position, wall: i64, caught_up: bool, took: Duration) {
        self.commits.inc();
        // A commit waits for the delivery of all records.
        self.queue_records.set(0);
        self.commit_seconds.observe(took.as_secs_f64());
        self.position.set(f64::from(position.ts.seconds));
        // The time is unknown until the session has sent an entry.
        if wall > 0 {
            self.known_until.store(wall, Ordering::Relaxed);
        }
        if let Ok(mut committed) = self.committed.lock() {
            *committed = Some(position);
        }
        if caught_up && self.source_answers() {
            self.caught_up();
        } else {
            self.caught_up.store(false, Ordering::Relaxed);
            self.refresh();
        }
    }

    /// Records where the time of a committed transaction's chunks was spent.
    pub fn passed(&self, chunks: &[ChunkTimes], commit: &CommitTimes) {
        for chunk in chunks {
            self.latency.observe(chunk, commit);
        }
    }

    /// Notes that the source has no further entries and that everything is committed.
    pub fn caught_up(&self) {
        self.known_until.fetch_max(now_ms(), Ordering::Relaxed);
        self.caught_up.store(true, Ordering::Relaxed);
        self.refresh();
    }

    /// Notes that a session resumes from a saved position, if one exists.
    pub fn resumed(&self, saved: Option<Position>) {
        let Some(saved) = saved else {
            return;
        };
        self.position.set(f64::from(saved.ts.seconds));
        let until = i64::from(saved.ts.seconds) * 1000;
        self.known_until.fetch_max(until, Ordering::Relaxed);
        if let Ok(mut committed) = self.committed.lock() {
            *committed = Some(saved);
        }
        self.refresh();
    }

    /// Forgets the committed position, because another instance or an operator may have changed it.
    pub fn forget_position(&self) {
        if let Ok(mut committed) = self.committed.lock() {
            *committed = None;
        }
        self.position.set(f64::NAN);
        self.known_until.store(0, Ordering::Relaxed);
        self.caught_up.store(false, Ordering::Relaxed);
        self.refresh();
    }

    /// Notes how often an operator has set the position back before this session.
    pub fn know_moves(&self, moves: u32) {
        self.moves.store(moves, Ordering::Relaxed);
    }

    /// Returns how often an operator had set the position back before the last session.
    #[must_use]
    pub fn moves(&self) -> u32 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Notes that a session has ended, and with it the client whose records waited for the broker. Until
    /// the next one, it is unknown whether the source has further entries.
    pub fn interrupted(&self) {
        self.queue_records.set(0);
        self.caught_up.store(false, Ordering::Relaxed);
        self.refresh();
    }

    /// Sets whether reads of the source fail. While they fail, it is unknown whether the source has
    /// further entries. Each call with `true` counts an error.
    pub fn set_source_failing(&self, failing: bool) {
        self.source_fails.store(failing, Ordering::Relaxed);
        if failing {
            self.failed("source");
            self.caught_up.store(false, Ordering::Relaxed);
        }
    }

    /// Returns true unless the last read of the source failed.
    #[must_use]
    pub fn source_answers(&self) -> bool {
        !self.source_fails.load(Ordering::Relaxed)
    }

    /// Sets what is known about the source's oplog; `None` if it cannot be read.
    pub fn set_oplog_window(&self, known: Option<KnownWindow>) {
        self.oplog.set(known);
    }

    /// Recalculates the lag gauge for the current time.
    pub fn refresh(&self) {
        self.lag.set(self.lag_seconds().unwrap_or(f64::NAN));
    }

    /// Returns the number of Kafka transactions committed so far.
    #[must_use]
    pub fn commit_count(&self) -> u64 {
        self.commits.get()
    }

    /// Sets whether this instance follows the source.
    pub fn set_active(&self, active: bool) {
        self.turns.active.set(active.into());
    }

    /// Counts a session that was opened.
    pub fn session_opened(&self) {
        self.turns.sessions.inc();
    }

    /// Returns the number of sessions opened so far.
    #[must_use]
    pub fn session_count(&self) -> u64 {
        self.turns.sessions.get()
    }

    /// Counts a failure of a kind.
    pub fn failed(&self, kind: &str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    /// Returns the entries and bytes counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            entries: self.entries.iter().map(IntCounter::get).sum(),
            bytes: self.source_bytes.get(),
        }
    }

    /// Returns the saved position.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.committed.lock().ok().and_then(|committed| *committed)
    }

    /// Returns the age of the last committed entry in seconds, or the time since the producer was
    /// last caught up; 0 while it is caught up, `None` if unknown.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a lag in milliseconds is far below 2^52"
    )]
    pub fn lag_seconds(&self) -> Option<f64> {
        if self.caught_up.load(Ordering::Relaxed) {
            return Some(0.0);
        }
        let until = self.known_until.load(Ordering::Relaxed);
        (until > 0).then(|| (now_ms() - until).max(0) as f64 / 1000.0)
    }

    /// Returns the body of `/status`.
    #[must_use]
    pub fn status(&self, source: &str) -> Value {
        let Totals { entries, bytes } = self.totals();
        json!({
            "program": "oplog-producer",
            "version": env!("CARGO_PKG_VERSION"),
            "source": source,
            "position": self.position().map(|position| json!({
                "ts": position.ts.to_string(),
                "term": position.term,
                "ord": position.ord,
            })),
            "caught_up": self.caught_up.load(Ordering::Relaxed),
            "lag_seconds": self.lag_seconds(),
            "entries": entries,
            "source_bytes": bytes,
            "records": self.records.get(),
            "commits": self.commits.get(),
            "sessions": self.turns.sessions.get(),
            "full_sync": self.full_sync.status(),
            "oplog": self.oplog.status(),
        })
    }
}

#[cfg(test)]
mod tests;
