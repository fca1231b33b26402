//! The assigned partitions, and what librdkafka calls from within `poll`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_core::format::fragment::Run;
use oplog_relay_core::runtime::kafka::Context;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Links;
use super::intake::Intake;
use super::rebalance;
use crate::assignment::{AssignmentNumber, ReportEvent, Token};
use crate::chunk::Chunk;
use crate::error::ConsumerError;
use crate::offsets::{NextOffset, OffsetTracker};
use crate::start::PartitionName;
use crate::status::PartitionStatus;

/// An assigned partition, as the poll thread sees it.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) name: PartitionName,
    pub(super) assignment: AssignmentNumber,
    pub(super) token: Token,
    /// What may be committed.
    pub(super) tracker: OffsetTracker,
    /// To the worker; closed when the partition is given up.
    sender: Option<mpsc::Sender<Chunk>>,
    /// Chunks that the worker has no room for yet; the last one is being filled.
    waiting: VecDeque<Chunk>,
    /// How far the last record of the last chunk has come, while fragments of it are missing.
    pub(super) run: Option<Run>,
    /// What the chunks cost that the worker has.
    pub(super) handed_bytes: usize,
    /// The worker waits at a barrier.
    pub(super) holding: bool,
    /// Its chunks had to make room: it reads them again when the worker goes on.
    pub(super) evicted: Option<Evicted>,
    /// The worker is gone.
    pub(super) ended: bool,
    /// The end that a `read_committed` reader sees, as librdkafka last told.
    end: Option<i64>,
    /// The next record to read.
    pub(super) position: Option<i64>,
}

/// A partition whose chunks had to make room: while its worker waits at a barrier, or while a record
/// of another partition is put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evicted {
    /// The next record to take; any other one was on its way before.
    pub(super) again: i64,
    /// Whether it is paused.
    pub(super) paused: bool,
}

impl Partition {
    pub(super) fn new(
        name: PartitionName,
        assignment: AssignmentNumber,
        token: Token,
        tracker: OffsetTracker,
        sender: mpsc::Sender<Chunk>,
    ) -> Self {
        Self {
            name,
            assignment,
            token,
            tracker,
            sender: Some(sender),
            waiting: VecDeque::new(),
            run: None,
            handed_bytes: 0,
            holding: false,
            evicted: None,
            ended: false,
            end: None,
            position: None,
        }
    }

    /// The chunk to append to: the one that has a record's first fragments, else one that is not
    /// full. A record in fragments begins a chunk, so that what is before it need not wait.
    pub(super) fn filling(
        &mut self,
        full: usize,
        begins: bool,
        empty: impl FnOnce() -> Chunk,
    ) -> &mut Chunk {
        let done = |chunk: &Chunk| chunk.cost() >= full || (begins && !chunk.is_empty());
        if self.run.is_none() && self.waiting.back().is_none_or(done) {
            self.waiting.push_back(empty());
        }
        let last = self.waiting.len().saturating_sub(1);
        &mut self.waiting[last]
    }

    /// Hands chunks to the worker while it has room. Whether some are left that it will soon have room
    /// for: at a barrier it may not for long.
    pub(super) fn hand_on(&mut self) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        // The last one stays while its last record is not whole.
        let kept = usize::from(self.run.is_some());
        while self.waiting.len() > kept {
            let Some(chunk) = self.waiting.pop_front() else {
                break;
            };
            let bytes = chunk.cost();
            // A closed queue is a worker that failed: the program is about to end.
            if let Err(TrySendError::Full(chunk) | TrySendError::Closed(chunk)) =
                sender.try_send(chunk)
            {
                self.waiting.push_front(chunk);
                return !self.holding;
            }
            self.handed_bytes += bytes;
        }
        false
    }

    /// Throws away what the worker has no room for; returns what it cost and where to read again.
    pub(super) fn evict(&mut self) -> Option<(usize, i64)> {
        let again = self.waiting.front()?.records.first()?.offset;
        let bytes = self.waiting.iter().map(Chunk::cost).sum();
        self.waiting.clear();
        self.run = None;
        self.tracker.take_back(NextOffset::at(again));
        self.evicted = Some(Evicted {
            again,
            paused: true,
        });
        Some((bytes, again))
    }

    /// What the chunk costs that has a record of which fragments are missing.
    pub(super) fn open_bytes(&self) -> usize {
        let open = self.run.and_then(|_| self.waiting.back());
        open.map_or(0, Chunk::cost)
    }

    /// Whether a record is to be taken: not one that was on its way when chunks had to make room.
    pub(super) fn takes(&mut self, offset: i64) -> bool {
        match self.evicted {
            Some(evicted) if evicted.again != offset => false,
            _ => {
                self.evicted = None;
                true
            }
        }
    }

    /// Ends the worker's intake; returns what it will not get.
    pub(super) fn close(&mut self) -> VecDeque<Chunk> {
        self.sender = None;
        self.run = None;
        std::mem::take(&mut self.waiting)
    }

    fn status(&self) -> PartitionStatus {
        let committed = self.tracker.committed().map(NextOffset::get);
        let lag = committed
            .zip(self.end)
            .map(|(committed, end)| (end - committed).max(0));
        PartitionStatus {
            topic: self.name.topic.clone(),
            partition: self.name.partition,
            committed,
            position: self.position,
            end: self.end,
            lag,
            ts: self.tracker.last().map(|id| id.ts.to_string()),
        }
    }
}

