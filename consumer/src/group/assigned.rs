//! The assigned partitions, as the poll thread sees them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use oplog_relay_core::format::fragment::Run;
use rdkafka::TopicPartitionList;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::group::offsets::{NextOffset, OffsetTracker};
use crate::telemetry::status::PartitionStatus;
use crate::topic_partition::TopicPartition;
use crate::worker::assignment::{AssignmentNumber, StopOffset, Token};
use crate::worker::chunk::Chunk;

/// Time without progress after which a worker that has records counts as stalled. It may be
/// building an index, or the target may not be answering.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(5);

/// An assigned partition, as the poll thread sees it.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) name: TopicPartition,
    pub(super) assignment: AssignmentNumber,
    pub(super) token: Token,
    /// The stop offset of the worker with `--until-caught-up`, once it is known.
    pub(super) stop_offset: StopOffset,
    /// The offsets that were put into chunks for the worker, acknowledged and committed.
    pub(super) tracker: OffsetTracker,
    /// The queue to the worker; `None` once the partition is given up.
    sender: Option<mpsc::Sender<Chunk>>,
    /// Chunks for which the worker does not have room yet; the last one is still being filled.
    waiting: VecDeque<Chunk>,
    /// Progress of the last record of the last chunk while some of its fragments are missing.
    pub(super) run: Option<Run>,
    /// Cost in bytes of the chunks that the worker has.
    pub(super) handed_bytes: usize,
    /// True while the worker waits at a barrier.
    pub(super) holding: bool,
    /// Time at which the worker last reported progress, or received a chunk while it had none.
    pub(super) moved: Instant,
    /// True while the worker is stalled and others could continue, so that its chunks do not count
    /// against the budget. Reset when it makes progress.
    pub(super) stalled: bool,
    /// Set if chunks of the partition were evicted. They are read again when the worker continues.
    pub(super) evicted: Option<Evicted>,
    /// True once the worker has ended.
    pub(super) ended: bool,
    /// The last stable offset, as librdkafka last reported it.
    pub(super) end: Option<i64>,
    /// The offset of the next record to read.
    pub(super) position: Option<i64>,
}

/// The state of a partition whose chunks were evicted, because its worker is blocked or because a
/// record of another partition is being reassembled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evicted {
    /// The offset of the next record to take. Records with other offsets were fetched before the
    /// eviction.
    pub(super) resume_offset: i64,
    /// True while the partition is paused.
    pub(super) paused: bool,
}

/// Chunks that were discarded to free memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Discarded {
    /// Their cost in bytes.
    pub(super) bytes: usize,
    /// The offset from which to read again.
    pub(super) resume_offset: i64,
}

impl Partition {
    pub(super) fn new(
        name: TopicPartition,
        assignment: AssignmentNumber,
        token: Token,
        tracker: OffsetTracker,
        sender: mpsc::Sender<Chunk>,
    ) -> Self {
        Self {
            name,
            assignment,
            token,
            stop_offset: StopOffset::default(),
            tracker,
            sender: Some(sender),
            waiting: VecDeque::new(),
            run: None,
            handed_bytes: 0,
            holding: false,
            moved: Instant::now(),
            stalled: false,
            evicted: None,
            ended: false,
            end: None,
            position: None,
        }
    }

    /// Returns the chunk to append to: the one with the first fragments of an incomplete record, or one
    /// that is not full. A fragmented record starts a new chunk, so that records before it do not have
    /// to wait. `full` is the size of a full chunk, `begins` is true for the first fragment of a
    /// record, and `empty` supplies a new chunk.
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

