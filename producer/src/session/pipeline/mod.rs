//! The pipeline of source, encoder and publisher, connected by short queues. The source is a task
//! of the runtime; the encoder and the publisher block, so each has its own thread.
//!
//! # Modules
//!
//! - `handover` has the queues between encoder and publisher
//! - `schedule` decides when a Kafka transaction is committed
//! - `progress` has the position that was reached, and the saved one
//! - `claimed` checks the claims of a committed transaction against those of other sources
//! - `silence` detects stages that no longer respond

mod claimed;
mod handover;
mod progress;
mod schedule;
mod silence;

pub use claimed::OtherClaims;
pub use handover::{Handover, Intake, Queues, queues};
pub use progress::BeginsAt;

use std::cell::Cell;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::clock::TimePoint;
use oplog_relay_runtime::http::Health;
use tokio::sync::mpsc;

use crate::encode::Encoder;
use crate::encode::chunk::{Chunk, HandedOver, Signal};
use crate::error::ProducerError;
use crate::publish::Publisher;
use crate::session::pipeline::claimed::ClaimCheck;
use crate::session::pipeline::handover::QueuedChunk;
use crate::session::pipeline::progress::Progress;
use crate::session::pipeline::schedule::{Circumstances, Schedule};
use crate::session::pipeline::silence::Silence;
use crate::source::SourceEvent;
use crate::telemetry::latency::ChunkTimes;
use crate::telemetry::metrics::Metrics;

/// Runs the encoder's loop until the source ends or the publisher has ended.
///
/// # Errors
/// The error of an entry that cannot be encoded. The entries before it have been handed over.
pub fn encode(
    mut encoder: Encoder,
    mut events: mpsc::Receiver<SourceEvent>,
    handover: &mut Handover,
    metrics: &Metrics,
) -> Result<(), ProducerError> {
    let mut chunk = Chunk::default();
    let received = Cell::new(None);
    let mut hand_on = |chunk: &mut Chunk| {
        if chunk.is_empty() {
            return Ok(());
        }
        chunk.handed = received.get().map(|received| HandedOver {
            received,
            encoded: Instant::now(),
        });
        handover.hand_over(chunk, metrics)
    };
    let begun = encoder.begin(&mut chunk, &mut hand_on);
    let result = loop {
        if let Err(error) = begun {
            break Err(error);
        }
        let event = events.blocking_recv();
        received.set(
            event
                .as_ref()
                .filter(|event| event.has_entries())
                .map(|_| TimePoint::now()),
        );
        let outcome = match event {
            None => break Ok(()),
            Some(SourceEvent::Batch(batch)) => encoder.encode(&batch, &mut chunk, &mut hand_on),
            Some(SourceEvent::Events(batch)) => {
                encoder.encode_events(&batch, &mut chunk, &mut hand_on)
            }
            Some(SourceEvent::Earlier(batch)) => encoder.recall(&batch),
            Some(SourceEvent::Copied(copied)) => encoder.copy(&copied, &mut chunk, &mut hand_on),
            Some(SourceEvent::Idle) => {
                chunk.signal = Signal::Idle;
                Ok(())
            }
            Some(SourceEvent::CaughtUp) => {
                chunk.signal = Signal::CaughtUp;
                Ok(())
            }
            Some(SourceEvent::End) => {
                chunk.signal = Signal::Finished;
                Ok(())
            }
        };
        if outcome.is_err() {
            // The entries before the error are still published.
            encoder.complete(&mut chunk);
        }
        let handed = hand_on(&mut chunk);
        if let Err(error) = outcome.and(handed) {
            break Err(error);
        }
    };
    match result {
        // The publisher reports its own error, and an interruption was requested.
        Err(ProducerError::Ended("the publisher ended") | ProducerError::Interrupted) => Ok(()),
        result => result,
    }
}

/// The condition under which the publisher is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The source has ended.
    End,
    /// Everything up to this time is committed.
    Reached(Timestamp),
}

