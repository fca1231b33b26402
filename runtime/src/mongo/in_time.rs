//! A time limit for requests to a server on which the driver would wait indefinitely.

use std::io;
use std::time::Duration;

use mongodb::error::{Error, ErrorKind, Result};

/// The time limit of a small request. The driver has no such limit: behind a proxy that is up, a
/// connection whose other end is gone never answers. The limit is longer than most locks at the
/// server are held.
pub const ANSWER: Duration = Duration::from_secs(120);
/// The time limit of a read of documents: a filter may skip many, and a sort reads all of them
/// first.
pub const READ: Duration = Duration::from_secs(3600);

/// Waits for a reply, but not longer than `limit`.
///
/// # Errors
/// The error of the request, or a network error, which counts as transient, if there is no reply in
/// time.
pub async fn in_time<T>(
    limit: Duration,
    question: impl IntoFuture<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, question.into_future()).await {
        Ok(answer) => answer,
        Err(_) => {
            let reason = format!("the server has not answered for {} s", limit.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, reason).into())
        }
    }
}

/// Returns true for the error of [`in_time`] without a reply, and for connections that timed out.
#[must_use]
pub fn is_late(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Io(io) if io.kind() == io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::is_transient;

    #[tokio::test]
    async fn a_server_that_never_answers_is_a_network_that_failed() {
        let never = in_time::<()>(Duration::from_millis(1), std::future::pending());
        let error = never.await.unwrap_err();
        assert!(is_transient(&error) && is_late(&error), "{error}");
        assert_eq!(in_time(ANSWER, async { Ok(3) }).await.ok(), Some(3));
    }
}
