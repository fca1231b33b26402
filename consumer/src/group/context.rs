//! The context of the group's client: the callbacks of librdkafka, which run within `poll`, and the
//! state that the poll thread shares with them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_runtime::kafka::Context;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::GroupContextParts;
use super::assigned::{Partition, Partitions};
use super::fetch::Received;
use super::intake::Intake;
use super::rebalance;
use super::stall_detector::{Connection, StallDetector};
use crate::error::ConsumerError;
use crate::group::offsets::NextOffset;
use crate::worker::assignment::ReportEvent;
use crate::worker::chunk::Chunk;

/// Minimum number of record bytes within a second for which the compression ratio is evaluated.
const MIN_BYTES_FOR_RATIO: u64 = 4 << 20;

/// The counts of what the client has received.
#[derive(Debug, Default)]
struct Counted {
    received: Received,
    /// Number of times that the counts were updated.
    updates: u64,
}

/// The context of the group's client.
#[derive(Debug)]
pub(super) struct GroupContext {
    kafka: Context,
    pub(super) group: String,
    pub(super) parts: GroupContextParts,
    partitions: Mutex<Partitions>,
    stalls: Mutex<StallDetector>,
    received: Mutex<Counted>,
    /// The highest compression ratio of any one second's records since [`Self::take_ratio`] was
    /// last called.
    ratio: Mutex<Option<u64>>,
    failure: Mutex<Option<ConsumerError>>,
    /// Time of the last attempt to commit.
    committed: Mutex<Option<Instant>>,
    /// Bytes released during a rebalance that are not yet returned to the budget.
    released: AtomicUsize,
    /// True while the sink is slower than Kafka. All partitions are paused then, including newly
    /// assigned ones.
    paused: AtomicBool,
    /// True while the member leaves the group. Newly assigned partitions are not read then.
    leaving: AtomicBool,
    /// True if a rebalance has ended since the poll loop last asked, and at first, because the member
    /// is about to join.
    rebalanced: AtomicBool,
}

