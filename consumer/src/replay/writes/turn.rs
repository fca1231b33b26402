//! Permits that limit how many workers do the same thing concurrently.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::worker::assignment::Token;

/// Maximum number of concurrent lookups over all partitions: each holds a reply of up to 16 MB.
pub(crate) const LOOKUPS_AT_ONCE: usize = 4;
/// Maximum number of concurrent bulks of rewrites: a small diff may need a large document, and a
/// reply holds up to 16 MB.
pub(crate) const BULKS_AT_ONCE: usize = 4;

/// Interval at which a waiting worker checks that it still owns the partition.
const TOKEN_INTERVAL: Duration = Duration::from_millis(200);

/// The turns of all partitions.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Turns for bulks of rewrites.
    pub(crate) rewrites: Semaphore,
    /// Turns for lookups of documents that are inserted again.
    pub(crate) lookups: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            rewrites: Semaphore::new(BULKS_AT_ONCE),
            lookups: Semaphore::new(LOOKUPS_AT_ONCE),
        }
    }
}

/// Waits for a permit; `None` if the partition was revoked.
pub(crate) async fn turn<'s>(turns: &'s Semaphore, token: &Token) -> Option<SemaphorePermit<'s>> {
    while token.is_valid() {
        if let Ok(turn) = tokio::time::timeout(TOKEN_INTERVAL, turns.acquire()).await {
            return turn.ok();
        }
    }
    None
}
