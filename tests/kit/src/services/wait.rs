//! Waiting for a condition: polled at a short interval, bounded by a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const INTERVAL: Duration = Duration::from_millis(20);

/// Polls `probe` until it returns a value. Fails if `probe` fails, or after `limit` without one.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("timed out after {limit:?}: {what}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Polls `condition` until it holds; fails after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

/// Polls an async `condition` until it holds; fails after `limit`, even if `condition` is still
/// pending.
pub async fn wait_until_async(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    if tokio::time::timeout(limit, polling).await.is_err() {
        bail!("timed out after {limit:?}: {what}");
    }
    Ok(())
}
