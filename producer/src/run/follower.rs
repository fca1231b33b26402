//! Follows a source: connects to it, and runs sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::error::ProducerError;
use crate::instances::{Leadership, Lease};
use crate::publish::{Pace, transaction_timeout};
use crate::registry::SchemaRegistry;
use crate::run::followed_source::FollowedSource;
use crate::session::pipeline::Outcome;
use crate::session::{Supervisor, head_room};
use crate::source::origin::Origin;
use crate::telemetry::status_line;

/// First delay between two attempts to follow a source, or between two of its leases.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Longest such delay.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Interval of the checks whether a source is followed successfully.
const CHECKED_EVERY: Duration = Duration::from_secs(1);
/// The pause after another instance or `position set` has fenced a session.
const AFTER_FENCING: Duration = Duration::from_secs(3);
/// The time during which an instance that cannot follow a source leaves it to others.
const REST: Duration = Duration::from_secs(30);

/// The action after an outage of the source or of Kafka that lasts longer than a session retries.
#[derive(Debug)]
pub(super) enum Outages {
    /// The program ends with the error.
    End,
    /// The source is tried again, because other sources depend on this program.
    Retried,
    /// Another instance may follow the source instead.
    Shared(Leadership),
}

/// The time since which the source has not been followed successfully.
#[derive(Debug, Default)]
struct Failing {
    since: Option<Instant>,
}

/// Follows one source.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) source: Arc<FollowedSource>,
    pub(super) registry: Option<Arc<SchemaRegistry>>,
    pub(super) outages: Outages,
    pub(super) shutdown: Shutdown,
}

impl Follower {
    /// Follows the source until it is done, an error ends it, or a shutdown is requested.
    pub(super) async fn run(self) -> Result<Outcome, ProducerError> {
        let ended = match &self.outages {
            Outages::End => {
                self.source.note_active();
                Box::pin(self.follow(&self.shutdown, None)).await
            }
            Outages::Retried => Box::pin(self.follow_through_outages()).await,
            Outages::Shared(leadership) => Box::pin(self.follow_in_turn(leadership)).await,
        };
        self.source.note_ended(&ended);
        // A source that has ended sends no beats, which must not look like a stall.
        self.source.health.rest();
        ended
    }

