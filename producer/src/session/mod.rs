//! Sessions. Each session fences older instances, reads the checkpoint, and publishes the entries that
//! follow it, until everything requested is committed, a shutdown is requested, or an error occurs.
//!
//! # Modules
//!
//! - `check` checks the cluster before and after a session takes over the source
//! - `plan` determines the starting point
//! - `open` opens a session, and `stream` runs its parts
//! - `pipeline` connects source, encoder and publisher
//! - `parts` waits for the parts of a session, and chooses among their errors
//! - `failure` decides what follows a session that failed
//! - `head_room` watches how long the saved position stays in the source's oplog
//! - `error` has the reasons why a session cannot start or continue

mod check;
pub mod error;
mod failure;
pub(crate) mod head_room;
mod open;
mod parts;
pub mod pipeline;
pub(crate) mod plan;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;

use crate::config::SourceConfig;
use crate::error::ProducerError;
use crate::instances::Leadership;
use crate::publish::Pace;
use crate::registry::SchemaRegistry;
pub(crate) use crate::session::failure::Lagging;
use crate::session::failure::{Failure, Next};
use crate::session::pipeline::Outcome;
use crate::source::origin::Origin;
use crate::telemetry::metrics::Metrics;

/// The state that outlives a session.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// The configuration.
    pub config: Arc<SourceConfig>,
    /// The source of entries.
    pub origin: Arc<Origin>,
    /// Metrics of the source.
    pub metrics: Arc<Metrics>,
    /// Health that is reported over HTTP.
    pub health: Health,
    /// Limit of the bytes in flight to Kafka.
    pub pace: Pace,
    /// The registry of the topics' schemas, if the format has schemas.
    pub registry: Option<Arc<SchemaRegistry>>,
    /// Consecutive sessions that ended because a member of the source lagged behind. They are counted
    /// beyond this supervisor, because several instances may follow the source in turn.
    pub(crate) lagging: Arc<Mutex<Lagging>>,
    /// Number of sources that the program follows.
    pub sources: usize,
    /// The right to follow the source, if instances share it.
    pub leadership: Option<Leadership>,
    /// The shutdown signal.
    pub shutdown: Shutdown,
}

impl Supervisor {
    /// Opens sessions until one is done, an error must not be retried, or a shutdown is requested.
    ///
    /// # Errors
    /// The error that must not be retried.
    pub async fn run(&self) -> Result<Outcome, ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let began = Instant::now();
        loop {
            let commits = self.metrics.commit_count();
            let error = match Box::pin(self.session()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => {
                    let progress = self.metrics.commit_count() > commits;
                    let mut lagging = self.lagging.lock().unwrap_or_else(PoisonError::into_inner);
                    lagging.judge(error, progress)
                }
            };
            self.metrics.interrupted();
            self.metrics.failed(error.kind());
            self.health.set_ready(false, &error.to_string());
            let failure = Failure {
                error: &error,
                has_opened_session: self.metrics.session_count() > 0,
                since_start: began.elapsed(),
                is_ending: self.shutdown.triggered(),
            };
            match failure.next() {
                Next::Retry => {}
                Next::Stop => {
                    tracing::warn!(%error, "the session failed during the shutdown");
                    return Ok(Outcome::Stopped);
                }
                Next::Fail => return Err(error),
            }
            if self.metrics.commit_count() > commits {
                backoff.reset();
            }
            tracing::warn!(%error, "the session failed; the next one continues from the checkpoint");
            // The publisher's thread, which normally reports liveness, has ended.
            self.health.beat();
            if !backoff.sleep(&self.shutdown).await {
                return Ok(Outcome::Stopped);
            }
        }
    }

    async fn session(&self) -> Result<Outcome, ProducerError> {
        match self.health.beat_during(Box::pin(self.open())).await? {
            Some(session) => self.stream(session).await,
            None => Ok(Outcome::Stopped),
        }
    }
}