impl Until {
    /// Returns the condition that the newest entry is committed; `None` if the saved position has
    /// reached it. A position with an ordinal has not reached it, because a part of its entry is
    /// still to be sent.
    #[must_use]
    pub fn newest(newest: Position, saved: Option<Position>) -> Option<Self> {
        let until = Self::Reached(newest.ts);
        (!until.reached(saved)).then_some(until)
    }

    /// Returns true if a position meets the condition.
    #[must_use]
    pub fn reached(self, position: Option<Position>) -> bool {
        match self {
            Self::End => false,
            Self::Reached(ts) => match position {
                Some(position) => position.ts > ts || (position.ts == ts && position.ord == 0),
                // Time 0 means at once, so no position is needed.
                None => ts == Timestamp::default(),
            },
        }
    }
}

/// The outcome of the publisher's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was requested is committed.
    Done,
    /// The queue was closed before that. All chunks that were received from it are committed.
    Stopped,
}

/// The publisher's loop.
#[derive(Debug)]
pub struct PublishLoop<'p> {
    /// The publisher, which has the transactional producer.
    pub publisher: Publisher,
    /// Metrics of the source.
    pub metrics: &'p Metrics,
    /// Health, to which the loop reports liveness in each iteration.
    pub health: &'p Health,
    /// The condition under which the loop ends.
    pub until: Until,
    progress: Progress,
    schedule: Schedule,
    /// The last report of the source.
    signal: Signal,
    claims: ClaimCheck,
    silence: Option<Silence>,
    /// The times of the chunks of the open transaction that have records.
    passing: Vec<ChunkTimes>,
}

