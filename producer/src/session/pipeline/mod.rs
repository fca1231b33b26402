//! The pipeline of source, encoder and publisher: each runs in its own thread, joined by short queues.

mod claimed;
mod handover;
mod silence;

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::{History, PositionRecord};
use oplog_relay_runtime::http::Health;
use tokio::sync::mpsc;

use crate::encode::chunk::Chunk;
use crate::encode::{Encoder, FIRST_ROUTING};
use crate::error::ProducerError;
use crate::publish::Publisher;
use crate::source::SourceEvent;
use crate::telemetry::metrics::Metrics;

/// Minimum time between two commits once caught up.
const COMMIT_GAP: Duration = Duration::from_millis(10);
/// Minimum duration of a transaction while catching up.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum duration of a transaction for each partition that it may write to, because the broker checks
/// in each transaction that a partition is part of it.
const COMMIT_INTERVAL_EACH: Duration = Duration::from_millis(5);
/// Part of the transaction timeout that bounds the duration of a transaction: one in this many. Within
/// it a transaction lasts at least ten times as long as the last commit took.
const COMMIT_INTERVAL_PART: u32 = 4;
/// Interval at which a position is saved that moved without a record (noops, filtered entries).
const POSITION_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which the publisher checks deliveries and health.
const TICK: Duration = Duration::from_millis(100);

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
    let mut hand_on = |chunk: &mut Chunk| {
        if chunk.is_empty() {
            return Ok(());
        }
        metrics.queued(i64::try_from(chunk.arena.len()).unwrap_or(0));
        handover.hand_over(chunk)
    };
    let begun = encoder.begin(&mut chunk, &mut hand_on);
    let result = loop {
        if let Err(error) = begun {
            break Err(error);
        }
        let outcome = match events.blocking_recv() {
            None => break Ok(()),
            Some(SourceEvent::Batch(batch)) => encoder.encode(&batch, &mut chunk, &mut hand_on),
            Some(SourceEvent::Earlier(batch)) => encoder.recall(&batch),
            Some(SourceEvent::Copied(copied)) => encoder.copy(&copied, &mut chunk, &mut hand_on),
            Some(SourceEvent::Idle) => {
                chunk.idle = true;
                Ok(())
            }
            Some(SourceEvent::CaughtUp) => {
                (chunk.idle, chunk.caught_up) = (true, true);
                Ok(())
            }
            Some(SourceEvent::End) => {
                chunk.finished = true;
                Ok(())
            }
        };
        if outcome.is_err() {
            encoder.complete(&mut chunk);
        }
        let handed = hand_on(&mut chunk);
        if let Err(error) = outcome.and(handed) {
            break Err(error);
        }
    };
    match result {
        // The publisher reports its own error, and an interruption was requested.
        Err(ProducerError::Ended("publisher") | ProducerError::Interrupted) => Ok(()),
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
    /// reached it. A position with an ordinal has not: a part of its entry is still to be sent.
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
    /// The queue was closed earlier. The chunks that came through it are committed.
    Stopped,
}

/// The publisher's loop.
#[derive(Debug)]
pub struct PublishLoop<'p> {
    /// The producer.
    pub publisher: Publisher,
    /// Metrics of the process.
    pub metrics: &'p Metrics,
    /// Health, which the loop beats on every turn.
    pub health: &'p Health,
    /// The condition under which the loop ends.
    pub until: Until,
    unsaved: Option<Position>,
    saved: Option<Position>,
    history: History,
    routing: u32,
    reads: u32,
    /// True if the state topic or the open transaction contains the source's record.
    has_state: bool,
    /// Topics that the open transaction claims.
    claimed: Vec<String>,
    others: Option<OtherClaims>,
    silence: Option<Silence>,
    /// The version of the routing table that must be reached before the loop is done.
    wanted_routing: u32,
    wall: i64,
    idle: bool,
    caught_up: bool,
    finished: bool,
    last_commit: Option<Instant>,
    began: Option<Instant>,
    /// Duration of the last commit.
    took: Duration,
}

