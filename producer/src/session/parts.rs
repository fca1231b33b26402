//! The parts of a session, which run at the same time: the source, the encoder and the publisher.

use tokio::task::{AbortHandle, JoinSet};

use crate::error::ProducerError;
use crate::session::pipeline::Outcome;

/// The result of a part of a session.
pub(super) enum Part {
    Source(Result<(), ProducerError>),
    Encoder(Result<(), ProducerError>),
    Publisher(Result<Outcome, ProducerError>),
}

/// Waits until the publisher is done or all parts have ended. When the encoder or the publisher has
/// ended, the source is aborted. Of several errors, fencing is returned first, then the source's
/// error, because it explains the most, then the encoder's.
pub(super) async fn join(
    mut parts: JoinSet<Part>,
    source: &AbortHandle,
) -> Result<Outcome, ProducerError> {
    let mut failed: [Option<ProducerError>; 3] = [None, None, None];
    while let Some(part) = parts.join_next().await {
        let part = match part {
            Ok(part) => part,
            Err(error) if error.is_cancelled() => continue,
            Err(_) => return Err(ProducerError::Ended("a thread of the session ended")),
        };
        let (place, error) = match part {
            Part::Source(result) => (0, result.err()),
            Part::Encoder(result) => (1, result.err()),
            // The other parts have no work left that was requested.
            Part::Publisher(Ok(Outcome::Done)) => return Ok(Outcome::Done),
            Part::Publisher(Ok(Outcome::Stopped)) => (2, None),
            Part::Publisher(Err(error)) => (2, Some(error)),
        };
        if place > 0 {
            source.abort();
        }
        if let Some(slot) = failed.get_mut(place) {
            *slot = error;
        }
    }
    // Fencing outranks every other error: this instance must not continue.
    let fenced = failed
        .iter()
        .position(|error| matches!(error, Some(ProducerError::Fenced { .. })));
    let first = fenced.or_else(|| failed.iter().position(Option::is_some));
    match first
        .and_then(|place| failed.get_mut(place))
        .and_then(Option::take)
    {
        Some(error) => Err(error),
        None => Ok(Outcome::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry_fault::EntryFault;

    #[tokio::test]
    async fn a_publisher_that_is_done_outranks_errors_of_the_other_parts() {
        let ended = async |published: Result<Outcome, ProducerError>| {
            let mut parts = JoinSet::new();
            let source = parts.spawn(std::future::pending());
            let file = String::new();
            let undecodable = EntryFault::DumpTruncated { file };
            parts.spawn(async { Part::Encoder(Err(undecodable.into())) });
            tokio::task::yield_now().await;
            parts.spawn(async { Part::Publisher(published) });
            join(parts, &source).await
        };
        assert!(matches!(ended(Ok(Outcome::Done)).await, Ok(Outcome::Done)));
        for other in [Ok(Outcome::Stopped), Err(ProducerError::kafka("a", "b"))] {
            let error = ended(other).await.unwrap_err();
            assert!(matches!(error, ProducerError::Undecodable(_)), "{error}");
        }
        let fenced = ended(Err(ProducerError::Fenced {
            transactional_id: String::new(),
        }))
        .await;
        assert!(matches!(fenced, Err(ProducerError::Fenced { .. })));
    }
}
