//! Reading as a member of the consumer group. One thread polls, and only this thread commits.
//!
//! The thread takes records from librdkafka's queue and copies their bytes into the open chunk of their
//! partition. One worker per partition applies the chunks ([`crate::worker`]) and reports back, and the
//! thread commits. Rebalances happen inside `poll`, in the callbacks of `context`, so polling,
//! committing and rebalancing never overlap: token, assignment and commit are always consistent.
//!
//! **Memory.** Half of the byte budget is for librdkafka's queue, half is for chunks. When the chunks
//! have used up their half, the thread takes no more records. If that lasts longer than a second, it
//! pauses the partitions and continues to poll, so that the member is not removed from the group.
//! It resumes them when at most half of the chunk budget is used. The thread does not pause at
//! once, because a pause discards the records that librdkafka has fetched. librdkafka's queue may
//! exceed its half by one fetch, because a fetch is also sent when the queue is almost full. The
//! size of fetches is therefore chosen by the compression ratio of the records (`fetch`).
//!
//! A worker at a barrier waits for other partitions, so its chunks must not use up the memory for their
//! records. The chunks that it holds do not count against the budget. The chunks queued behind them are
//! evicted when the budget is used up, and are read again from Kafka later.
//!
//! The same applies to a stalled worker, for example one that builds a large index. While another
//! partition could continue, the stalled worker keeps only the chunks that it already holds.
//!
//! The setting `fetch.queue.backoff.ms` has a great effect on the throughput. When its queue is
//! full, librdkafka stops fetching for that time, which is a second by default, although the queue
//! is empty after a few milliseconds.
//!
//! # Modules
//!
//! - `start` determines the start offsets of a new group
//! - `context` has the callbacks of librdkafka; `rebalance` handles assignments and revocations
//! - `fetch` determines the size of fetches from the compression ratio, which `probe` measures
//! - `intake` takes records from the client into chunks, within a memory budget; `evict` discards
//!   chunks to free memory
//! - `assigned` has the assigned partitions, and `offsets` the offsets that may be committed for
//!   each of them
//! - `commit` commits acknowledged offsets; `committed` looks up committed offsets for workers at
//!   barriers
//! - `caught_up` detects the end of a run with `--until-caught-up`
//! - `stall_detector` detects that a member makes no progress although work is pending

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
mod stall_detector;
pub mod start;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::{self, HEARTBEAT_MS, Heartbeat, client_config};
use oplog_relay_runtime::shutdown::{GRACE, Shutdown};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{mpsc, watch};

use crate::config::GroupConfig;
use crate::error::ConsumerError;
use crate::failure::Failure;
use crate::group::start::Past;
use crate::input::INTERNAL_TOPICS;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::telemetry::status::Board;
use crate::worker::Assignment;
use crate::worker::applied::Durability;
use crate::worker::assignment::Reports;

use caught_up::Goal;
use context::GroupContext;
use fetch::FetchSize;
use intake::{Identity, Intake};

/// Timeout of a poll while nothing is pending.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Timeout of a poll while workers have chunks, because their reports may arrive, or with
/// `--until-caught-up`.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// Timeout of a poll while chunks are left for which their workers had no room.
const BEHIND_POLL: Duration = Duration::from_millis(1);
/// Maximum number of records that the thread takes before it hands on chunks and does its other
/// work. With a greater number, workers with small chunks would be idle while records are taken.
const RECORDS_PER_PASS: usize = 1024;
/// Maximum number of bytes of these records.
const BYTES_PER_PASS: usize = 1 << 20;
/// Time for which the chunk budget may be used up before the partitions are paused.
const STALL_BEFORE_PAUSE: Duration = Duration::from_secs(1);
/// Part of the shutdown grace period that is reserved for the last commit and for leaving the group.
const RESERVE: Duration = Duration::from_secs(5);
/// Time limit for leaving the group. After that, the client is dropped, which also leaves the
/// group.
const LEAVE: Duration = Duration::from_secs(2);
/// Statistics interval, in milliseconds, of the client that probes the first records.
const COUNTED_EVERY_MS: &str = "50";
/// Maximum size of a reply: the largest record that a topic accepts (100 MiB), and room for the
/// headers and for other partitions.
const LARGEST_REPLY: usize = (100 << 20) + (28 << 20);

