//! Progress for the operator: a live line on a terminal, otherwise a periodic log line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::status_line::StatusLine;

use crate::telemetry::metrics::{Metrics, Totals};

/// Interval between two updates of the live line.
const LIVE: Duration = Duration::from_millis(250);
/// Interval between two log lines.
const LOGGED: Duration = Duration::from_secs(5);

/// Shows progress until the shutdown. The progress of one of several sources is only logged, and only
/// while the source moves.
pub async fn show(metrics: Arc<Metrics>, source: String, is_alone: bool, shutdown: Shutdown) {
    let line = StatusLine::new(is_alone);
    let every = if line.is_visible() { LIVE } else { LOGGED };
    let mut before = Reading::of(&metrics);
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            () = tokio::time::sleep(every) => {}
        }
        let now = Reading::of(&metrics);
        let rate = Rate::between(before, now);
        let has_moved = now.totals.entries > before.totals.entries;
        before = now;
        let position = metrics
            .position()
            .map_or_else(|| "none".to_owned(), |p| p.ts.to_string());
        // The lag gauge grows with time, and no other task updates it while no session runs.
        metrics.refresh();
        let lag = metrics.lag_seconds();
        let bars = metrics.full_sync.lines();
        if !is_alone && !has_moved && bars.is_empty() {
            continue;
        }
        if line.is_visible() {
            line.update_lines(
                &bars,
                format!(
                    "{source}  {:.0} entries/s  {:.1} MB/s  lag {}  position {position}  {} entries",
                    rate.entries,
                    rate.bytes / 1e6,
                    lag.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s")),
                    now.totals.entries
                ),
            );
        } else {
            for bar in bars {
                tracing::info!(source, "{bar}");
            }
            tracing::info!(
                source,
                entries = now.totals.entries,
                entries_per_second = rate.entries.round(),
                megabytes_per_second = (rate.bytes / 1e5).round() / 10.0,
                lag_seconds = lag.map(|lag| (lag * 10.0).round() / 10.0),
                position,
                "progress"
            );
        }
    }
    line.finish();
}

/// The totals at a moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    totals: Totals,
    at: Instant,
}

impl Reading {
    fn of(metrics: &Metrics) -> Self {
        Self {
            totals: metrics.totals(),
            at: Instant::now(),
        }
    }
}

/// Entries and bytes per second.
struct Rate {
    entries: f64,
    bytes: f64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    fn between(before: Reading, now: Reading) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        Self {
            entries: per_second(before.totals.entries, now.totals.entries),
            bytes: per_second(before.totals.bytes, now.totals.bytes),
        }
    }
}
