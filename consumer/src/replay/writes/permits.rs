//! Permits that limit the number of workers that run the same operation concurrently.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::worker::assignment::Token;

/// Maximum number of concurrent lookups of all partitions. Each holds a reply of up to 16 MB.
pub(crate) const LOOKUPS_AT_ONCE: usize = 4;
/// Maximum number of concurrent bulks of rewrites, and also of changes in sharded collections. Even
/// a small diff requires reading a document that may be large, and each bulk holds a reply of up to
/// 16 MB.
pub(crate) const BULKS_AT_ONCE: usize = 4;

/// Interval at which a waiting worker checks that it still owns the partition.
const TOKEN_INTERVAL: Duration = Duration::from_millis(200);

/// The permits that the workers of all partitions share.
#[derive(Debug)]
pub(crate) struct Permits {
    /// Permits for bulks of rewrites.
    pub(crate) rewrites: Semaphore,
    /// Permits for lookups of documents that are inserted again.
    pub(crate) lookups: Semaphore,
    /// Permits for changes of documents in collections that are sharded on the target.
    pub(crate) changes: Semaphore,
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            rewrites: Semaphore::new(BULKS_AT_ONCE),
            lookups: Semaphore::new(LOOKUPS_AT_ONCE),
            changes: Semaphore::new(BULKS_AT_ONCE),
        }
    }
}

/// Waits for a permit; `None` if the partition was revoked.
pub(crate) async fn acquire<'s>(
    semaphore: &'s Semaphore,
    token: &Token,
) -> Option<SemaphorePermit<'s>> {
    while token.is_valid() {
        if let Ok(permit) = tokio::time::timeout(TOKEN_INTERVAL, semaphore.acquire()).await {
            return permit.ok();
        }
    }
    None
}