    /// Hands chunks to the worker while it has room. Returns true if chunks are left for which the
    /// worker will soon have room. Returns false for a worker at a barrier, which may wait for
    /// a long time.
    pub(super) fn hand_on(&mut self) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        // The last chunk is kept while its last record is incomplete.
        let kept = usize::from(self.run.is_some());
        while self.waiting.len() > kept {
            let Some(chunk) = self.waiting.pop_front() else {
                break;
            };
            let bytes = chunk.cost();
            // The queue is closed only if the worker failed, and then the program is about to end.
            if let Err(TrySendError::Full(chunk) | TrySendError::Closed(chunk)) =
                sender.try_send(chunk)
            {
                self.waiting.push_front(chunk);
                return !self.holding;
            }
            if self.handed_bytes == 0 {
                self.moved = Instant::now();
            }
            self.handed_bytes += bytes;
        }
        false
    }

    /// Discards the chunks for which the worker has no room.
    pub(super) fn evict(&mut self) -> Option<Discarded> {
        let resume_offset = self.waiting.front()?.records.first()?.offset;
        let bytes = self.waiting.iter().map(Chunk::cost).sum();
        self.waiting.clear();
        self.run = None;
        self.tracker.take_back(NextOffset::at(resume_offset));
        self.evicted = Some(Evicted {
            resume_offset,
            paused: true,
        });
        Some(Discarded {
            bytes,
            resume_offset,
        })
    }

    /// Records that the worker reported progress.
    pub(super) fn progress(&mut self) {
        self.moved = Instant::now();
        self.stalled = false;
    }

    /// Returns true if the worker has records and has made no progress for [`STALLED_AFTER`]. A
    /// worker at a barrier is excluded, because it waits for other partitions.
    fn is_stalled(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.moved);
        self.handed_bytes > 0 && !self.holding && since >= STALLED_AFTER
    }

    /// Returns the cost of the chunk whose last record is incomplete.
    pub(super) fn open_bytes(&self) -> usize {
        let open = self.run.and_then(|_| self.waiting.back());
        open.map_or(0, Chunk::cost)
    }

    /// Returns true if all records before `end` were handed to the worker, or are about to be.
    /// `position` is the consumer's position.
    pub(super) fn has_all_before(&self, position: i64, end: i64) -> bool {
        position >= end && self.evicted.is_none() && self.run.is_none()
    }

    /// Returns true if the record with this offset is to be taken, and ends the eviction if there
    /// was one. Records that were fetched before an eviction are skipped, and so are repeated ones:
    /// after a rebalance the client may return the last record again.
    pub(super) fn takes(&mut self, offset: i64) -> bool {
        match self.evicted {
            Some(evicted) if evicted.resume_offset != offset => false,
            _ if !self.tracker.expects(offset) => false,
            _ => {
                self.evicted = None;
                true
            }
        }
    }

    /// Closes the worker's queue. Returns the chunks that were not handed to the worker.
    pub(super) fn close(&mut self) -> VecDeque<Chunk> {
        self.sender = None;
        self.run = None;
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn status(&self) -> PartitionStatus {
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
    /// Index of the last record's partition. Consecutive records are often in the same partition.
    last: usize,
}

impl Partitions {
    pub(super) fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        let is_it = |candidate: &Partition| {
            candidate.name.partition == partition && candidate.name.topic == topic
        };
        // The partition is usually the same as last time, or one that follows it.
        let from_last = self.all.iter().skip(self.last).position(is_it);
        self.last = match from_last {
            Some(further) => self.last + further,
            None => self.all.iter().position(is_it)?,
        };
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

    /// Returns the bytes held by workers that wait at barriers, or that are stalled while others
    /// continue.
    pub(super) fn held_bytes(&self) -> usize {
        let is_held = |partition: &&Partition| partition.holding || partition.stalled;
        let held = self.all.iter().filter(is_held);
        held.map(|partition| partition.handed_bytes).sum()
    }

    /// Marks the partitions whose workers are stalled, if another one could continue. If all workers
    /// are stalled, for example because the target cannot be reached, no worker could use the
    /// memory that is freed. Returns true if a partition was newly marked.
    pub(super) fn mark_stalled(&mut self, now: Instant) -> bool {
        let can_continue = |it: &Partition| !it.holding && !it.is_stalled(now);
        if !self.all.iter().any(can_continue) {
            return false;
        }
        let mut is_new = false;
        for partition in self.all.iter_mut().filter(|it| it.is_stalled(now)) {
            is_new |= !partition.stalled;
            partition.stalled = true;
        }
        is_new
    }

    /// Returns the size in bytes of the largest incomplete record. Records queued behind workers that
    /// wait at barriers or are stalled do not count, because they are evicted.
    pub(super) fn open_bytes(&self) -> usize {
        let moving = self.all.iter().filter(|it| !it.holding && !it.stalled);
        let open = moving.map(Partition::open_bytes);
        open.max().unwrap_or_default()
    }

    /// Returns the positions of up to eight partitions that may have more to read, for messages.
    pub(super) fn places(&self) -> String {
        let next = |it: &Partition| it.tracker.handed().get();
        let mut places: Vec<String> = self
            .all
            .iter()
            .filter(|it| it.end.is_none_or(|end| end > next(it)))
            .map(|it| format!("{}[{}] at {}", it.name.topic, it.name.partition, next(it)))
            .collect();
        places.truncate(8);
        places.join(", ")
    }

    /// Returns all partitions except those that are paused because of an eviction.
    pub(super) fn reading(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let waits = |it: &&Partition| it.evicted.is_some_and(|evicted| evicted.paused);
        for Partition { name, .. } in self.all.iter().filter(|it| !waits(it)) {
            list.add_partition(&name.topic, name.partition);
        }
        list
    }

    pub(super) fn all(&self) -> &[Partition] {
        &self.all
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

    /// Removes a partition. Returns the bytes that its worker holds. The worker drops the chunks
    /// that it has not applied, so it cannot release them itself.
    pub(super) fn remove(&mut self, assignment: AssignmentNumber) -> usize {
        let is_it = |partition: &Partition| partition.assignment == assignment;
        let place = self.all.iter().position(is_it);
        place.map_or(0, |place| self.all.remove(place).handed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(handed: &[usize]) -> Partitions {
        let mut partitions = Partitions::default();
        for (assignment, bytes) in (1..).zip(handed) {
            let name = TopicPartition {
                topic: "cdc.a.b".to_owned(),
                partition: i32::try_from(assignment).unwrap(),
            };
            let tracker = OffsetTracker::new(NextOffset::at(0), None);
            let (sender, _) = mpsc::channel(1);
            let token = Token::default();
            let mut partition = Partition::new(name, assignment, token, tracker, sender);
            partition.handed_bytes = *bytes;
            partitions.add(partition);
        }
        partitions
    }

    /// The chunks of a stalled worker do not count until it continues.
    #[test]
    fn chunks_of_a_stalled_worker_do_not_count_against_the_budget() {
        let mut all = partitions(&[100, 10, 0]);
        let now = Instant::now() + STALLED_AFTER;
        all.iter_mut().nth(1).unwrap().moved = now;
        assert!(!all.mark_stalled(now - STALLED_AFTER / 2));
        assert!(all.mark_stalled(now) && !all.mark_stalled(now));
        assert_eq!(all.held_bytes(), 100);
        all.of_assignment(1).unwrap().progress();
        assert_eq!(all.held_bytes(), 0);
    }

    #[test]
    fn no_worker_is_marked_if_all_are_stalled_or_at_barriers() {
        let mut all = partitions(&[100, 10]);
        let now = Instant::now() + STALLED_AFTER;
        assert!(!all.mark_stalled(now));
        all.of_assignment(2).unwrap().holding = true;
        assert!(!all.mark_stalled(now));
        assert_eq!(all.held_bytes(), 10);
    }
}
