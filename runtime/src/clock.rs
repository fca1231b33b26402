//! The clocks of this host.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the current time in milliseconds since 1970; 0 if the clock is set to an earlier time.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// Returns a time in milliseconds since 1970 as RFC 3339 with whole seconds, in UTC.
#[must_use]
pub fn utc(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}

/// A point in time by both clocks: the monotonic clock for durations on this host, and the wall
/// clock for durations since an event on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimePoint {
    /// The time by the monotonic clock.
    pub at: Instant,
    /// The time by the wall clock, in milliseconds since 1970.
    pub wall_ms: i64,
}

impl TimePoint {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            wall_ms: now_ms(),
        }
    }

    /// Returns the time that has passed since a wall-clock time in milliseconds since 1970; zero if
    /// that time is later.
    #[must_use]
    pub fn since_wall(&self, wall_ms: i64) -> Duration {
        let millis = self.wall_ms.saturating_sub(wall_ms);
        Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_utc() {
        assert_eq!(utc(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59Z");
        assert_eq!(utc(i64::MAX), "9223372036854775 s after 1970");
    }

    #[test]
    fn the_time_since_a_wall_time_is_never_negative() {
        let point = TimePoint {
            wall_ms: 1_040,
            ..TimePoint::now()
        };
        assert_eq!(point.since_wall(1_000), Duration::from_millis(40));
        assert_eq!(point.since_wall(1_041), Duration::ZERO);
        assert!(point.since_wall(i64::MIN) > Duration::ZERO);
    }
}
