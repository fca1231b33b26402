//! The loop of the poll thread.

use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::Heartbeat;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::caught_up::Goal;
use super::claims::ClaimWatch;
use super::context::GroupContext;
use super::fetch::FetchSize;
use super::intake::Intake;
use super::{GroupContextParts, Outcome, commit, evict, poll_error};
use crate::error::ConsumerError;

/// Timeout of a poll while nothing is pending.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Timeout of a poll while workers have chunks, because their reports may arrive, or with
/// `--until-caught-up`.
pub(super) const BUSY_POLL: Duration = Duration::from_millis(5);
/// Timeout of a poll while chunks are left for which their workers had no room.
const BEHIND_POLL: Duration = Duration::from_millis(1);
/// Maximum number of records that the thread takes before it hands on chunks and does its other
/// work. With a greater number, workers with small chunks would be idle while records are taken.
const RECORDS_PER_PASS: usize = 1024;
/// Maximum number of bytes of these records.
const BYTES_PER_PASS: usize = 1 << 20;
/// Time for which the chunk budget may be used up before the partitions are paused.
const STALL_BEFORE_PAUSE: Duration = Duration::from_secs(1);

/// The state of the poll thread.
pub(super) struct Poller {
    /// The pattern of the topics that are read.
    pub(super) topics: String,
    pub(super) consumer: BaseConsumer<GroupContext>,
    pub(super) intake: Intake,
    pub(super) parts: GroupContextParts,
    pub(super) goal: Option<Goal>,
    /// Time at which the chunk budget was used up; `None` if it is not.
    pub(super) full_since: Option<Instant>,
    /// The fetch size of this client.
    pub(super) fetch: FetchSize,
    pub(super) queue_bytes: usize,
    pub(super) heartbeat: Heartbeat,
    /// `None` if another program writes the topics.
    pub(super) claims: Option<ClaimWatch>,
}

/// The end of the poll loop.
pub(super) enum LoopEnd {
    Outcome(Outcome),
    /// The group is joined again with this fetch size.
    SmallerFetch(FetchSize),
}

impl Poller {
    pub(super) fn run(&mut self) -> Result<LoopEnd, ConsumerError> {
        loop {
            self.parts.health.beat();
            self.after_rebalance();
            self.heartbeat.wake_if_due(&self.consumer);
            if let Some(claims) = &mut self.claims {
                claims.refresh_if_claimed(&self.consumer);
            }
            if let Some(error) = self.consumer.context().take_failure() {
                return Err(error);
            }
            if self.parts.shutdown.triggered() {
                return Ok(LoopEnd::Outcome(Outcome::Stopped));
            }
            if let Some(smaller) = self.smaller_fetch() {
                return Ok(LoopEnd::SmallerFetch(smaller));
            }
            self.take_reports();
            evict::resume(&self.consumer, &self.intake)?;
            let committed = commit::commit_due(&self.consumer, self.goal.is_some());
            if let Some(goal) = &mut self.goal
                && goal.is_reached(&self.consumer, committed)?
            {
                tracing::info!(
                    "caught up: all records that the topics held at start are committed"
                );
                return Ok(LoopEnd::Outcome(Outcome::CaughtUp));
            }
            if !self.apply_back_pressure()? {
                self.take_records()?;
            }
            self.parts
                .metrics
                .queue_bytes
                .set(i64::try_from(self.intake.used()).unwrap_or(i64::MAX));
        }
    }

    /// Does what is due after a rebalance.
    fn after_rebalance(&mut self) {
        if !self.consumer.context().take_rebalanced() {
            return;
        }
        self.heartbeat.quicken();
        if let Some(claims) = &mut self.claims {
            claims.update(&self.consumer);
        }
    }

    /// Returns a smaller fetch size if the compression ratio of the records is so high that the fetches
    /// of this client use too much memory.
    fn smaller_fetch(&self) -> Option<FetchSize> {
        let ratio = self.consumer.context().take_ratio()?;
        let smaller = self.fetch.shrunk(ratio, self.queue_bytes)?;
        tracing::info!(
            ratio,
            fetch.bytes = smaller.bytes(),
            "the records have a high compression ratio, so each fetch uses a lot of memory: \
             joining the group again with smaller fetches"
        );
        Some(smaller)
    }

    /// Takes records from librdkafka and hands chunks on to the workers.
    fn take_records(&mut self) -> Result<(), ConsumerError> {
        let mut wait = if self.intake.is_behind() {
            BEHIND_POLL
        } else if self.intake.used() > 0 || self.goal.is_some() {
            BUSY_POLL
        } else {
            IDLE_POLL.min(self.heartbeat.interval())
        };
        let most = self.intake.used() + BYTES_PER_PASS;
        for _ in 0..RECORDS_PER_PASS {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(record)) => self
                    .intake
                    .take(&self.consumer, &record, &self.parts.metrics),
                Some(Err(error)) => poll_error::judge(&self.consumer, &self.topics, &error)?,
            }
            if self.intake.is_over() || self.intake.used() >= most {
                break;
            }
            wait = Duration::ZERO;
        }
        self.intake.hand_on(&self.consumer);
        Ok(())
    }

    /// Applies back-pressure. Returns true if no records may be taken for now.
    fn apply_back_pressure(&mut self) -> Result<bool, ConsumerError> {
        if self.consumer.context().is_paused() {
            if self.intake.is_under_half() {
                self.set_paused(false)?;
            } else {
                // More workers may have reached barriers since the last eviction.
                evict::evict(&self.consumer, &mut self.intake)?;
            }
            // Polling continues, so that the member stays in the group. Paused partitions return no
            // records.
            return Ok(false);
        }
        if !self.intake.is_over() {
            self.full_since = None;
            return Ok(false);
        }
        if evict::evict(&self.consumer, &mut self.intake)? {
            return Ok(false);
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if since.elapsed() > STALL_BEFORE_PAUSE {
            self.set_paused(true)?;
            return Ok(false);
        }
        self.parts.reports.wait(BUSY_POLL);
        self.take_reports();
        self.intake.hand_on(&self.consumer);
        Ok(true)
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), ConsumerError> {
        let failed = |error| ConsumerError::kafka("pausing or resuming partitions", error);
        if paused {
            tracing::debug!("the sink is slower than Kafka: pausing the partitions");
            let assignment = self.consumer.assignment().map_err(failed)?;
            self.consumer.pause(&assignment).map_err(failed)?;
        } else {
            tracing::debug!("the sink has caught up: resuming the partitions");
            // Evicted partitions stay paused.
            let list = self.consumer.context().partitions().reading();
            self.consumer.resume(&list).map_err(failed)?;
            self.full_since = None;
        }
        self.consumer.context().set_paused(paused);
        Ok(())
    }

    pub(super) fn take_reports(&mut self) {
        for chunk in self.consumer.context().take_reports(&mut self.intake) {
            self.intake.recycle(chunk);
        }
    }
}