/// All assigned partitions.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    all: Vec<Partition>,
    /// Where the last record belonged: records come in runs.
    last: usize,
}

impl Partitions {
    pub(super) fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        let is_it = |candidate: &Partition| {
            candidate.name.partition == partition && candidate.name.topic == topic
        };
        if !self.all.get(self.last).is_some_and(is_it) {
            self.last = self.all.iter().position(is_it)?;
        }
        self.all.get_mut(self.last)
    }

    pub(super) fn of_assignment(&mut self, assignment: AssignmentNumber) -> Option<&mut Partition> {
        self.all
            .iter_mut()
            .find(|partition| partition.assignment == assignment)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What workers have in their hands that wait at barriers.
    pub(super) fn held_bytes(&self) -> usize {
        let holding = self.all.iter().filter(|partition| partition.holding);
        holding.map(|partition| partition.handed_bytes).sum()
    }

    /// What the record in fragments has that is the furthest. Those behind workers at barriers do
    /// not count: they make room.
    pub(super) fn open_bytes(&self) -> usize {
        let moving = self.all.iter().filter(|partition| !partition.holding);
        let open = moving.map(Partition::open_bytes);
        open.max().unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.all.iter_mut()
    }

    pub(super) fn add(&mut self, partition: Partition) {
        self.all.push(partition);
    }

    pub(super) fn remove(&mut self, assignment: AssignmentNumber) {
        self.all
            .retain(|partition| partition.assignment != assignment);
    }
}

/// The context of the group's client.
#[derive(Debug)]
pub(super) struct GroupContext {
    kafka: Context,
    pub(super) group: String,
    pub(super) links: Links,
    partitions: Mutex<Partitions>,
    failure: Mutex<Option<ConsumerError>>,
    /// When offsets were committed last.
    committed: Mutex<Option<Instant>>,
    /// Bytes released during a rebalance, not yet taken off the budget.
    released: AtomicUsize,
    /// The sink is slower than Kafka: partitions are paused, also those to come.
    paused: AtomicBool,
}

