//! The oplog window: the stretch of time for which a source has entries, and how long a position
//! stays within it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use oplog_relay_core::position::Timestamp;

/// A position is in danger if its head-room is less than the window divided by this number.
const DANGER: i64 = 4;
/// The longest time over which the rates are measured. A server removes entries in blocks, so the
/// oldest entry advances in steps, and the rate over a short time would be 0 or far too high.
const MEASURED: Duration = Duration::from_secs(3600);
/// The shortest time over which the rates are measured.
const LEAST_MEASURED: Duration = Duration::from_secs(30);
/// Maximum number of readings that are kept.
const READINGS: usize = 720;

/// The times between which an oplog has entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OplogWindow {
    /// Time of the oldest entry.
    pub oldest: Timestamp,
    /// Time of the newest entry.
    pub newest: Timestamp,
}

impl OplogWindow {
    /// Returns the length in seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        seconds_between(self.oldest, self.newest)
    }

    /// Returns the time from the oldest entry to a position, in seconds. It is negative if the position
    /// is no longer in the oplog.
    #[must_use]
    pub fn head_room(self, position: Timestamp) -> i64 {
        seconds_between(self.oldest, position)
    }

    /// Returns true if the position has used up three quarters of the window.
    #[must_use]
    pub fn endangers(self, position: Timestamp) -> bool {
        self.head_room(position) * DANGER < self.seconds()
    }
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> i64 {
    i64::from(later.seconds) - i64::from(earlier.seconds)
}

/// The window and the position at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowReading {
    /// The moment.
    pub at: Instant,
    /// The window.
    pub window: OplogWindow,
    /// The saved position.
    pub position: Timestamp,
}

/// The readings of the last hour, from which the rates follow.
#[derive(Debug, Default)]
pub struct WindowTrend {
    readings: VecDeque<WindowReading>,
}

impl WindowTrend {
    /// Adds a reading. If the position has gone back, which only an operator causes, the earlier
    /// readings are discarded.
    pub fn take(&mut self, reading: WindowReading) {
        if let Some(last) = self.readings.back()
            && last.position > reading.position
        {
            self.readings.clear();
        }
        self.readings.push_back(reading);
        let is_old =
            |first: &WindowReading| reading.at.saturating_duration_since(first.at) > MEASURED;
        while self.readings.len() > READINGS || self.readings.front().is_some_and(is_old) {
            self.readings.pop_front();
        }
    }

    /// Returns the time until the oldest entry overtakes the position, if both advance as they did in the
    /// last hour. `None` if the position advances at least as fast as the oldest entry, or if the
    /// readings span less than half a minute.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of a timestamp have 32 bits"
    )]
    pub fn lost_in(&self) -> Option<Duration> {
        let (first, last) = (self.readings.front()?, self.readings.back()?);
        let took = last.at.saturating_duration_since(first.at);
        let head_room = last.window.head_room(last.position);
        if took < LEAST_MEASURED {
            return None;
        }
        let lost = first.window.head_room(first.position) - head_room;
        if lost <= 0 {
            return None;
        }
        let per_second = lost as f64 / took.as_secs_f64();
        let left = head_room.max(0) as f64 / per_second;
        Duration::try_from_secs_f64(left).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(oldest: u32, newest: u32) -> OplogWindow {
        OplogWindow {
            oldest: Timestamp::new(oldest, 1),
            newest: Timestamp::new(newest, 1),
        }
    }

    #[test]
    fn a_position_is_in_danger_in_the_last_quarter_of_the_window() {
        let at = |seconds| Timestamp::new(seconds, 9);
        let day = window(1_000, 1_400);
        assert_eq!((day.seconds(), day.head_room(at(1_100))), (400, 100));
        assert!(!day.endangers(at(1_100)) && day.endangers(at(1_099)));
        assert_eq!(day.head_room(at(990)), -10);
        assert!(day.endangers(at(990)));
        // A position at the only entry.
        assert!(!window(1_000, 1_000).endangers(at(1_000)));
    }

    #[test]
    fn the_time_until_the_loss_follows_from_the_rates() {
        let begin = Instant::now();
        let reading = |second: u64, oldest, position| WindowReading {
            at: begin + Duration::from_secs(second),
            window: window(oldest, 10_000),
            position: Timestamp::new(position, 1),
        };
        let mut trend = WindowTrend::default();
        trend.take(reading(0, 1_000, 5_000));
        assert_eq!(trend.lost_in(), None);
        // Too soon to tell.
        trend.take(reading(20, 1_400, 5_000));
        assert_eq!(trend.lost_in(), None);
        // The oldest entry advances by 10 s a second, the position by 2.
        trend.take(reading(100, 2_000, 5_200));
        assert_eq!(trend.lost_in(), Some(Duration::from_secs(400)));
        // A position that was set back begins a new measurement.
        trend.take(reading(110, 2_000, 3_000));
        assert_eq!(trend.lost_in(), None);
        trend.take(reading(210, 2_100, 4_000));
        assert_eq!(trend.lost_in(), None, "the position gains");
        // Only the last hour counts.
        trend.take(reading(4_000, 3_000, 4_000));
        trend.take(reading(4_100, 3_100, 4_000));
        assert_eq!(trend.lost_in(), Some(Duration::from_secs(900)));
        trend.take(reading(4_200, 5_000, 4_000));
        assert_eq!(trend.lost_in(), Some(Duration::ZERO), "it is lost already");
    }
}
