//! The wall clock of this host.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the current time in milliseconds since 1970; 0 if the clock is set to an earlier time.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
