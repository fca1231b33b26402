//! The reaction to a position that the oplog no longer reaches back to.

use crate::config::OnPositionLost;
use crate::error::ProducerError;
use crate::position::skip_gap;
use crate::position_lost::PositionLost;
use crate::session::Supervisor;
use crate::source::oplog::Oplog;

impl Supervisor {
    /// Moves the saved position to the oldest entry after a session has found that the oplog no longer
    /// reaches back to it, if the operator wants that. Returns every other error unchanged.
    pub(super) async fn skip_lost(&self, error: ProducerError) -> Result<(), ProducerError> {
        let ProducerError::PositionLost(lost) = &error else {
            return Err(error);
        };
        let is_over = matches!(**lost, PositionLost::RolledOver { .. });
        let client = self.origin.client_of_copies();
        let Some(client) = client
            .filter(|_| is_over && self.config.on_position_lost == OnPositionLost::SkipWithMarker)
        else {
            return Err(error);
        };
        tracing::error!(%error, "the position is lost; the stream skips the gap and records it");
        self.metrics.interrupted();
        self.metrics.failed(error.kind());
        let Some(oldest) = Oplog::new(client).oldest_of_set().await? else {
            return Err(error);
        };
        let config = &self.config;
        let (prefix, source) = (&config.stream.topic_prefix, self.origin.name());
        let skipped = Box::pin(skip_gap(&config.kafka, prefix, source, oldest)).await;
        match skipped {
            Ok(()) => Ok(()),
            Err(refused @ ProducerError::PositionChange(_)) => {
                tracing::error!(reason = %refused, "the gap cannot be skipped");
                Err(error)
            }
            Err(failed) => Err(failed),
        }
    }
}
