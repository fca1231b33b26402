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
//! - `poller` is the loop of the thread; `leave` leaves the group at its end, and `poll_error` judges the
//!   errors of a poll
//! - `client` has the settings of the client; `claims` watches the state topics for new topics
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
mod claims;
mod client;
mod commit;
pub mod committed;
mod context;
mod evict;
mod fetch;
mod intake;
mod leave;
pub mod offsets;
mod poll_error;
mod poller;
mod probe;
mod rebalance;
mod stall_detector;
pub mod start;

use std::sync::Arc;

use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::kafka::Heartbeat;
use oplog_relay_runtime::shutdown::Shutdown;
use rdkafka::consumer::Consumer;
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
use claims::ClaimWatch;
use client::{connect, consumer_config};
use fetch::FetchSize;
use intake::{Identity, Intake};
use poller::{LoopEnd, Poller};

/// Statistics interval, in milliseconds, of the client that probes the first records.
const COUNTED_EVERY_MS: &str = "50";

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
    let ranges = start::log_ranges(&consumer, &config.input, shutdown)?;
    start::settle(&consumer, config, &ranges, &parts.past, shutdown)?;
    let ratio = probe::ratio(&consumer, &ranges, shutdown).unwrap_or_default();
    if ranges.is_empty() {
        tracing::info!(
            topics = config.input.shown(),
            "none of the topics exists yet; topics are read as they appear"
        );
        parts.readiness.joined();
    }
    let goal = if config.until_caught_up {
        Some(Goal::new(start::written(&config.kafka, ranges, shutdown)?))
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
        claims: claims(config),
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

/// Returns a watch for new topics of the group, which is an aid only: without it they are found later.
fn claims(config: &GroupConfig) -> Option<ClaimWatch> {
    let watch = ClaimWatch::new(&config.kafka, config.input.prefix()?);
    watch
        .inspect_err(|error| tracing::warn!(%error, "new topics are found after up to 2 seconds"))
        .ok()
}
