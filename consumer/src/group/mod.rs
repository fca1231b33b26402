//! Reading as a member of the consumer group. One thread polls, and only this thread commits.
//!
//! The thread takes records from librdkafka's queue and copies their bytes into chunks, of which each
//! partition has one that grows. A worker per partition applies them ([`crate::worker`]). Workers
//! report back, and the thread commits. Rebalances happen inside `poll`, in the callbacks of `context`,
//! so polling, committing and rebalancing can never overlap: token, assignment and commit are
//! consistent in each step.
//!
//! **Memory.** Half of the byte budget is for librdkafka's queue, half is for chunks. When the chunks
//! have used up their half, the thread takes no more records. If that lasts longer than a second, it
//! pauses the partitions and continues to poll, so that it is not removed from the group, and it
//! resumes them at half of the budget. A pause discards what librdkafka has fetched, so it is not done
//! at once. A fetch may come on top of a queue that is almost full; its size follows from the
//! compression ratio of the records (`fetch`).
//!
//! A worker at a barrier waits for other partitions, so its chunks must not keep their records out. The
//! chunks it holds do not count against the budget, and the chunks behind them are evicted when the
//! budget is used up: they are read again from Kafka later.
//!
//! The same holds for a stalled worker, for example one that builds a large index. While another
//! partition could continue, it has no more than the chunks that it already holds.
//!
//! **Processor time** of an entry of 466 bytes (`perf`, without broker and target):
//!
//! | thread | emit from bson, 1.7 µs | replay of inserts from bson, 1.5 µs | from raw, 0.9 µs |
//! | --- | --- | --- | --- |
//! | workers | 53 % (fields 15 %, JSON 23 %) | 47 % (fields 16 %, planning 6 %, kernel 8 %) | 73 % (fields 29 %, planning 11 %, kernel 12 %) |
//! | poll thread | 30 % (queue, headers, copies) | 34 % | 6 % |
//! | librdkafka's broker thread | 16 % (LZ4, records) | 19 % | 19 % |
//!
//! The setting `fetch.queue.backoff.ms` matters more than any of these. After its queue was full,
//! librdkafka does not fetch for that time, a second by default, although the queue is empty after some
//! milliseconds.

mod assigned;
mod caught_up;
mod commit;
pub mod committed;
mod context;
mod evict;
mod fetch;
mod intake;
pub mod offsets;
mod probe;
mod rebalance;
mod standstill;
pub mod start;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::{self, client_config};
use oplog_relay_runtime::shutdown::{GRACE, Shutdown};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{mpsc, watch};

use crate::config::GroupConfig;
use crate::error::ConsumerError;
use crate::failure::Failure;
use crate::group::start::Past;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::telemetry::status::Board;
use crate::worker::Assignment;
use crate::worker::applied::Durability;
use crate::worker::assignment::Reports;

use caught_up::Goal;
use context::GroupContext;
use fetch::FetchSize;
use intake::Intake;

/// Duration of a poll while nothing is pending.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Duration of a poll while workers have chunks, whose reports may arrive, or while the program is to
/// end once the group has caught up.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// Duration of a poll while chunks are left for which their workers had no room.
const BEHIND_POLL: Duration = Duration::from_millis(1);
/// Number of records, and of their bytes, that the thread takes before it hands on chunks and does its
/// other work. This is about a millisecond of work, after which a worker with small chunks has applied
/// them.
const RECORDS_PER_TURN: usize = 1024;
const BYTES_PER_TURN: usize = 1 << 20;
/// Time without progress after which the partitions are paused.
const STALL_BEFORE_PAUSE: Duration = Duration::from_secs(1);
/// Part of the shutdown grace period that is reserved for the last commit and for leaving the group.
const RESERVE: Duration = Duration::from_secs(5);
/// Time limit for leaving the group, after which the client is dropped, which also waits.
const LEAVE: Duration = Duration::from_secs(2);
/// Interval at which the client that probes the first records counts what it receives.
const COUNTED_EVERY_MS: &str = "50";
/// Largest record that a topic accepts (100 MiB), with room for the rest of its reply.
const LARGEST_RECORD: usize = (100 << 20) + (28 << 20);

/// The result of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that the topics held at start is committed.
    CaughtUp,
    /// Shutdown was requested.
    Stopped,
}

/// The parts that the poll thread is connected to.
#[derive(Debug, Clone)]
pub struct GroupContextParts {
    /// The sink's knowledge of the group's past.
    pub past: Past,
    /// True once Kafka has confirmed a commit of this member.
    pub committed: watch::Sender<bool>,
    /// Makes durable what workers have written, before it is committed.
    pub durability: Durability,
    /// The queue of assignments, each of which starts a worker.
    pub starts: mpsc::Sender<Assignment>,
    /// The workers' reports.
    pub reports: Arc<Reports>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The status of the partitions.
    pub board: Board,
    /// The failure that the program ends with.
    pub failure: Failure,
    /// The readiness of the program.
    pub readiness: Arc<Readiness>,
    /// The liveness of this thread.
    pub health: Health,
    /// The shutdown signal.
    pub shutdown: Shutdown,
}