/// The result of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The group has committed all records that the topics contained at start.
    CaughtUp,
    /// Shutdown was requested.
    Stopped,
}

/// The parts that the poll thread is connected to.
#[derive(Debug, Clone)]
pub struct GroupContextParts {
    /// What the destination shows about earlier runs of the group.
    pub past: Past,
    /// True once Kafka has confirmed a commit of this member.
    pub committed: watch::Sender<bool>,
    /// Makes the workers' output durable before its offsets are committed.
    pub durability: Durability,
    /// The queue of assignments, each of which starts a worker.
    pub assignments: mpsc::Sender<Assignment>,
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
/// Returns an error if the start of the group cannot be determined, or if the client cannot
/// subscribe to the topics. Later failures are recorded in [`GroupContextParts::failure`].
pub fn read(config: &GroupConfig, parts: &GroupContextParts) -> Result<Outcome, ConsumerError> {
    let (mut goal, mut fetch) = begin(config, parts)?;
    loop {
        match read_as_member(config, parts, goal, fetch)? {
            MembershipEnd::Ended(outcome) => return Ok(outcome),
            MembershipEnd::Again(next, smaller) => (goal, fetch) = (next, smaller),
        }
    }
}

/// Commits the start offsets of a new group. Returns the goal of a run with `--until-caught-up`,
/// and the size of the first fetches.
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
    let held = start::held(&consumer, &config.input, shutdown)?;
    start::settle(&consumer, config, &held, &parts.past, shutdown)?;
    let ratio = probe::ratio(&consumer, &held, shutdown).unwrap_or_default();
    if held.is_empty() {
        tracing::info!(
            topics = config.input.shown(),
            "none of the topics exists yet; topics are read as they appear"
        );
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
enum MembershipEnd {
    Ended(Outcome),
    /// The fetches were too large for the records: the group is joined again with smaller ones.
    Again(Option<Goal>, FetchSize),
}

/// Joins the group, reads until the run ends or needs smaller fetches, and leaves the group.
fn read_as_member(
    config: &GroupConfig,
    parts: &GroupContextParts,
    goal: Option<Goal>,
    fetch: FetchSize,
) -> Result<MembershipEnd, ConsumerError> {
    let consumer = connect(&consumer_config(config, fetch), config, parts)?;
    let patterns = config.input.subscription();
    let expressions: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let pattern = patterns.join(", ");
    consumer
        .subscribe(&expressions)
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
        intake: Intake::new(config.queue_bytes / 2, Identity::of(&config.input)),
        consumer,
        parts: parts.clone(),
        goal,
        full_since: None,
        fetch,
        queue_bytes: config.queue_bytes,
        heartbeat: Heartbeat::new(),
    };
    let end = poller.run().unwrap_or_else(|error| {
        // The failure is recorded first, because leaving the group may exceed the grace period.
        poller.parts.failure.keep(error);
        // Workers that wait for their target must also stop.
        poller.parts.shutdown.trigger();
        LoopEnd::Outcome(Outcome::Stopped)
    });
    poller.leave();
    if let Some(error) = poller.consumer.context().take_failure() {
        poller.parts.failure.keep(error);
        return Ok(MembershipEnd::Ended(Outcome::Stopped));
    }
    Ok(match end {
        LoopEnd::Outcome(outcome) => MembershipEnd::Ended(outcome),
        LoopEnd::SmallerFetch(smaller) => MembershipEnd::Again(poller.goal.take(), smaller),
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
        .set("receive.message.max.bytes", LARGEST_REPLY.to_string());
    if config.input.foreign().is_some() {
        // A pattern may match internal topics, which would be assigned to the group.
        client.set("topic.blacklist", INTERNAL_TOPICS);
    }
    // The client has at most one fetch in flight for each broker. A fetch for partitions without
    // new records delays the partitions that it does not include because their queue was full, and
    // it delays the detection of a partition's end. With a short wait, replies arrive sooner, but
    // each reply costs the broker and this client processor time.
    let wait = if config.until_caught_up { "50" } else { "100" };
    // The operator may override these, for example to get fewer, larger fetches.
    for (name, value) in [
        ("fetch.wait.max.ms", wait),
        ("fetch.error.backoff.ms", "100"),
        // A full queue drains within milliseconds. By default, the client then fetches nothing for
        // a second.
        ("fetch.queue.backoff.ms", "5"),
        // Interval of the search for new topics. One rebalance adds all topics that were created in the
        // meantime, and the assigned partitions continue during it. A cluster with very many partitions
        // may need a longer interval, because each member requests the metadata of all topics.
        ("topic.metadata.refresh.interval.ms", "2000"),
        // The time for which partitions that move to another member are not read.
        ("heartbeat.interval.ms", HEARTBEAT_MS),
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
    /// Time at which the chunk budget was used up; `None` if it is not.
    full_since: Option<Instant>,
    /// The fetch size of this client.
    fetch: FetchSize,
    queue_bytes: usize,
    heartbeat: Heartbeat,
}

/// The end of the poll loop.
enum LoopEnd {
    Outcome(Outcome),
    /// The group is joined again with this fetch size.
    SmallerFetch(FetchSize),
}

impl Poller {
    fn run(&mut self) -> Result<LoopEnd, ConsumerError> {
        loop {
            self.parts.health.beat();
            self.heartbeat.wake_if_due(&self.consumer);
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
            IDLE_POLL
        };
        let most = self.intake.used() + BYTES_PER_PASS;
        for _ in 0..RECORDS_PER_PASS {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(record)) => self
                    .intake
                    .take(&self.consumer, &record, &self.parts.metrics),
                Some(Err(error)) => self.handle_poll_error(&error)?,
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

    fn take_reports(&mut self) {
        for chunk in self.consumer.context().take_reports(&mut self.intake) {
            self.intake.recycle(chunk);
        }
    }

    /// Handles an error from polling. Most errors are transient, and librdkafka recovers by itself.
    fn handle_poll_error(&self, error: &KafkaError) -> Result<(), ConsumerError> {
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
                        "reading a record batch (the batch is damaged: its checksum or compression \
                         is invalid; no record after it was applied; another replica may have an \
                         intact copy; the batch is at one of these positions: {shown})"
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

    /// Closes the queues, waits for the workers to end, commits the offsets that they acknowledged, and
    /// leaves the group.
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
    fn is_completing_rebalance(&self) -> bool {
        let group = Some(self.consumer.context().group.as_str());
        let list = self.consumer.fetch_group_list(group, LEAVE / 2);
        list.is_ok_and(|list| {
            let mut groups = list.groups().iter();
            groups.any(|group| group.state() == "CompletingRebalance")
        })
    }

    /// Leaves the group. Dropping the client also leaves it, but checks for the end only every 100 ms.
    fn close(&self) {
        let deadline = Instant::now() + LEAVE;
        // librdkafka 2.12 crashes if it is closed while the group completes a rebalance that then fails
        // (`rd_kafka_cgrp_handle_LeaveGroup` without a broker). This can happen if three members end at
        // the same time.
        while self.is_completing_rebalance() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
        if let Err(error) = self.consumer.close_queue() {
            tracing::debug!(
                %error,
                "leaving the group failed; the group is left when the client is dropped"
            );
            return;
        }
        while !self.consumer.closed() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
    }
}

/// Returns true for errors that a retry cannot fix: missing rights, invalid settings, a group
/// with another protocol, and a record larger than the client may receive.
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
