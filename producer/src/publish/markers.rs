//! The pause between a commit and the next transaction.
//!
//! A coordinator acknowledges a commit before it has written the transaction's markers to the
//! partitions. Until it has, it refuses to add partitions to the next transaction, and librdkafka
//! repeats the refused request after a fixed 20 ms (2.12, `rd_kafka_txn_handle_AddPartitionsToTxn`).
//! So the next transaction begins a few milliseconds after the commit.
//!
//! The client does not report the refusal, but the first record is then delivered 20 ms later than
//! usual. The usual time is that of the position at the end of the same transaction: its partition has
//! to be added as well, and at that time no markers are being written. The pause is lengthened by a step
//! after each late delivery, and shortened by a small part of a step after any other.

use std::time::{Duration, Instant};

/// The pause of a new producer.
const FIRST: Duration = Duration::from_millis(3);
/// Bounds of the pause. A longer one would cost more than the refused request.
const LEAST: Duration = Duration::from_micros(500);
const MOST: Duration = Duration::from_millis(12);
/// Change of the pause after a delivery that was late, and after one that was not.
const LONGER: Duration = Duration::from_millis(1);
const SHORTER: Duration = Duration::from_micros(10);
/// Time by which a delivery after a refused request is later than that of a position.
const LATE: Duration = Duration::from_millis(17);
/// The usual time is a moving average, in which the last position has the weight 1/`SMOOTHING`.
const SMOOTHING: u32 = 8;

/// The pause, adjusted to the time that the cluster needs for markers.
#[derive(Debug, Clone)]
pub(crate) struct MarkerWait {
    wait: Duration,
    /// Usual time until a position is delivered; `None` before the first one.
    usual: Option<Duration>,
    committed: Option<Instant>,
    /// True if the first delivery of the open transaction was noted.
    is_noted: bool,
}

impl Default for MarkerWait {
    fn default() -> Self {
        Self {
            wait: FIRST,
            usual: None,
            committed: None,
            is_noted: false,
        }
    }
}

impl MarkerWait {
    /// Returns how long the next transaction still has to wait.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let since = self
            .committed
            .map(|committed| now.duration_since(committed));
        since.map_or(Duration::ZERO, |since| self.wait.saturating_sub(since))
    }

    /// Notes that a record of the open transaction is delivered, `took` after the transaction began.
    /// Only the first call after a commit counts, because later records wait for no refused request.
    pub(crate) fn delivered(&mut self, took: Duration) {
        if std::mem::replace(&mut self.is_noted, true) {
            return;
        }
        let Some(usual) = self.usual else {
            return;
        };
        self.wait = if took >= usual + LATE {
            self.wait + LONGER
        } else {
            self.wait.saturating_sub(SHORTER)
        };
        self.wait = self.wait.clamp(LEAST, MOST);
    }

    /// Notes that the position was delivered in the given time, and that the transaction was committed
    /// then.
    pub(crate) fn committed(&mut self, now: Instant, position_took: Duration) {
        let usual = self.usual.unwrap_or(position_took);
        self.usual = Some((usual * (SMOOTHING - 1) + position_took) / SMOOTHING);
        self.committed = Some(now);
        self.is_noted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: Duration = Duration::from_millis(2);

    /// Commits `transactions` transactions whose first delivery takes `took`, and returns the pause
    /// after them.
    fn pause_after(wait: &mut MarkerWait, transactions: u32, took: Duration) -> Duration {
        let now = Instant::now();
        for _ in 0..transactions {
            wait.delivered(took);
            // Later deliveries of the same transaction say nothing about markers.
            wait.delivered(Duration::from_secs(1));
            wait.committed(now, POSITION);
        }
        wait.left(now)
    }

    #[test]
    fn the_pause_grows_with_each_refused_request_and_shrinks_slowly() {
        let mut wait = MarkerWait::default();
        assert_eq!(
            wait.left(Instant::now()),
            Duration::ZERO,
            "nothing is committed"
        );
        assert_eq!(pause_after(&mut wait, 1, POSITION + LATE), FIRST);
        assert_eq!(
            pause_after(&mut wait, 2, POSITION + LATE),
            FIRST + 2 * LONGER
        );
        assert_eq!(pause_after(&mut wait, 100, POSITION + LATE), MOST);
        assert_eq!(pause_after(&mut wait, 100, POSITION), MOST - 100 * SHORTER);
        assert_eq!(pause_after(&mut wait, 5000, POSITION), LEAST);
    }

    #[test]
    fn a_distant_cluster_is_not_mistaken_for_one_that_writes_markers() {
        let mut wait = MarkerWait::default();
        let far = Duration::from_millis(60);
        let now = Instant::now();
        for _ in 0..100 {
            wait.delivered(far);
            wait.committed(now, far);
        }
        assert!(wait.left(now) < FIRST);
    }
}
