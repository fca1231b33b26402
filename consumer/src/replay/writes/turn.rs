//! Waiting for a turn of what only so many workers may do at once.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::worker::assignment::Token;

/// Lookups at once, over all partitions: each holds a reply, which has up to 16 MB.
pub(crate) const LOOKUPS_AT_ONCE: usize = 4;
/// Bulks of rewrites at once: a small diff can ask for a large document, and a reply holds 16 MB.
pub(crate) const BULKS_AT_ONCE: usize = 4;

/// How often a worker that waits looks whether the partition is still its own.
const TOKEN_INTERVAL: Duration = Duration::from_millis(200);

/// Waits for a turn; `None` where the partition was taken away meanwhile.
pub(crate) async fn turn<'s>(turns: &'s Semaphore, token: &Token) -> Option<SemaphorePermit<'s>> {
    while token.is_valid() {
        if let Ok(turn) = tokio::time::timeout(TOKEN_INTERVAL, turns.acquire()).await {
            return turn.ok();
        }
    }
    None
}