impl<'p> PublishLoop<'p> {
    /// Creates a loop that has sent nothing. `unsaved` is a position to save even if no entry follows,
    /// `saved` the saved one.
    #[must_use]
    pub const fn new(
        publisher: Publisher,
        metrics: &'p Metrics,
        health: &'p Health,
        until: Until,
        (saved, unsaved): (Option<Position>, Option<Position>),
    ) -> Self {
        Self {
            publisher,
            metrics,
            health,
            until,
            unsaved,
            saved,
            history: History {
                begin: None,
                open: None,
            },
            routing: FIRST_ROUTING,
            wanted_routing: FIRST_ROUTING,
            reads: 0,
            has_state: false,
            claimed: Vec::new(),
            others: None,
            silence: None,
            wall: 0,
            idle: false,
            caught_up: false,
            finished: false,
            last_commit: None,
            began: None,
            took: Duration::ZERO,
        }
    }

    /// Sets the saved version of the routing table, and the wanted one.
    #[must_use]
    pub fn routing(mut self, saved: u32, wanted: u32) -> Self {
        (self.routing, self.wanted_routing) = (saved, wanted);
        self
    }

    /// Sets whether the state topic already contains the source's record.
    #[must_use]
    pub const fn having_state(mut self, has_state: bool) -> Self {
        self.has_state = has_state;
        self
    }

    /// Publishes until done or the queue is closed, then commits the open transaction.
    ///
    /// # Errors
    /// The errors of [`Publisher::send`] and [`Publisher::commit`].
    pub fn run(&mut self, intake: &Intake) -> Result<Outcome, ProducerError> {
        self.turn(intake).map_err(|error| {
            let error = self.publisher.explain(error);
            self.publisher.abort();
            error
        })
    }

    fn turn(&mut self, intake: &Intake) -> Result<Outcome, ProducerError> {
        loop {
            self.health.beat();
            match intake.full.recv_timeout(self.patience()) {
                Ok(chunk) => {
                    if let Some(silence) = &mut self.silence {
                        silence.heard(self.metrics);
                    }
                    self.take(&chunk)?;
                    intake.give_back(chunk);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.publisher.poll(Duration::ZERO)?;
                    if let Some(silence) = &mut self.silence {
                        silence.goes_on(self.metrics, self.health);
                    }
                    self.metrics.refresh();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.commit()?;
                    return Ok(if self.done() {
                        Outcome::Done
                    } else {
                        Outcome::Stopped
                    });
                }
            }
            if self.due() {
                self.commit()?;
            }
            if self.unsaved.is_none() && self.done() {
                return Ok(Outcome::Done);
            }
        }
    }

    fn take(&mut self, chunk: &Chunk) -> Result<(), ProducerError> {
        self.metrics
            .queued(-i64::try_from(chunk.arena.len()).unwrap_or(0));
        self.publisher.send(chunk)?;
        // The state topic is the first topic of every stream, and the source's record its first record.
        self.has_state |= !chunk.new_topics.is_empty();
        let claimed = chunk
            .new_topics
            .iter()
            .filter(|topic| topic.is_claimed_here);
        self.claimed.extend(claimed.map(|topic| topic.name.clone()));
        self.metrics.sent(chunk, self.publisher.in_flight());
        // A full sync and a change of the routing send records without moving the position.
        let moved = chunk.end != self.unsaved.or(self.saved)
            || chunk.routing != self.routing
            || !chunk.is_without_records();
        if chunk.end.is_some() && moved {
            self.unsaved = chunk.end;
            self.history = chunk.history;
            self.routing = chunk.routing;
            self.reads = chunk.reads;
            if chunk.last_wall > 0 {
                self.wall = chunk.last_wall;
            }
        }
        if self.publisher.in_transaction() && self.began.is_none() {
            self.began = Some(Instant::now());
        }
        self.idle = chunk.idle;
        self.finished |= chunk.finished;
        self.caught_up = chunk.caught_up;
        if self.caught_up && self.unsaved.is_none() {
            self.metrics.caught_up();
            self.works();
        }
        Ok(())
    }

