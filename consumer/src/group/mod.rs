//! Reading as a member of the group: one thread that polls, and that alone commits.
//!
//! The thread takes records from librdkafka's one queue and puts their bytes into chunks, one
//! growing per partition; a worker per partition applies them ([`crate::worker`]). Workers
//! report back, the thread commits. Rebalances happen inside `poll`, in
//! `context`, so polling, committing and rebalancing can never
//! overlap: token, assignment and commit are looked at in the same step.
//!
//! **Memory.** Half of the byte budget is librdkafka's queue, half are chunks. When the chunks
//! have used theirs the thread takes nothing more; if that lasts longer than a second it pauses
//! the partitions and polls on, so that the group does not take it for dead, and resumes them at
//! half of the budget. A pause throws away what librdkafka had fetched, so it is not done at once. A
//! fetch comes on top of a queue that is almost full; how large it is follows how far the records are compressed
//! (`fetch`).
//!
//! A worker that waits at a barrier waits for other partitions, so its chunks must not keep theirs
//! out: what it holds does not count, and what waits behind it is given back to Kafka when the
//! budget is used up.
//!
//! The same holds for a worker that stands still, as one that builds a large index: while another
//! partition could go on, it has no more than the chunks in its hands.
//!
//! **Where the time goes.** Of the processor time of an entry of 466 bytes (`perf`, on the machine of the
//! README; broker and target not counted):
//!
//! | thread | emit from bson, 1.7 µs | replay of inserts from bson, 1.5 µs | from raw, 0.9 µs |
//! | --- | --- | --- | --- |
//! | the workers | 53 %: reading and checking fields 15 %, writing JSON 23 % | 47 %: fields 16 %, planning 6 %, the kernel 8 % | 73 %: fields 29 %, planning 11 %, the kernel 12 % |
//! | this one | 30 %: taking records out of the queue, headers, copying values | 34 % | 6 % |
//! | librdkafka's, for the broker | 16 %: LZ4, records | 19 % | 19 % |
//!
//! What was dearer than all of that: `fetch.queue.backoff.ms`. A queue that was full once stands
//! still for that long, a second by default, and is empty after some milliseconds.

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

/// How long one poll waits when nothing is pending.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// How long one poll waits while workers have something to do, and may have something to report, and
/// where the program ends with the last of them.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// How long it waits while chunks are there for workers that had no room for them.
const BEHIND_POLL: Duration = Duration::from_millis(1);
/// Records, and bytes of them, taken before the thread hands on what it has and looks at anything
/// else: about a millisecond of work. A worker with small chunks has applied them by then.
const RECORDS_PER_TURN: usize = 1024;
const BYTES_PER_TURN: usize = 1 << 20;
/// A stall longer than this pauses the partitions.
const STALL_BEFORE_PAUSE: Duration = Duration::from_secs(1);
/// What is kept of the time for an orderly end, for the last commit and for leaving.
const RESERVE: Duration = Duration::from_secs(5);
/// How long leaving the group may take before its client is dropped, which waits on.
const LEAVE: Duration = Duration::from_secs(2);
/// How often the client that looks at the first records counts what it receives.
const COUNTED_EVERY_MS: &str = "50";
/// Largest record that a topic takes, with what is around it (CONTRACT: 100 MiB).
const LARGEST_RECORD: usize = (100 << 20) + (28 << 20);

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that the topics held at start is committed.
    CaughtUp,
    /// Shutdown was asked for.
    Stopped,
}

/// What the poll thread is connected to.
#[derive(Debug, Clone)]
pub struct GroupContextParts {
    /// What the sink knows about the group's past.
    pub past: Past,
    /// Whether Kafka has confirmed a commit of this member.
    pub committed: watch::Sender<bool>,
    /// Makes durable what workers have written, before it is committed.
    pub durability: Durability,
    /// Workers to start.
    pub starts: mpsc::Sender<Assignment>,
    /// The workers' reports.
    pub reports: Arc<Reports>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where partitions are shown.
    pub board: Board,
    /// What the program ends with.
    pub failure: Failure,
    /// Whether the program is ready.
    pub readiness: Arc<Readiness>,
    /// Whether this thread turns.
    pub health: Health,
    /// When to end.
    pub shutdown: Shutdown,
}

/// Reads as a member of the group until it has caught up or is stopped. Blocks its thread until then.
///
/// # Errors
/// When the group cannot be joined. What fails later is kept in [`GroupContextParts::failure`].
pub fn read(config: &GroupConfig, parts: &GroupContextParts) -> Result<Outcome, ConsumerError> {
    let (mut goal, mut fetch) = begin(config, parts)?;
    loop {
        match join(config, parts, goal, fetch)? {
            Joined::Ended(outcome) => return Ok(outcome),
            Joined::Again(next, smaller) => (goal, fetch) = (next, smaller),
        }
    }
}

/// Settles where the group begins; returns what is to be reached, and how much the first fetches
/// may ask for.
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
        tracing::info!("no topic of this prefix is there yet; they are read as they appear");
        parts.readiness.joined();
    }
    let goal = if config.until_caught_up {
        Some(Goal::new(start::written(&config.kafka, held, shutdown)?))
    } else {
        None
    };
    Ok((goal, FetchSize::of_ratio(ratio, config.queue_bytes)))
}