/// Locks a mutex. Only the poll thread takes these locks, so they are never contended; a panic under
/// one of them ends the thread and with it the program.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupContext {
    pub(super) fn new(group: String, parts: GroupContextParts) -> Self {
        let stalls = StallDetector::new(parts.health.limit(), Instant::now());
        Self {
            kafka: Context::new(),
            group,
            parts,
            partitions: Mutex::default(),
            stalls: Mutex::new(stalls),
            received: Mutex::default(),
            ratio: Mutex::default(),
            failure: Mutex::default(),
            committed: Mutex::default(),
            released: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            rebalanced: AtomicBool::new(true),
        }
    }

    pub(super) fn partitions(&self) -> MutexGuard<'_, Partitions> {
        lock(&self.partitions)
    }

    /// Returns the counts of what the client has received, as last updated.
    pub(super) fn received(&self) -> Received {
        lock(&self.received).received
    }

    /// Returns the number of times that the counts were updated.
    pub(super) fn count_updates(&self) -> u64 {
        lock(&self.received).updates
    }

    /// Returns the highest compression ratio of any one second's records since the last call.
    pub(super) fn take_ratio(&self) -> Option<u64> {
        lock(&self.ratio).take()
    }

    /// Updates the counts of what the client has received.
    fn count(&self, received: Received) {
        let mut counted = lock(&self.received);
        // One poll may serve the statistics of several seconds, if the loop waited for its sink before.
        let mut ratio = lock(&self.ratio);
        *ratio = (*ratio).max(received.ratio_since(counted.received, MIN_BYTES_FOR_RATIO));
        counted.received = received;
        counted.updates += 1;
    }

    /// Returns true if the last attempt to commit was at least `interval` ago, and records that
    /// another one begins now.
    pub(super) fn begin_commit_if_due(&self, interval: Duration) -> bool {
        let mut committed = lock(&self.committed);
        let due = committed.is_none_or(|committed| committed.elapsed() >= interval);
        if due {
            *committed = Some(Instant::now());
        }
        due
    }

    /// Makes the poll loop commit soon, as if the last commit were a long time ago.
    pub(super) fn commit_soon(&self) {
        *lock(&self.committed) = None;
    }

    /// Records the first failure of a callback or of a commit, with which the poll loop ends.
    pub(super) fn fail(&self, error: ConsumerError) {
        lock(&self.failure).get_or_insert(error);
    }

    pub(super) fn take_failure(&self) -> Option<ConsumerError> {
        lock(&self.failure).take()
    }

    /// Processes the workers' reports, returns the released bytes to the budget, and returns the
    /// emptied chunks for reuse.
    pub(super) fn take_reports(&self, intake: &mut Intake) -> Vec<Chunk> {
        let (released, chunks) = self.take_in();
        intake.release(released + self.released.swap(0, Ordering::Relaxed));
        let partitions = self.partitions();
        intake.set_held(partitions.held_bytes());
        intake.set_open(partitions.open_bytes());
        chunks
    }

    /// Processes the workers' reports during a rebalance. The budget belongs to the poll loop and
    /// is not accessible in callbacks, so the released bytes are returned to it later.
    pub(super) fn take_reports_later(&self) {
        let (released, _) = self.take_in();
        self.release_later(released);
    }

    /// Processes the workers' reports. Returns the bytes that were released, and the emptied chunks.
    fn take_in(&self) -> (usize, Vec<Chunk>) {
        let (mut released, mut chunks) = (0, Vec::new());
        let mut partitions = self.partitions();
        for report in self.parts.reports.take() {
            let partition = partitions.of_assignment(report.assignment);
            match report.event {
                ReportEvent::Acknowledged { next, last, urgent } => {
                    if let Some(partition) = partition {
                        partition.tracker.acknowledge(next, last);
                        partition.progress();
                    }
                    if urgent {
                        self.commit_soon();
                    }
                }
                ReportEvent::Holding(holding) => {
                    if let Some(partition) = partition {
                        partition.holding = holding;
                        partition.progress();
                    }
                }
                ReportEvent::Released { bytes, chunk } => {
                    // The bytes of a removed partition were released when it was removed.
                    if let Some(partition) = partition {
                        partition.handed_bytes = partition.handed_bytes.saturating_sub(bytes);
                        partition.progress();
                        released += bytes;
                    }
                    chunks.push(chunk);
                }
                ReportEvent::Ended => {
                    if let Some(partition) = partition {
                        partition.ended = true;
                    }
                }
            }
        }
        (released, chunks)
    }

    /// Returns bytes to the budget in the next iteration of the poll loop.
    pub(super) fn release_later(&self, bytes: usize) {
        self.released.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Returns true if a rebalance has ended since the last call.
    pub(super) fn take_rebalanced(&self) -> bool {
        self.rebalanced.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Closes the queues of all workers. Partitions that are assigned from now on are not read.
    pub(super) fn close_queues(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        for partition in self.partitions().iter_mut() {
            drop(partition.close());
        }
    }

    pub(super) fn has_workers(&self) -> bool {
        self.partitions().iter().any(|partition| !partition.ended)
    }

    pub(super) fn invalidate_all(&self) {
        for partition in self.partitions().iter() {
            partition.token.invalidate();
        }
    }

    /// Ends the waits of workers at barriers. While the member leaves the group, the offsets that
    /// they wait for may no longer be committed.
    pub(super) fn abandon_waits(&self) {
        for partition in self.partitions().iter().filter(|it| it.holding) {
            partition.token.invalidate();
        }
    }

    pub(super) fn forget_all(&self) {
        *self.partitions() = Partitions::default();
    }

    /// Records the result of a commit. A member whose commits keep failing is not ready.
    pub(super) fn note_commit(&self, outcome: Result<(), String>) {
        lock(&self.stalls).committed(outcome, Instant::now());
    }

    /// Returns the offsets that are acknowledged and not committed, for a last commit.
    pub(super) fn acknowledged(&self) -> Option<TopicPartitionList> {
        let partitions = self.partitions();
        commit_list(partitions.iter().filter_map(PartitionCommit::acknowledged))
    }
}

/// A partition and the offset to commit for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartitionCommit<'p> {
    pub(super) partition: &'p Partition,
    pub(super) next: NextOffset,
}