    /// Returns the time to wait for the next chunk: at most until the next commit is due.
    fn patience(&self) -> Duration {
        let since = |instant: Option<Instant>| instant.map(|instant| instant.elapsed());
        match (self.publisher.in_transaction(), self.idle) {
            (true, true) => {
                COMMIT_GAP.saturating_sub(since(self.last_commit).unwrap_or(COMMIT_GAP))
            }
            (true, false) => self
                .interval()
                .saturating_sub(since(self.began).unwrap_or_default()),
            (false, _) => TICK,
        }
        .min(TICK)
    }

    fn due(&self) -> bool {
        if self.unsaved.is_none() {
            return false;
        }
        let since_commit = self.last_commit.map(|last| last.elapsed());
        if self.finished || self.reached(self.unsaved) {
            return true;
        }
        if !self.publisher.in_transaction() {
            return since_commit.is_none_or(|since| since >= POSITION_INTERVAL);
        }
        let open = self.began.map(|began| began.elapsed()).unwrap_or_default();
        let pause = since_commit.is_none_or(|since| since >= COMMIT_GAP);
        (self.idle && pause) || open >= self.interval()
    }

    fn interval(&self) -> Duration {
        let timeout = self.publisher.transaction_timeout();
        transaction_time(self.publisher.partitions(), self.took, timeout)
    }

    fn commit(&mut self) -> Result<(), ProducerError> {
        let Some(position) = self.unsaved.take() else {
            return Ok(());
        };
        let start = Instant::now();
        self.publisher.commit(&self.record(position))?;
        let took = start.elapsed();
        self.saved = Some(position);
        self.took = took;
        self.last_commit = Some(Instant::now());
        self.began = None;
        self.metrics
            .committed(position, self.wall, self.caught_up || self.finished, took);
        // Ready only after a commit: a request that Kafka refuses would be refused in every session.
        self.works();
        self.check_claims(position)
    }

    fn record(&self, position: Position) -> PositionRecord {
        PositionRecord {
            reads: self.reads,
            state: self.has_state,
            ..PositionRecord::new(position, self.routing).with_history(self.history)
        }
    }

    fn works(&self) {
        if self.metrics.source_answers() {
            self.health.set_ready(true, "");
        }
    }

    fn done(&self) -> bool {
        self.routing >= self.wanted_routing && (self.finished || self.reached(self.saved))
    }

    fn reached(&self, position: Option<Position>) -> bool {
        self.until.reached(position)
    }
}

use silence::Silence;

pub use claimed::OtherClaims;
pub use handover::{Handover, Intake, queues};

/// Returns the duration of a transaction while catching up, from the number of partitions that it may
/// write to and the duration of the last commit.
fn transaction_time(partitions: u64, last_commit: Duration, timeout: Duration) -> Duration {
    let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
    COMMIT_INTERVAL
        .max(COMMIT_INTERVAL_EACH.saturating_mul(partitions))
        .max(last_commit * 10)
        .min(timeout / COMMIT_INTERVAL_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_last_longer_where_commits_cost_more_but_not_for_ever() {
        let millis = Duration::from_millis;
        let time = |partitions, last| transaction_time(partitions, last, millis(60_000));
        assert_eq!(time(4, millis(30)), millis(1000));
        assert_eq!(time(4, millis(300)), millis(3000));
        assert_eq!(time(800, millis(30)), millis(4000));
        assert_eq!(time(u64::MAX, millis(0)), millis(15_000));
        assert_eq!(time(0, millis(9000)), millis(15_000));
        assert_eq!(
            transaction_time(0, millis(9000), millis(8000)),
            millis(2000)
        );
    }

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