/// Reads as a member of the group until it has caught up or is stopped. Blocks the calling thread.
///
/// # Errors
/// Returns an error if the group cannot be joined. Later failures are recorded in
/// [`GroupContextParts::failure`].
pub fn read(config: &GroupConfig, parts: &GroupContextParts) -> Result<Outcome, ConsumerError> {
    let (mut goal, mut fetch) = begin(config, parts)?;
    loop {
        match join(config, parts, goal, fetch)? {
            Joined::Ended(outcome) => return Ok(outcome),
            Joined::Again(next, smaller) => (goal, fetch) = (next, smaller),
        }
    }
}

/// Settles where the group starts. Returns the goal, if the program ends once it has caught up, and the
/// size of the first fetches.
fn begin(
    config: &GroupConfig,
    parts: &GroupContextParts,
) -> Result<(Option<Goal>, FetchSize), ConsumerError> {
    let mut client = consumer_config(config, FetchSize::PROBE);
    client
        .set("enable.partition.eof", "true")
        .set("statistics.interval.ms", COUNTED_EVERY_MS);
    let consumer = connect(&client, config, parts)?;
    let shutdown = &parts.shutdown;
    let held = start::held(&consumer, &config.prefix, shutdown)?;
    start::settle(&consumer, config, &held, &parts.past, shutdown)?;
    let ratio = probe::ratio(&consumer, &held, shutdown).unwrap_or_default();
    if held.is_empty() {
        tracing::info!("no topic with this prefix exists yet; topics are read as they appear");
        parts.readiness.joined();
    }
    let goal = if config.until_caught_up {
        Some(Goal::new(start::written(&config.kafka, held, shutdown)?))
    } else {
        None
    };
    Ok((goal, FetchSize::of_ratio(ratio, config.queue_bytes)))
}

/// The end of a membership.
enum Joined {
    Ended(Outcome),
    /// The fetches were too large for the records: the group is joined again with smaller ones.
    Again(Option<Goal>, FetchSize),
}

fn join(
    config: &GroupConfig,
    parts: &GroupContextParts,
    goal: Option<Goal>,
    fetch: FetchSize,
) -> Result<Joined, ConsumerError> {
    let consumer = connect(&consumer_config(config, fetch), config, parts)?;
    // Neither the prefix nor the dots need an escape inside the brackets.
    let pattern = format!("^{}\\.[^.]+\\.[^.]+$", config.prefix);
    consumer
        .subscribe(&[&pattern])
        .map_err(|error| ConsumerError::kafka(format!("subscribing to {pattern}"), error))?;
    let bytes = fetch.bytes();
    tracing::info!(
        group = config.group,
        pattern,
        fetch.bytes = bytes,
        "joining the group"
    );
    let mut poller = Poller {
        topics: pattern,
        intake: Intake::new(config.queue_bytes / 2),
        consumer,
        parts: parts.clone(),
        goal,
        stalled: None,
        fetch,
        queue_bytes: config.queue_bytes,
    };
    let turned = poller.run().unwrap_or_else(|error| {
        // The failure is recorded first, because leaving the group may exceed the grace period.
        poller.parts.failure.keep(error);
        // Workers that wait for their target must stop, too.
        poller.parts.shutdown.trigger();
        Turned::Ended(Outcome::Stopped)
    });
    poller.leave();
    if let Some(error) = poller.consumer.context().take_failure() {
        poller.parts.failure.keep(error);
        return Ok(Joined::Ended(Outcome::Stopped));
    }
    Ok(match turned {
        Turned::Ended(outcome) => Joined::Ended(outcome),
        Turned::Shrinks(smaller) => Joined::Again(poller.goal.take(), smaller),
    })
}

fn connect(
    client: &ClientConfig,
    config: &GroupConfig,
    parts: &GroupContextParts,
) -> Result<BaseConsumer<GroupContext>, ConsumerError> {
    let context = GroupContext::new(config.group.clone(), parts.clone());
    client
        .create_with_context(context)
        .map_err(|error| ConsumerError::kafka("creating the Kafka client", error))
}

