//! Progress for the operator: a live line on a terminal, otherwise a periodic log line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::status_line::StatusLine;

use crate::telemetry::metrics::Metrics;

/// Interval between two updates of the live line.
const LIVE: Duration = Duration::from_millis(250);
/// Interval between two log lines.
const LOGGED: Duration = Duration::from_secs(5);

/// Shows progress until the shutdown.
pub async fn show(metrics: Arc<Metrics>, source: String, shutdown: Shutdown) {
    let line = StatusLine::new(true);
    let every = if line.is_visible() { LIVE } else { LOGGED };
    let mut before = (metrics.totals(), Instant::now());
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            () = tokio::time::sleep(every) => {}
        }
        let now = (metrics.totals(), Instant::now());
        let rate = Rate::between(before, now);
        before = now;
        let position = metrics
            .position()
            .map_or_else(|| "none".to_owned(), |p| p.ts.to_string());
        // The lag gauge grows with time, and no other task updates it while no session runs.
        metrics.refresh();
        let lag = metrics.lag_seconds();
        let bars = metrics.full_sync.lines();
        if line.is_visible() {
            line.update_lines(
                &bars,
                format!(
                    "{source}  {:.0} entries/s  {:.1} MB/s  lag {}  position {position}  {} entries",
                    rate.entries,
                    rate.bytes / 1e6,
                    lag.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s")),
                    now.0.0
                ),
            );
        } else {
            for bar in bars {
                tracing::info!(source, "{bar}");
            }
            tracing::info!(
                source,
                entries = now.0.0,
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

struct Rate {
    entries: f64,
    bytes: f64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
    fn between(
        ((entries, bytes), then): ((u64, u64), Instant),
        ((more_entries, more_bytes), now): ((u64, u64), Instant),
    ) -> Self {
        let seconds = now.duration_since(then).as_secs_f64().max(0.001);
        Self {
            entries: more_entries.saturating_sub(entries) as f64 / seconds,
            bytes: more_bytes.saturating_sub(bytes) as f64 / seconds,
        }
    }
}