/// How a membership ended.
enum Joined {
    Ended(Outcome),
    /// The fetches were too large for what is read: the group is joined again with smaller ones.
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
        // Leaving may take longer than there is time for.
        poller.parts.failure.keep(error);
        // Workers that wait for their target are not to be waited for.
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
        .map_err(|error| ConsumerError::kafka("making the kafka client", error))
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
    // The client has one fetch under way. One that asks for partitions without anything new keeps those
    // that were left out of it, because their queue was full, waiting, and an end as well: where that
    // comes soon, answers do too. But each costs the broker and this client: with 10 ms a target that
    // shares their machine and is slow took a sixth fewer writes.
    let wait = if config.until_caught_up { "50" } else { "100" };
    // The operator may want fewer, larger fetches.
    for (name, value) in [
        ("fetch.wait.max.ms", wait),
        ("fetch.error.backoff.ms", "100"),
        // A full queue drains within milliseconds; the client's default is to stand still for a second.
        ("fetch.queue.backoff.ms", "5"),
        // How often new topics are looked for. All that came since are taken in by one rebalance, during
        // which the assigned partitions go on. A cluster with very many partitions may want it longer:
        // each member asks for the metadata of all topics.
        ("topic.metadata.refresh.interval.ms", "2000"),
    ] {
        if client.get(name).is_none() {
            client.set(name, value);
        }
    }
    client
}

/// The poll thread.
struct Poller {
    /// The pattern of the topics that are read.
    topics: String,
    consumer: BaseConsumer<GroupContext>,
    intake: Intake,
    parts: GroupContextParts,
    goal: Option<Goal>,
    /// Since when the budget is used up.
    stalled: Option<Instant>,
    /// What a fetch of this client asks for.
    fetch: FetchSize,
    queue_bytes: usize,
}

/// How polling ended.
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

    /// Smaller fetches, where what comes is compressed so far that those of this client take too much
    /// memory.
    fn shrinks(&self) -> Option<FetchSize> {
        let ratio = self.consumer.context().take_ratio()?;
        let smaller = self.fetch.shrunk(ratio, self.queue_bytes)?;
        tracing::info!(
            ratio,
            fetch.bytes = smaller.bytes(),
            "the records are compressed so far that a fetch takes much memory: joining the group \
             again with smaller fetches"
        );
        Some(smaller)
    }

    /// Takes what librdkafka has and hands it on.
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

    /// Back-pressure. Returns whether nothing may be taken for now.
    fn holds_back(&mut self) -> Result<bool, ConsumerError> {
        if self.consumer.context().is_paused() {
            if self.intake.is_under_half() {
                self.pause(false)?;
            } else {
                // Workers may have come to barriers since.
                evict::evict(&self.consumer, &mut self.intake)?;
            }
            // Polling goes on: it takes nothing but what was on its way.
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
            // Those that made room have to wait on.
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

    /// An error from polling: most pass, librdkafka goes on by itself.
    fn meet(&self, error: &KafkaError) -> Result<(), ConsumerError> {
        let code = error.rdkafka_error_code();
        self.parts.metrics.count_error("kafka");
        match code {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(rebalance::explain_lost(&self.consumer))
            }
            Some(RDKafkaErrorCode::PollExceeded) => {
                tracing::warn!("the group took this member for dead: it was stopped for too long");
                Ok(())
            }
            // The pattern matches nothing yet, or a topic was removed.
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(())
            }
            // The client continues behind it, or retries indefinitely.
            Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) => {
                let shown = self.consumer.context().partitions().places();
                Err(ConsumerError::kafka(
                    format!(
                        "reading a batch of records of one of {shown} (it is damaged, by its checksum \
                         or its compression; nothing behind it was applied; another replica may \
                         have it whole)"
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
                tracing::warn!(%error, "kafka client error; it goes on by itself");
                Ok(())
            }
        }
    }

    /// Stops the intake, lets the workers end, commits what they did, leaves the group.
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

    /// Whether members wait for their share of a rebalance, as far as Kafka reports it.
    fn completes_rebalance(&self) -> bool {
        let group = Some(self.consumer.context().group.as_str());
        let told = self.consumer.fetch_group_list(group, LEAVE / 2);
        told.is_ok_and(|told| {
            let mut groups = told.groups().iter();
            groups.any(|group| group.state() == "CompletingRebalance")
        })
    }

    /// Leaves the group. Dropping the client does so, too, but looks up only every 100 ms.
    fn close(&self) {
        let deadline = Instant::now() + LEAVE;
        // librdkafka 2.12 crashes if it is closed while the group completes a rebalance that then fails
        // (`rd_kafka_cgrp_handle_LeaveGroup` without a broker): three members that end at once do that.
        while self.completes_rebalance() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
        if let Err(error) = self.consumer.close_queue() {
            tracing::debug!(%error, "the group could not be left in good order");
            return;
        }
        while !self.consumer.closed() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
    }
}

/// What a retry cannot repair: missing privileges, and a group of another kind.
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