impl<'p> PartitionCommit<'p> {
    /// Returns the commit of what the partition has acknowledged; `None` if that is committed.
    pub(super) fn acknowledged(partition: &'p Partition) -> Option<Self> {
        let next = partition.tracker.to_commit(None)?;
        Some(Self { partition, next })
    }
}

/// Returns the commit of the given partitions and offsets, with metadata; `None` if nothing is to be
/// committed.
pub(super) fn commit_list<'p>(
    commits: impl Iterator<Item = PartitionCommit<'p>>,
) -> Option<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for PartitionCommit { partition, next } in commits {
        let mut element = list.add_partition(&partition.name.topic, partition.name.partition);
        if let Err(error) = element.set_offset(Offset::Offset(next.get())) {
            tracing::error!(%error, %next, "the offset is invalid and cannot be committed");
            continue;
        }
        element.set_metadata(partition.tracker.metadata());
    }
    (list.count() > 0).then_some(list)
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.kafka.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kafka.error(error, reason);
    }

    /// Updates the counts of received bytes, the end and the position of each partition, and the
    /// status board, and checks for stalls. librdkafka calls this every second.
    fn stats(&self, statistics: Statistics) {
        self.count(Received::of(&statistics));
        let mut partitions = self.partitions();
        let mut shown = Vec::new();
        for partition in partitions.iter_mut() {
            let reported = statistics
                .topics
                .get(&partition.name.topic)
                .and_then(|topic| topic.partitions.get(&partition.name.partition));
            if let Some(reported) = reported {
                partition.end = (reported.ls_offset >= 0).then_some(reported.ls_offset);
                partition.position = (reported.app_offset >= 0).then_some(reported.app_offset);
            }
            shown.push(partition.status());
        }
        self.parts.board.put(shown);
        let connection = Connection::of(&statistics);
        let mut stalls = lock(&self.stalls);
        let stall = stalls.check(connection, partitions.all(), Instant::now());
        self.parts.readiness.set_stall(stall);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                rebalance::assign(self, consumer, partitions);
            }
            _ => rebalance::revoke(self, consumer, partitions),
        }
        let count = i64::try_from(self.partitions().iter().count()).unwrap_or(i64::MAX);
        self.parts.metrics.partitions.set(count);
        self.rebalanced.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rdkafka::consumer::Consumer;
    use tokio::sync::{mpsc, watch};

    use crate::failure::Failure;
    use crate::group::offsets::OffsetTracker;
    use crate::group::start::Past;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::readiness::Readiness;
    use crate::telemetry::status::Board;
    use crate::topic_partition::TopicPartition;
    use crate::worker::applied::Durability;
    use crate::worker::assignment::{AssignmentNumber, Reports, Token};
    use oplog_relay_runtime::http::Health;
    use oplog_relay_runtime::shutdown::Shutdown;
    use std::sync::Arc;

    fn context() -> GroupContext {
        context_with(Durability::Immediate)
    }

    pub(in crate::group) fn context_with(durability: Durability) -> GroupContext {
        let health = Health::default();
        let parts = GroupContextParts {
            past: Past::Nothing,
            committed: watch::Sender::default(),
            durability,
            assignments: mpsc::channel(1).0,
            reports: Arc::new(Reports::default()),
            metrics: Arc::new(Metrics::new().unwrap()),
            board: Board::default(),
            failure: Failure::default(),
            readiness: Arc::new(Readiness::new(health.clone())),
            health,
            shutdown: Shutdown::manual(),
        };
        GroupContext::new("g".to_owned(), parts)
    }

    /// Adds a partition to a context; returns its token.
    fn add(context: &GroupContext, assignment: AssignmentNumber) -> Token {
        let name = TopicPartition {
            topic: "cdc.a.b".to_owned(),
            partition: i32::try_from(assignment).unwrap(),
        };
        let token = Token::default();
        let tracker = OffsetTracker::new(NextOffset::at(0), None);
        let (sender, _) = mpsc::channel(1);
        let partition = Partition::new(name, assignment, token.clone(), tracker, sender);
        context.partitions().add(partition);
        token
    }

    /// While the loop waits for its sink it does not poll. The next poll serves the statistics of
    /// several seconds, the last of which may have had no records.
    #[test]
    fn the_ratio_of_a_second_is_kept_until_it_is_taken() {
        let context = context();
        let record_bytes = 100 << 20;
        context.count(Received::new(50_000, record_bytes));
        context.count(Received::new(50_100, record_bytes));
        assert_eq!(context.take_ratio(), Some(record_bytes / 50_000));
        assert_eq!(context.take_ratio(), None);
    }

    /// A member that leaves the group commits only after its workers have ended, so the offset that
    /// a barrier waits for never arrives. A write in progress is finished.
    #[test]
    fn only_workers_that_wait_at_a_barrier_are_abandoned() {
        let context = context();
        let tokens = [(1, false), (2, true)].map(|(assignment, holding)| {
            let token = add(&context, assignment);
            let mut partitions = context.partitions();
            partitions.of_assignment(assignment).unwrap().holding = holding;
            token
        });
        context.abandon_waits();
        assert_eq!(tokens.map(|token| token.is_valid()), [true, false]);
    }

    /// Reports of a worker whose partition is not revoked are processed during a rebalance as well.
    /// If the report of a barrier were missed, the bytes of the waiting worker would count against
    /// the budget indefinitely.
    #[test]
    fn reports_during_a_rebalance_are_processed() {
        let context = context();
        add(&context, 1);
        context.partitions().of_assignment(1).unwrap().handed_bytes = 100;
        let report = |event| context.parts.reports.send(1, event);
        let chunk = Chunk::default();
        report(ReportEvent::Released { bytes: 60, chunk });
        report(ReportEvent::Holding(true));
        context.take_reports_later();
        assert_eq!(context.partitions().held_bytes(), 40);
        let mut intake = Intake::new(1000, crate::group::Identity::Header);
        assert!(context.take_reports(&mut intake).is_empty());
        assert_eq!(context.released.load(Ordering::Relaxed), 0);
        report(ReportEvent::Holding(false));
        context.take_reports_later();
        assert_eq!(context.partitions().held_bytes(), 0);
    }

    /// A worker that ends drops the chunks that it has not processed. Their bytes must be returned
    /// to the budget, and must not be returned twice.
    #[test]
    fn bytes_of_a_worker_are_released_once_when_its_partition_is_revoked() {
        let context = context();
        add(&context, 1);
        context.partitions().of_assignment(1).unwrap().handed_bytes = 100;
        let report = |bytes| {
            let chunk = Chunk::default();
            let event = ReportEvent::Released { bytes, chunk };
            context.parts.reports.send(1, event);
        };
        report(60);
        context.take_reports_later();
        rebalance::forget(&context, &[1]);
        assert_eq!(context.released.load(Ordering::Relaxed), 100);
        report(40);
        context.take_reports_later();
        assert_eq!(context.released.load(Ordering::Relaxed), 100);
    }

    /// The client is about to be closed and no longer answers the requests that are needed to start
    /// a partition. They would be retried for a minute.
    #[test]
    fn partitions_assigned_while_leaving_the_group_are_not_read() {
        let mut config = rdkafka::ClientConfig::new();
        config.set("group.id", "g");
        let consumer: BaseConsumer<GroupContext> = config.create_with_context(context()).unwrap();
        let context = consumer.context();
        context.close_queues();
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition("cdc.a.b", 0);
        rebalance::assign(context, &consumer, &mut assigned);
        assert!(context.take_failure().is_none());
        assert_eq!(context.partitions().len(), 0);
    }
}
