//! Detection of stages before the publisher that no longer respond.
//!
//! A live source without new entries reports that every second, and the encoder passes the report
//! on. If a read of the source or a request of the encoder gets no response, no event arrives,
//! although the publisher's loop runs.

use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;

use super::PublishLoop;
use crate::telemetry::metrics::Metrics;

/// The time since the last event of the source or the encoder.
#[derive(Debug)]
pub(crate) struct Silence {
    limit: Duration,
    last_event: Instant,
    is_reported: bool,
}

impl Silence {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            last_event: Instant::now(),
            is_reported: false,
        }
    }

    /// Notes that an event arrived.
    pub(crate) fn end(&mut self, metrics: &Metrics) {
        self.last_event = Instant::now();
        if std::mem::take(&mut self.is_reported) {
            metrics.set_source_failing(false);
        }
    }

    /// Checks the time since the last event. After the limit the program is not ready and does not
    /// count as caught up.
    pub(crate) fn check(&mut self, metrics: &Metrics, health: &Health) {
        let since = self.last_event.elapsed();
        if since < self.limit || std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let reason = format!(
            "no event from the source for {} s, not even a report that it has no new entries: a \
             read of the source, or a request of the encoder, gets no answer",
            since.as_secs()
        );
        tracing::warn!("{reason}");
        metrics.set_source_failing(true);
        health.set_ready(false, &reason);
    }
}

impl PublishLoop<'_> {
    /// Enables the detection for a live source. A dump on standard input may be silent at any time.
    #[must_use]
    pub fn listening(mut self, is_live: bool) -> Self {
        self.silence = is_live.then(|| Silence::new(self.health.limit()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_source_makes_the_program_unready_until_the_next_event() {
        let (metrics, health) = (Metrics::new().unwrap(), Health::default());
        health.set_ready(true, "");
        metrics.caught_up();
        let mut silence = Silence::new(Duration::from_secs(3600));
        silence.check(&metrics, &health);
        assert_eq!(health.ready(), Ok(()));
        silence.limit = Duration::ZERO;
        silence.check(&metrics, &health);
        assert!(health.ready().unwrap_err().contains("no answer"));
        assert!(!metrics.source_answers());
        assert_eq!(metrics.status("rs0")["caught_up"], false);
        silence.end(&metrics);
        assert!(metrics.source_answers());
    }
}
