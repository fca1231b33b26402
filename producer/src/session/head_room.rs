//! Watches how long the saved position stays in the source's oplog.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::mongo::{self, UNAUTHORIZED};
use oplog_relay_runtime::shutdown::Shutdown;

use crate::error::ProducerError;
use crate::oplog_window::{OplogWindow, WindowReading, WindowTrend};
use crate::position_lost::Gap;
use crate::source::origin::Origin;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::oplog_window::KnownWindow;

/// Interval between two readings.
const INTERVAL: Duration = Duration::from_secs(10);
/// Interval between two readings while no position is known.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two warnings while the position is in danger.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// The gauges while they are kept up to date. The end of the watch clears them: a dashboard would take
/// the last reading for a present one.
struct WatchedGauges(Arc<Metrics>);

impl Drop for WatchedGauges {
    fn drop(&mut self) {
        self.0.set_oplog_window(None);
    }
}

/// Reads the oplog window until the shutdown, sets the gauges, and warns while a position that is about
/// to be lost can still be kept.
pub(crate) async fn watch(origin: Arc<Origin>, metrics: Arc<Metrics>, shutdown: Shutdown) {
    // The caller aborts this task, so only a destructor is certain to run.
    let _gauges = WatchedGauges(Arc::clone(&metrics));
    let mut trend = WindowTrend::default();
    let mut warnings = Warnings::default();
    loop {
        let position = metrics.position().map(|position| position.ts);
        let Some(window) = shutdown.unless(origin.window(position)).await else {
            return;
        };
        if is_refused(&window) {
            // Each further attempt would be an entry in the server's log of refused requests.
            tracing::info!(
                "the source's user may not read the oplog, so the oplog window is unknown"
            );
            metrics.set_oplog_window(None);
            return shutdown.wait().await;
        }
        // The tail reports a source that fails; here the window is merely unknown.
        let window = window.unwrap_or_else(|error| {
            tracing::debug!(%error, "the oplog window is unknown");
            None
        });
        let known = window.map(|window| {
            if let Some(position) = position {
                let at = Instant::now();
                trend.take(WindowReading {
                    at,
                    window,
                    position,
                });
            }
            KnownWindow {
                window,
                position,
                lost_in: trend.lost_in(),
            }
        });
        metrics.set_oplog_window(known);
        if let Some(known) = known
            && let Some(position) = position
            && warnings.is_due(known.window, position, Instant::now())
        {
            warn(known, position);
        }
        let pause = if position.is_some() {
            INTERVAL
        } else {
            FIRST_INTERVAL
        };
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns true if the source's user may not read the oplog.
fn is_refused(window: &Result<Option<OplogWindow>, ProducerError>) -> bool {
    match window {
        Err(ProducerError::Source(error)) => mongo::error_code(error) == Some(UNAUTHORIZED),
        _ => false,
    }
}

/// What decides whether a warning is due.
#[derive(Debug, Default)]
struct Warnings {
    /// The oldest entry of the first reading.
    oldest: Option<Timestamp>,
    /// The time of the last warning, while the position is in danger.
    last: Option<Instant>,
}

impl Warnings {
    /// Returns true if a warning is due: when the position gets into danger, and again as long as it is.
    /// A position is in danger only if the oplog has lost entries since the first reading.
    fn is_due(&mut self, window: OplogWindow, position: Timestamp, now: Instant) -> bool {
        // An oplog that is not full yet loses nothing: its oldest entry stays.
        let loses_entries = window.oldest > *self.oldest.get_or_insert(window.oldest);
        if !loses_entries || !window.endangers(position) {
            self.last = None;
            return false;
        }
        let is_due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= WARN_AGAIN);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

fn warn(known: KnownWindow, position: Timestamp) {
    let KnownWindow {
        window, lost_in, ..
    } = known;
    let lost_in = lost_in.map(|left| Gap {
        seconds: u32::try_from(left.as_secs()).unwrap_or(u32::MAX),
    });
    tracing::warn!(
        %position,
        head_room = %Gap::between(window.oldest, position),
        oplog_window = %Gap::between(window.oldest, window.newest),
        lost_in = lost_in.map_or_else(|| "unknown".to_owned(), |left| left.to_string()),
        "the saved position will soon be gone from the source's oplog: less than a quarter of the oplog \
         window is left. Enlarge the oplog now (replSetResizeOplog, oplogMinRetentionHours), and find out \
         why the producer is behind"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_when_the_danger_begins_and_every_ten_minutes() {
        let begin = Instant::now();
        let window = |oldest| OplogWindow {
            oldest: Timestamp::new(oldest, 1),
            newest: Timestamp::new(1_400, 1),
        };
        let mut warnings = Warnings::default();
        let mut due = |oldest, position, second| {
            let now = begin + Duration::from_secs(second);
            warnings.is_due(window(oldest), Timestamp::new(position, 1), now)
        };
        assert!(!due(900, 901, 0), "nothing was lost yet");
        assert!(!due(900, 902, 700), "nothing was lost yet");
        assert!(!due(1_000, 1_100, 710));
        assert!(due(1_000, 1_099, 720));
        assert!(!due(1_000, 1_090, 730));
        assert!(due(1_000, 1_090, 1_320));
        assert!(!due(1_000, 1_200, 1_330));
        assert!(due(1_000, 1_050, 1_340), "the danger has begun again");
    }
}