fn consumer_config(config: &GroupConfig, fetch: FetchSize) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    fetch.set(&mut client);
    client
        .set("group.id", &config.group)
        .set("client.id", "oplog-consumer")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("check.crcs", "true")
        .set("statistics.interval.ms", "1000")
        .set(
            "queued.max.messages.kbytes",
            (config.queue_bytes / 2 / 1024).max(1).to_string(),
        )
        .set("queued.min.messages", "100000")
        .set("receive.message.max.bytes", LARGEST_RECORD.to_string());
    // The client has one fetch under way. A fetch for partitions without anything new delays those that
    // were left out of it because their queue was full, and it delays the detection of an end. With a
    // short wait, replies come soon, but each costs the broker and this client: with 10 ms, a slow
    // target on the same machine did a sixth fewer writes.
    let wait = if config.until_caught_up { "50" } else { "100" };
    // The operator may override these, for example to get fewer, larger fetches.
    for (name, value) in [
        ("fetch.wait.max.ms", wait),
        ("fetch.error.backoff.ms", "100"),
        // A full queue drains within milliseconds; the client's default is to fetch nothing for a
        // second.
        ("fetch.queue.backoff.ms", "5"),
        // Interval of the search for new topics. All topics that were created since are added by one
        // rebalance, during which the assigned partitions continue. A cluster with very many partitions
        // may need a longer interval, because each member requests the metadata of all topics.
        ("topic.metadata.refresh.interval.ms", "2000"),
    ] {
        if client.get(name).is_none() {
            client.set(name, value);
        }
    }
    client
}

/// The state of the poll thread.
struct Poller {
    /// The pattern of the topics that are read.
    topics: String,
    consumer: BaseConsumer<GroupContext>,
    intake: Intake,
    parts: GroupContextParts,
    goal: Option<Goal>,
    /// Time since which the budget is used up.
    stalled: Option<Instant>,
    /// The fetch size of this client.
    fetch: FetchSize,
    queue_bytes: usize,
}

/// The end of the poll loop.
enum Turned {
    Ended(Outcome),
    Shrinks(FetchSize),
}

impl Poller {
    fn run(&mut self) -> Result<Turned, ConsumerError> {
        loop {
            self.parts.health.beat();
            if let Some(error) = self.consumer.context().take_failure() {
                return Err(error);
            }
            if self.parts.shutdown.triggered() {
                return Ok(Turned::Ended(Outcome::Stopped));
            }
            if let Some(smaller) = self.shrinks() {
                return Ok(Turned::Shrinks(smaller));
            }
            self.take_reports();
            evict::resume(&self.consumer, &self.intake)?;
            let committed = commit::commit_due(&self.consumer, self.goal.is_some());
            if let Some(goal) = &mut self.goal
                && goal.is_reached(&self.consumer, committed)?
            {
                tracing::info!("caught up: everything that the topics held at start is committed");
                return Ok(Turned::Ended(Outcome::CaughtUp));
            }
            if !self.holds_back()? {
                self.turn()?;
            }
            self.parts
                .metrics
                .queue_bytes
                .set(i64::try_from(self.intake.used()).unwrap_or(i64::MAX));
        }
    }

    /// Returns a smaller fetch size if the records are compressed so far that the fetches of this
    /// client take too much memory.
    fn shrinks(&self) -> Option<FetchSize> {
        let ratio = self.consumer.context().take_ratio()?;
        let smaller = self.fetch.shrunk(ratio, self.queue_bytes)?;
        tracing::info!(
            ratio,
            fetch.bytes = smaller.bytes(),
            "the compression ratio of the records is high, so that a fetch takes much memory: \
             joining the group again with smaller fetches"
        );
        Some(smaller)
    }

