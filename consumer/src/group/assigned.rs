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

/// A worker that has records and finishes none of its chunks for that long stands still: it builds an
/// index, or its target does not answer.
pub(super) const STANDSTILL: Duration = Duration::from_secs(5);

/// An assigned partition, as the poll thread sees it.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) name: TopicPartition,
    pub(super) assignment: AssignmentNumber,
    pub(super) token: Token,
    /// Which record is the last that is wanted, once that is known.
    pub(super) goal: StopOffset,
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
    /// When the worker reported progress last, or got its first chunk.
    pub(super) moved: Instant,
    /// The worker stands still while others could go on, so what it has in its hands does not count
    /// against the budget. Ends with its next progress.
    pub(super) stands: bool,
    /// Its chunks had to make room: it reads them again when the worker goes on.
    pub(super) evicted: Option<Evicted>,
    /// The worker is gone.
    pub(super) ended: bool,
    /// The end that a `read_committed` reader sees, as librdkafka last told.
    pub(super) end: Option<i64>,
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
            goal: StopOffset::default(),
            tracker,
            sender: Some(sender),
            waiting: VecDeque::new(),
            run: None,
            handed_bytes: 0,
            holding: false,
            moved: Instant::now(),
            stands: false,
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
            if self.handed_bytes == 0 {
                self.moved = Instant::now();
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

    /// The worker reported progress.
    pub(super) fn progress(&mut self) {
        self.moved = Instant::now();
        self.stands = false;
    }

    /// Whether the worker has records and has not finished a chunk for long. One that waits at a
    /// barrier waits for others.
    fn is_standing(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.moved);
        self.handed_bytes > 0 && !self.holding && since >= STANDSTILL
    }

    /// What the chunk costs that has a record of which fragments are missing.
    pub(super) fn open_bytes(&self) -> usize {
        let open = self.run.and_then(|_| self.waiting.back());
        open.map_or(0, Chunk::cost)
    }

    /// Whether all records before `end` were handed to the worker, or are about to be; `position` is
    /// the reader's.
    pub(super) fn has_all_before(&self, position: i64, end: i64) -> bool {
        position >= end && self.evicted.is_none() && self.run.is_none()
    }

    /// Whether a record is to be taken: not one that was on its way when chunks had to make room, and
    /// none twice, as the client may give the last one before a rebalance.
    pub(super) fn takes(&mut self, offset: i64) -> bool {
        match self.evicted {
            Some(evicted) if evicted.again != offset => false,
            _ if !self.tracker.expects(offset) => false,
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
    /// Where the last record belonged: records come in runs.
    last: usize,
}

impl Partitions {
    pub(super) fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        let is_it = |candidate: &Partition| {
            candidate.name.partition == partition && candidate.name.topic == topic
        };
        // Mostly the same as last time, or one of the next.
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

    /// What workers have in their hands that wait at barriers, or stand still while others go on.
    pub(super) fn held_bytes(&self) -> usize {
        let is_held = |partition: &&Partition| partition.holding || partition.stands;
        let held = self.all.iter().filter(is_held);
        held.map(|partition| partition.handed_bytes).sum()
    }

    /// Marks the partitions whose workers stand still, if there is another one that could go on:
    /// where all stand, as with a target that is away, there is nobody to make room for. Returns
    /// whether there are new ones.
    pub(super) fn mark_standing(&mut self, now: Instant) -> bool {
        let goes_on = |it: &Partition| !it.holding && !it.is_standing(now);
        if !self.all.iter().any(goes_on) {
            return false;
        }
        let mut is_new = false;
        for partition in self.all.iter_mut().filter(|it| it.is_standing(now)) {
            is_new |= !partition.stands;
            partition.stands = true;
        }
        is_new
    }

    /// What the record in fragments has that is the furthest. Those behind workers that wait at
    /// barriers or stand still do not count: they make room.
    pub(super) fn open_bytes(&self) -> usize {
        let moving = self.all.iter().filter(|it| !it.holding && !it.stands);
        let open = moving.map(Partition::open_bytes);
        open.max().unwrap_or_default()
    }

    /// Where they stand, for messages: up to eight of those that may have more to read.
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

    /// All but those that made room and are paused for it.
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

    /// Forgets a partition; returns what its worker has not released, and perhaps never will: a
    /// chunk that it did not come to goes with it.
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

    /// The hands of a worker that stands still do not count, until it goes on.
    #[test]
    fn a_worker_that_stands_still_takes_no_room_from_others() {
        let mut all = partitions(&[100, 10, 0]);
        let now = Instant::now() + STANDSTILL;
        all.iter_mut().nth(1).unwrap().moved = now;
        assert!(!all.mark_standing(now - STANDSTILL / 2));
        assert!(all.mark_standing(now) && !all.mark_standing(now));
        assert_eq!(all.held_bytes(), 100);
        all.of_assignment(1).unwrap().progress();
        assert_eq!(all.held_bytes(), 0);
    }

    #[test]
    fn nobody_makes_room_where_all_stand_still_or_wait_at_a_barrier() {
        let mut all = partitions(&[100, 10]);
        let now = Instant::now() + STANDSTILL;
        assert!(!all.mark_standing(now));
        all.of_assignment(2).unwrap().holding = true;
        assert!(!all.mark_standing(now));
        assert_eq!(all.held_bytes(), 10);
    }
}
