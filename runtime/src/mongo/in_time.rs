//! A time limit for requests, because the driver waits for a reply indefinitely.

use std::io;
use std::time::Duration;

use mongodb::error::{Error, ErrorKind, Result};

/// The time limit of a small request. Without it, a request would wait indefinitely if a proxy
/// keeps the connection open after its connection to the server is lost. The limit exceeds the time
/// for which a server usually holds locks.
pub const REPLY_LIMIT: Duration = Duration::from_secs(120);
/// The time limit of a read of documents: a filter may skip many of them, and a sort reads all of
/// them first.
pub const READ: Duration = Duration::from_secs(3600);

/// Waits for a reply, but not longer than `limit`.
///
/// # Errors
/// The error of the request. If there is no reply in time, a network error, which counts as
/// transient.
pub async fn in_time<T>(
    limit: Duration,
    request: impl IntoFuture<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, request.into_future()).await {
        Ok(reply) => reply,
        Err(_) => {
            let reason = format!("the server has not replied within {} s", limit.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, reason).into())
        }
    }
}

/// Returns true if [`in_time`] received no reply in time, or if a connection timed out.
#[must_use]
pub fn is_late(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Io(io) if io.kind() == io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::is_transient;

    #[tokio::test]
    async fn a_missing_reply_is_a_network_error() {
        let never = in_time::<()>(Duration::from_millis(1), std::future::pending());
        let error = never.await.unwrap_err();
        assert!(is_transient(&error) && is_late(&error), "{error}");
        assert_eq!(in_time(REPLY_LIMIT, async { Ok(3) }).await.ok(), Some(3));
    }
}
