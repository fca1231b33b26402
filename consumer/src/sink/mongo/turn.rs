//! Waiting for a turn of what only so many workers may do at once.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::assignment::Token;

/// How often a worker that waits looks whether the partition is still its own.
const TOKEN_INTERVAL: Duration = Duration::from_millis(200);

/// Waits for a turn; `None` where the partition was taken away meanwhile.
pub(super) async fn turn<'s>(turns: &'s Semaphore, token: &Token) -> Option<SemaphorePermit<'s>> {
    while token.is_valid() {
        if let Ok(turn) = tokio::time::timeout(TOKEN_INTERVAL, turns.acquire()).await {
            return turn.ok();
        }
    }
    None
}