impl<'p> PublishLoop<'p> {
    /// Creates a loop that has sent nothing.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        metrics: &'p Metrics,
        health: &'p Health,
        until: Until,
        begins_at: BeginsAt,
    ) -> Self {
        Self {
            publisher,
            metrics,
            health,
            until,
            progress: Progress::new(begins_at),
            schedule: Schedule::new(),
            signal: Signal::More,
            claims: ClaimCheck::default(),
            silence: None,
            passing: Vec::new(),
        }
    }

    /// Sets the saved version of the routing table, and the wanted one.
    #[must_use]
    pub fn routing(mut self, saved: u32, wanted: u32) -> Self {
        self.progress.set_routing(saved, wanted);
        self
    }

    /// Sets whether the state topic already contains the source's record.
    #[must_use]
    pub fn having_state(mut self, has_state: bool) -> Self {
        self.progress.set_has_state(has_state);
        self
    }

    /// Publishes until everything requested is committed, or until the queue is closed; then the
    /// open transaction is committed. An error aborts it.
    ///
    /// # Errors
    /// The errors of [`Publisher::send`] and [`Publisher::commit`];
    /// [`SessionError::TopicContested`](crate::session::error::SessionError::TopicContested); an error of
    /// the read of other sources' claims.
    pub fn run(&mut self, intake: &Intake) -> Result<Outcome, ProducerError> {
        self.publish(intake).map_err(|error| {
            let error = self.publisher.explain(error);
            self.publisher.abort();
            error
        })
    }

    fn publish(&mut self, intake: &Intake) -> Result<Outcome, ProducerError> {
        loop {
            self.health.beat();
            match intake.full.recv_timeout(self.patience()) {
                Ok(QueuedChunk { chunk, bytes }) => {
                    drop(bytes);
                    if let Some(silence) = &mut self.silence {
                        silence.end(self.metrics);
                    }
                    self.take(&chunk)?;
                    intake.give_back(chunk);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.publisher.poll(Duration::ZERO)?;
                    if let Some(silence) = &mut self.silence {
                        silence.check(self.metrics, self.health);
                    }
                    self.metrics.refresh();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.commit()?;
                    return Ok(if self.is_done() {
                        Outcome::Done
                    } else {
                        Outcome::Stopped
                    });
                }
            }
            if self.is_due() {
                self.commit()?;
            }
            if self.progress.unsaved().is_none() && self.is_done() {
                return Ok(Outcome::Done);
            }
        }
    }

    fn take(&mut self, chunk: &Chunk) -> Result<(), ProducerError> {
        self.publisher.send(chunk)?;
        self.claims.take(chunk);
        self.metrics.sent(chunk, self.publisher.in_flight());
        self.progress.take(chunk);
        let now = Instant::now();
        if self.publisher.in_transaction() {
            self.schedule.sent(now);
        }
        self.note_times(chunk, now);
        // The end stays in force: entries of the tail may still follow a full sync that ends the
        // stream.
        if self.signal != Signal::Finished {
            self.signal = chunk.signal;
        }
        if self.signal == Signal::CaughtUp && self.progress.unsaved().is_none() {
            self.metrics.caught_up();
            self.set_ready();
        }
        Ok(())
    }

    /// Notes when the records of a chunk were handed over.
    fn note_times(&mut self, chunk: &Chunk, sent: Instant) {
        let Some(handed) = chunk.handed.filter(|_| !chunk.is_without_records()) else {
            return;
        };
        self.passing.push(ChunkTimes {
            wall: chunk.reached.wall,
            handed,
            sent,
        });
    }

    /// Returns how long to wait for the next chunk.
    fn patience(&mut self) -> Duration {
        let circumstances = self.circumstances();
        self.schedule.patience(Instant::now(), &circumstances)
    }

    fn is_due(&mut self) -> bool {
        let circumstances = self.circumstances();
        self.progress.unsaved().is_some() && self.schedule.is_due(Instant::now(), &circumstances)
    }

    fn circumstances(&mut self) -> Circumstances {
        let is_idle = self.signal.is_idle();
        Circumstances {
            is_idle,
            has_delivered: is_idle && self.publisher.has_delivered(),
            is_at_end: self.signal == Signal::Finished
                || self.until.reached(self.progress.unsaved()),
            partitions: self.publisher.partitions(),
            timeout: self.publisher.transaction_timeout(),
        }
    }

    fn commit(&mut self) -> Result<(), ProducerError> {
        let Some(position) = self.progress.unsaved() else {
            return Ok(());
        };
        let start = Instant::now();
        let times = self.publisher.commit(&self.progress.record(position))?;
        let took = start.elapsed();
        self.metrics.passed(&self.passing, &times);
        self.passing.clear();
        self.progress.committed(position);
        self.schedule.committed(Instant::now(), took);
        let is_caught_up = self.signal.is_caught_up();
        self.metrics
            .committed(position, self.progress.wall(), is_caught_up, took);
        // Sending does not make the program ready, because a transaction that Kafka refuses fails
        // in each session.
        self.set_ready();
        self.check_claims(position)
    }

    /// Reports the program as ready, unless reads of the source fail.
    fn set_ready(&self) {
        if self.metrics.source_answers() {
            self.health.set_ready(true, "");
        }
    }

    fn is_done(&self) -> bool {
        let is_at_end =
            self.signal == Signal::Finished || self.until.reached(self.progress.saved());
        self.progress.has_routing() && is_at_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_inside_a_transaction_has_not_reached_its_time() {
        let at = |seconds, ord| Position {
            ts: Timestamp::new(seconds, 1),
            term: 1,
            ord,
        };
        let until = Until::newest(at(5, 0), Some(at(3, 0))).unwrap();
        for (position, reached) in [
            (None, false),
            (Some(at(4, 0)), false),
            (Some(at(5, 7)), false),
            (Some(at(5, 0)), true),
            (Some(at(6, 7)), true),
        ] {
            assert_eq!(until.reached(position), reached, "{position:?}");
        }
        assert!(!Until::End.reached(Some(at(9, 0))));
        assert!(Until::newest(at(5, 0), None).is_some());
        assert_eq!(Until::newest(at(5, 0), Some(at(5, 0))), None);
        assert_eq!(Until::newest(at(5, 0), Some(at(5, 2))), Some(until));
    }
}