    async fn follow_through_outages(&self) -> Result<Outcome, ProducerError> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            self.source.note_active();
            let error = match Box::pin(self.follow(&self.shutdown, None)).await {
                // Credentials that are refused at the start are wrong, so a retry does not help.
                Err(error) if error.is_refused_login() && !self.has_opened_session() => {
                    return Err(error);
                }
                Err(error) if error.is_outage() => error,
                ended => return ended,
            };
            self.note_outage(&error);
            let pause = backoff.sleep(&self.shutdown);
            if !self.source.health.beat_during(pause).await {
                return Ok(Outcome::Stopped);
            }
        }
    }

    fn has_opened_session(&self) -> bool {
        self.source.metrics.session_count() > 0
    }

    fn note_outage(&self, error: &ProducerError) {
        let source = self.source.name();
        tracing::warn!(source, %error, "the source cannot be followed; it is tried again");
        self.source.metrics.failed(error.kind());
        self.source.health.set_ready(false, &error.to_string());
    }

    /// Follows the source whenever it is this instance's turn.
    async fn follow_in_turn(&self, leadership: &Leadership) -> Result<Outcome, ProducerError> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let mut failing = Failing::default();
        loop {
            if !leadership.is_turn() {
                self.source.note_standby();
                failing = Failing::default();
                let turn = self.shutdown.unless(leadership.turn());
                if self.source.health.beat_during(turn).await.is_none() {
                    return Ok(Outcome::Stopped);
                }
                tracing::info!(
                    source = self.source.name(),
                    "this instance follows the source"
                );
            }
            self.source.note_active();
            let began = Instant::now();
            let lease = leadership.lease(&self.shutdown);
            let ended = Box::pin(self.follow_during(&lease, leadership, &mut failing)).await;
            drop(lease);
            let mut pause = backoff.next_delay();
            match ended {
                Ok(outcome) if self.shutdown.triggered() => return Ok(outcome),
                Ok(_) => {}
                Err(error @ ProducerError::Fenced { .. }) => {
                    tracing::warn!(
                        source = self.source.name(),
                        %error,
                        "the session was fenced; it is opened again if the source is still assigned \
                         to this instance"
                    );
                    // `position set` may have fenced the session and not yet written its position.
                    pause = AFTER_FENCING;
                }
                Err(error) if error.is_outage() => {
                    self.note_outage(&error);
                    self.resign_if_due(leadership, &mut failing).await;
                }
                Err(error) => {
                    leadership.resign(None).await;
                    return Err(error);
                }
            }
            if began.elapsed() > LONGEST_DELAY {
                backoff.reset();
            }
            let pause = self.shutdown.unless(tokio::time::sleep(pause));
            if self.source.health.beat_during(pause).await.is_none() {
                return Ok(Outcome::Stopped);
            }
        }
    }

    /// Follows the source until the lease ends. Leaves the source to others for a while if this instance
    /// cannot follow it, because another one may be able to.
    async fn follow_during(
        &self,
        lease: &Lease,
        leadership: &Leadership,
        failing: &mut Failing,
    ) -> Result<Outcome, ProducerError> {
        let following = self.follow(lease.shutdown(), Some(leadership.clone()));
        tokio::pin!(following);
        loop {
            tokio::select! {
                ended = &mut following => return ended,
                () = tokio::time::sleep(CHECKED_EVERY) => {}
            }
            // The session must be able to end while the group is asked to move the source.
            let resign = self.resign_if_due(leadership, failing);
            tokio::select! {
                ended = &mut following => return ended,
                () = resign => {}
            }
        }
    }

    /// Leaves the source to other instances for a while, if it has not been followed successfully for the
    /// time after which a stall is reported.
    async fn resign_if_due(&self, leadership: &Leadership, failing: &mut Failing) {
        let now = Instant::now();
        if !self.source.is_failing() {
            failing.since = None;
            return;
        }
        let since = *failing.since.get_or_insert(now);
        if now.duration_since(since) <= self.source.health.limit() {
            return;
        }
        failing.since = None;
        let (source, rest) = (self.source.name(), REST.as_secs());
        tracing::warn!(
            source,
            rest_s = rest,
            "this instance cannot follow the source, so it leaves it to another one for a while"
        );
        leadership.resign(Some(REST)).await;
    }

    /// Connects to the source and runs sessions until they end. Sessions are dropped if a shutdown
    /// takes too long.
    async fn follow(
        &self,
        shutdown: &Shutdown,
        leadership: Option<Leadership>,
    ) -> Result<Outcome, ProducerError> {
        let health = &self.source.health;
        let stream = &self.source.config.stream;
        let connecting = shutdown.unless(Origin::of(stream));
        let Some(origin) = health.beat_during(connecting).await else {
            return Ok(Outcome::Stopped);
        };
        let origin = origin?.reporting_stalls_after(health.limit());
        self.source.set_name(origin.name());
        let mut shown = JoinSet::new();
        let showing = status_line::show(
            Arc::clone(&self.source.metrics),
            self.source.name().to_owned(),
            self.source.setting.is_alone(),
            shutdown.clone(),
        );
        shown.spawn(showing.in_current_span());
        let origin = Arc::new(origin);
        let watching = head_room::watch(
            Arc::clone(&origin),
            Arc::clone(&self.source.metrics),
            shutdown.clone(),
        );
        shown.spawn(watching.in_current_span());
        let timeout = transaction_timeout(&self.source.config.kafka);
        let supervisor = Supervisor {
            config: Arc::clone(&self.source.config),
            pace: Pace::new(timeout).shared_by(self.source.setting.sources),
            origin,
            metrics: Arc::clone(&self.source.metrics),
            health: health.clone(),
            registry: self.registry.clone(),
            lagging: Arc::clone(&self.source.lagging),
            sources: self.source.setting.sources,
            leadership,
            shutdown: shutdown.clone(),
        };
        tokio::select! {
            outcome = supervisor.run() => outcome,
            () = shutdown.forced() => {
                tracing::warn!(
                    "stopped before the shutdown was complete; the next start continues from the checkpoint"
                );
                Ok(Outcome::Stopped)
            }
        }
    }
}