    /// Takes the records that librdkafka has and hands chunks on.
    fn turn(&mut self) -> Result<(), ConsumerError> {
        let mut wait = if self.intake.is_behind() {
            BEHIND_POLL
        } else if self.intake.used() > 0 || self.goal.is_some() {
            BUSY_POLL
        } else {
            IDLE_POLL
        };
        let most = self.intake.used() + BYTES_PER_TURN;
        for _ in 0..RECORDS_PER_TURN {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(record)) => self
                    .intake
                    .take(&self.consumer, &record, &self.parts.metrics),
                Some(Err(error)) => self.meet(&error)?,
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
    fn holds_back(&mut self) -> Result<bool, ConsumerError> {
        if self.consumer.context().is_paused() {
            if self.intake.is_under_half() {
                self.pause(false)?;
            } else {
                // Workers may have come to barriers since the last eviction.
                evict::evict(&self.consumer, &mut self.intake)?;
            }
            // Polling continues. It returns only records that were fetched before the pause.
            return Ok(false);
        }
        if !self.intake.is_over() {
            self.stalled = None;
            return Ok(false);
        }
        if evict::evict(&self.consumer, &mut self.intake)? {
            return Ok(false);
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        if since.elapsed() > STALL_BEFORE_PAUSE {
            self.pause(true)?;
            return Ok(false);
        }
        self.parts.reports.wait(BUSY_POLL);
        self.take_reports();
        self.intake.hand_on(&self.consumer);
        Ok(true)
    }

    fn pause(&mut self, pause: bool) -> Result<(), ConsumerError> {
        let failed = |error| ConsumerError::kafka("pausing or resuming partitions", error);
        if pause {
            tracing::debug!("the sink is slower than kafka: pausing");
            let assignment = self.consumer.assignment().map_err(failed)?;
            self.consumer.pause(&assignment).map_err(failed)?;
        } else {
            tracing::debug!("going on: the sink has caught up");
            // Evicted partitions stay paused.
            let list = self.consumer.context().partitions().reading();
            self.consumer.resume(&list).map_err(failed)?;
            self.stalled = None;
        }
        self.consumer.context().set_paused(pause);
        Ok(())
    }

    fn take_reports(&mut self) {
        for chunk in self.consumer.context().take_reports(&mut self.intake) {
            self.intake.recycle(chunk);
        }
    }

    /// Handles an error from polling. Most errors are transient, and librdkafka recovers by itself.
    fn meet(&self, error: &KafkaError) -> Result<(), ConsumerError> {
        let code = error.rdkafka_error_code();
        self.parts.metrics.count_error("kafka");
        match code {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(rebalance::explain_lost(&self.consumer))
            }
            Some(RDKafkaErrorCode::PollExceeded) => {
                tracing::warn!(
                    "removed from the consumer group: no poll within max.poll.interval.ms"
                );
                Ok(())
            }
            // The pattern does not match any topic yet, or a topic was removed.
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(())
            }
            // The client would skip the batch, or retry it indefinitely.
            Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) => {
                let shown = self.consumer.context().partitions().places();
                Err(ConsumerError::kafka(
                    format!(
                        "reading a batch of records of one of {shown} (the batch is damaged, by its \
                         checksum or its compression; nothing after it was applied; another replica may \
                         have it intact)"
                    ),
                    error.clone(),
                ))
            }
            _ if kafka::is_fatal(error) || is_refusal(code) => {
                let right = format!(
                    "Read on group {} and on all topics {}",
                    self.consumer.context().group,
                    self.topics
                );
                let doing = "reading as a member of the group";
                let doing = kafka::with_right(doing, error, &right);
                Err(ConsumerError::kafka(doing, error.clone()))
            }
            _ => {
                tracing::warn!(%error, "Kafka client error; the client recovers by itself");
                Ok(())
            }
        }
    }

    /// Closes the queues, lets the workers end, commits what they acknowledged and leaves the group.
    fn leave(&mut self) {
        let context = self.consumer.context();
        context.close_queues();
        let left = self.parts.shutdown.time_left().unwrap_or(GRACE);
        let deadline = Instant::now() + left.saturating_sub(RESERVE);
        while context.has_workers() && Instant::now() < deadline {
            self.parts.health.beat();
            self.parts.reports.wait(BUSY_POLL);
            for chunk in context.take_reports(&mut self.intake) {
                drop(chunk);
            }
            context.abandon_waits();
        }
        context.invalidate_all();
        drop(context.take_reports(&mut self.intake));
        if !self.consumer.assignment_lost()
            && let Some(commits) = context.acknowledged()
        {
            commit::commit(&self.consumer, &commits);
        }
        context.forget_all();
        self.close();
    }

    /// Returns true if Kafka reports that the group is completing a rebalance.
    fn completes_rebalance(&self) -> bool {
        let group = Some(self.consumer.context().group.as_str());
        let told = self.consumer.fetch_group_list(group, LEAVE / 2);
        told.is_ok_and(|told| {
            let mut groups = told.groups().iter();
            groups.any(|group| group.state() == "CompletingRebalance")
        })
    }

    /// Leaves the group. Dropping the client also leaves it, but checks for the end only every 100 ms.
    fn close(&self) {
        let deadline = Instant::now() + LEAVE;
        // librdkafka 2.12 crashes if it is closed while the group completes a rebalance that then fails
        // (`rd_kafka_cgrp_handle_LeaveGroup` without a broker). Three members that end at once cause
        // this.
        while self.completes_rebalance() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
        if let Err(error) = self.consumer.close_queue() {
            tracing::debug!(
                %error,
                "leaving the group failed; dropping the client leaves it"
            );
            return;
        }
        while !self.consumer.closed() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
    }
}

/// Returns true for errors that a retry cannot repair: missing privileges, and a group of another kind.
fn is_refusal(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Some(
            Code::GroupAuthorizationFailed
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::InconsistentGroupProtocol
                | Code::InvalidGroupId
                | Code::InvalidSessionTimeout
                | Code::MessageSizeTooLarge
        )
    )
}
