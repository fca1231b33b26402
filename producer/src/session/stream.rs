//! Runs the parts of an open session: the source, the encoder and the publisher.

use std::sync::Arc;
use std::time::Duration;

use oplog_relay_runtime::telemetry::in_current_span;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Supervisor;
use crate::error::ProducerError;
use crate::session::open::{Begin, OpenSession};
use crate::session::parts::{Part, join};
use crate::session::pipeline::{self, OtherClaims, Outcome, PublishLoop, Queues};
use crate::source::QUEUE_BATCHES;
use crate::source::origin::feed_full_sync;

/// Maximum time that a source may take to shut down.
const SOURCE_GRACE: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Returns the function with which the source reports why it fails, and `None` when it answers
    /// again.
    fn source_report(&self) -> impl Fn(Option<&str>) + use<> {
        let (health, metrics) = (self.health.clone(), Arc::clone(&self.metrics));
        move |reason| {
            metrics.set_source_failing(reason.is_some());
            if let Some(reason) = reason {
                health.set_ready(false, reason);
            }
        }
    }

    pub(super) async fn stream(
        &self,
        OpenSession {
            publisher,
            encoder,
            begin,
            until,
        }: OpenSession,
    ) -> Result<Outcome, ProducerError> {
        let (events_in, events) = mpsc::channel(QUEUE_BATCHES);
        let Queues {
            mut handover,
            intake,
        } = pipeline::queues();
        let mut parts = JoinSet::new();
        let origin = Arc::clone(&self.origin);
        let shutdown = self.shutdown.clone();
        // A failure of the previous session's source no longer applies.
        self.metrics.set_source_failing(false);
        let failing = self.source_report();
        let Begin { start, resume, .. } = begin;
        let reading = async move {
            let stop = shutdown.clone();
            let feeding = async {
                match begin.sync {
                    Some(sync) => {
                        let stalled_after = origin.stalled_after();
                        feed_full_sync(sync, start, events_in, shutdown, stalled_after, failing)
                            .await
                    }
                    None => {
                        origin
                            .feed(start, resume, events_in, shutdown, failing)
                            .await
                    }
                }
            };
            // A server may take longer to answer than the shutdown allows.
            let grace_over = async {
                stop.wait().await;
                tokio::time::sleep(SOURCE_GRACE).await;
            };
            Part::Source(tokio::select! {
                fed = feeding => fed,
                () = grace_over => Ok(()),
            })
        };
        let source = parts.spawn(reading.in_current_span());
        let metrics = Arc::clone(&self.metrics);
        parts.spawn_blocking(in_current_span(move || {
            Part::Encoder(pipeline::encode(encoder, events, &mut handover, &metrics))
        }));
        let is_live = self.origin.client().is_some();
        let (metrics, health) = (Arc::clone(&self.metrics), self.health.clone());
        let publisher = publisher.paced(self.pace.clone(), health.clone());
        parts.spawn_blocking(in_current_span(move || {
            let publishing = PublishLoop::new(publisher, &metrics, &health, until, begin.begins_at);
            let mut publishing = publishing
                .routing(begin.routing.0, begin.routing.1)
                .having_state(begin.has_state)
                .listening(is_live)
                .among(OtherClaims {
                    claims: begin.claims,
                    runtime: Handle::current(),
                });
            Part::Publisher(publishing.run(&intake))
        }));
        join(parts, &source).await
    }
}