/// Only the poll thread takes these locks, so they are never contended; a panic under one ends
/// the thread and with it the program.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupContext {
    pub(super) fn new(group: String, links: Links) -> Self {
        Self {
            kafka: Context::new(),
            group,
            links,
            partitions: Mutex::default(),
            failure: Mutex::default(),
            committed: Mutex::default(),
            released: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
        }
    }

    pub(super) fn partitions(&self) -> MutexGuard<'_, Partitions> {
        lock(&self.partitions)
    }

    /// Whether the last commit is so long ago. If it is, it counts as being now.
    pub(super) fn is_commit_due(&self, interval: Duration) -> bool {
        let mut committed = lock(&self.committed);
        let due = committed.is_none_or(|committed| committed.elapsed() >= interval);
        if due {
            *committed = Some(Instant::now());
        }
        due
    }

    /// Keeps the first failure of a callback, for the poll loop to end with.
    pub(super) fn fail(&self, error: ConsumerError) {
        lock(&self.failure).get_or_insert(error);
    }

    pub(super) fn take_failure(&self) -> Option<ConsumerError> {
        lock(&self.failure).take()
    }

    /// Takes the workers' reports in; returns chunks for reuse.
    pub(super) fn take_reports(&self, intake: &mut Intake) -> Vec<Chunk> {
        intake.release(self.released.swap(0, Ordering::Relaxed));
        let mut chunks = Vec::new();
        let mut partitions = self.partitions();
        for report in self.links.reports.take() {
            let partition = partitions.of_assignment(report.assignment);
            match report.event {
                ReportEvent::Acknowledged { next, last, urgent } => {
                    if let Some(partition) = partition {
                        partition.tracker.acknowledge(next, last);
                    }
                    if urgent {
                        // The next look at commits finds none that is recent.
                        *lock(&self.committed) = None;
                    }
                }
                ReportEvent::Holding(holding) => {
                    if let Some(partition) = partition {
                        partition.holding = holding;
                    }
                }
                ReportEvent::Released { bytes, chunk } => {
                    intake.release(bytes);
                    if let Some(partition) = partition {
                        partition.handed_bytes = partition.handed_bytes.saturating_sub(bytes);
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
        intake.hold(partitions.held_bytes());
        intake.leave_open(partitions.open_bytes());
        chunks
    }

    /// Takes bytes off the budget when the poll loop looks next.
    pub(super) fn release_later(&self, bytes: usize) {
        self.released.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Ends the intake of all workers.
    pub(super) fn close_queues(&self) {
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

    /// Lets workers go that wait at barriers: what they wait for is not committed any more while
    /// the group is left.
    pub(super) fn abandon_waits(&self) {
        for partition in self.partitions().iter().filter(|it| it.holding) {
            partition.token.invalidate();
        }
    }

    pub(super) fn forget_all(&self) {
        *self.partitions() = Partitions::default();
    }

    /// What is acknowledged and not committed, for a last commit.
    pub(super) fn acknowledged(&self) -> Option<TopicPartitionList> {
        let partitions = self.partitions();
        commit_list(
            partitions
                .iter()
                .filter_map(|p| Some((p, p.tracker.to_commit(None)?))),
        )
    }
}

/// A commit of partitions at offsets, with metadata; `None` if there is nothing to commit.
pub(super) fn commit_list<'p>(
    commits: impl Iterator<Item = (&'p Partition, NextOffset)>,
) -> Option<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, next) in commits {
        let mut element = list.add_partition(&partition.name.topic, partition.name.partition);
        if let Err(error) = element.set_offset(Offset::Offset(next.get())) {
            tracing::error!(%error, %next, "an offset that cannot be committed");
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

    /// Called every second: the ends that the broker told with its last answers.
    fn stats(&self, statistics: Statistics) {
        let mut partitions = self.partitions();
        let mut shown = Vec::new();
        for partition in partitions.iter_mut() {
            let told = statistics
                .topics
                .get(&partition.name.topic)
                .and_then(|topic| topic.partitions.get(&partition.name.partition));
            if let Some(told) = told {
                partition.end = (told.ls_offset >= 0).then_some(told.ls_offset);
                partition.position = (told.app_offset >= 0).then_some(told.app_offset);
            }
            shown.push(partition.status());
        }
        self.links.board.put(shown);
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
        self.links.metrics.partitions.set(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::Reports;
    use crate::metrics::Metrics;
    use crate::status::{Board, Readiness};
    use oplog_relay_core::runtime::http::Health;
    use oplog_relay_core::runtime::shutdown::Shutdown;
    use std::sync::Arc;

    /// Whoever leaves the group commits for nobody any more, so what a barrier waits for never comes;
    /// what is being written is finished.
    #[test]
    fn only_those_who_wait_at_a_barrier_are_let_go() {
        let health = Health::default();
        let links = Links {
            starts: mpsc::channel(1).0,
            reports: Arc::new(Reports::default()),
            metrics: Arc::new(Metrics::new().unwrap()),
            board: Board::default(),
            readiness: Arc::new(Readiness::new(health.clone())),
            health,
            shutdown: Shutdown::manual(),
        };
        let context = GroupContext::new("g".to_owned(), links);
        let tokens = [(1, false), (2, true)].map(|(assignment, holding)| {
            let name = PartitionName {
                topic: "cdc.a.b".to_owned(),
                partition: 0,
            };
            let (token, tracker) = (
                Token::default(),
                OffsetTracker::new(NextOffset::at(0), None),
            );
            let (sender, _) = mpsc::channel(1);
            let mut partition = Partition::new(name, assignment, token.clone(), tracker, sender);
            partition.holding = holding;
            context.partitions().add(partition);
            token
        });
        context.abandon_waits();
        assert_eq!(tokens.map(|token| token.is_valid()), [true, false]);
    }
}
