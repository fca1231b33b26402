//! A group of members over a log, one step at a time: who holds which partition, what is
//! committed, and what can go wrong.

use std::collections::BTreeSet;

use oplog_consumer::group::committed::Offsets;
use oplog_consumer::group::offsets::{CommitMetadata, Committer, NextOffset, OffsetTracker};
use oplog_consumer::group::start::{First, first_offset};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;

use crate::history::Log;
use crate::target::Target;
use crate::worker::Worker;

/// A rule of the protocol that is left out, to see that the test would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A follower commits what follows its last record, not the barrier's own offset.
    CommitsAfterLast,
    /// A follower goes on when the leader stands at the command.
    PassesEarly,
    /// A follower does not ask whether the command ran.
    PassesSkipped,
    /// A follower of a group with a filter does not ask whether the command ran.
    PassesFiltered,
    /// A follower asks also whether a command ran that is left out.
    AsksForLeftOut,
    /// The leader does not note a command that it leaves out where followers cannot tell.
    LeavesOutUnnoted,
    LeadsWithoutWaiting,
    /// The leader waits for the others, not for its own commit.
    LeadsUncommitted,
    /// The leader waits for nobody when the command ran already.
    WaitsOnlyToRun,
    /// The leader takes a partition beyond its barrier for a sign that the command ran.
    TrustsOffsets,
    /// The leader does not ask again after its wait whether the command ran.
    AsksBeforeWaiting,
    /// A rename is noted only when it ran.
    RenamesUnnoted,
    /// Entries go to the collection that has their name now.
    KnowsNoLives,
    /// A worker goes on after its partition was taken away.
    WritesAfterRevoke,
}

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A command ran before an earlier or after a later write.
    OutOfOrder(String),
    /// Nobody can go on, and the end is not reached.
    Stuck(String),
    /// The target does not hold what the source held.
    Diverged(String),
    /// The offset of a partition went back.
    Rewound(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next step of a worker.
    Work(usize),
    /// The poll thread hears from a worker.
    Acknowledge(usize),
    /// The poll thread commits.
    Commit(usize),
    /// A member gets a partition.
    Seat(usize, usize),
    /// A partition is taken away, with or without a last commit.
    Revoke(usize, bool),
    /// A member is taken for dead while a worker of it waits at a barrier, and learns of it later.
    Lose(usize),
    /// A member ends, and starts anew.
    Crash(usize),
    /// A worker whose partition was taken away goes on.
    Haunt(usize),
}

/// A partition's worker, and where.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) member: usize,
    pub(crate) partition: usize,
    pub(crate) tracker: OffsetTracker,
    pub(crate) worker: Worker,
}

/// What all workers see.
#[derive(Debug, Clone)]
pub(crate) struct World<'l> {
    pub(crate) log: &'l Log,
    pub(crate) fault: Option<Fault>,
    pub(crate) committed: Offsets,
    pub(crate) metadata: Vec<String>,
    /// By partition: where the operator let it begin.
    pub(crate) starts: Vec<i64>,
    pub(crate) target: Target,
    /// By member: the commands that it knows to have run.
    pub(crate) known: Vec<BTreeSet<EntryId>>,
    /// By entry: whether it was ever applied.
    pub(crate) applied: Vec<bool>,
    pub(crate) allow_partial_reset: bool,
    pub(crate) filter: NamespaceFilter,
    /// Why a member refused to go on, as the operator is told.
    pub(crate) refused: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Group<'l> {
    pub(crate) world: World<'l>,
    /// By partition.
    pub(crate) seats: Vec<Option<Seat>>,
    /// Workers whose partitions are others' already.
    pub(crate) ghosts: Vec<Seat>,
    pub(crate) crashes: usize,
    pub(crate) rebalances: usize,
    pub(crate) losses: usize,
}

impl<'l> Group<'l> {
    /// A group that begins at the beginning, with an empty target.
    pub(crate) fn new(log: &'l Log, members: usize, fault: Option<Fault>) -> Self {
        Self {
            world: World {
                log,
                fault,
                committed: Offsets::new(),
                metadata: vec![CommitMetadata::text(None); log.partitions.len()],
                starts: vec![0; log.partitions.len()],
                target: Target::default(),
                known: vec![BTreeSet::new(); members],
                applied: vec![false; log.entries.len()],
                allow_partial_reset: false,
                filter: NamespaceFilter::default(),
                refused: None,
            },
            seats: vec![None; log.partitions.len()],
            ghosts: Vec::new(),
            crashes: 0,
            rebalances: 0,
            losses: 0,
        }
    }

    /// The operator stops all members, sets these offsets, and starts them again.
    pub(crate) fn reset(&mut self, offsets: &[Option<i64>]) {
        self.seats.fill(None);
        self.ghosts.clear();
        for (index, offset) in offsets.iter().enumerate() {
            let name = self.world.log.partitions[index].clone();
            if let Some(offset) = offset {
                self.world.committed.insert(name.clone(), *offset);
                self.world.metadata[index] = String::new();
            }
            let start = self.world.committed.get(&name).copied().unwrap_or(0);
            self.world.starts[index] = start;
            // What is never replayed counts as being on the target.
            for number in self.world.log.written_before(index, start) {
                self.world.applied[number] = true;
            }
        }
        for known in &mut self.world.known {
            *known = self.world.target.done();
        }
    }

    /// What can happen next when nothing goes wrong.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.world.refused.is_some() {
            return steps;
        }
        for (partition, seat) in self.seats.iter().enumerate() {
            let Some(seat) = seat else {
                steps.extend((0..self.world.known.len()).map(|to| Step::Seat(partition, to)));
                continue;
            };
            if seat.worker.can_step(seat, &self.world) {
                steps.push(Step::Work(partition));
            }
            if seat.tracker.acknowledged() < seat.worker.done() {
                steps.push(Step::Acknowledge(partition));
            }
            if self.to_commit(seat).is_some() {
                steps.push(Step::Commit(partition));
            }
        }
        let ghosts = self.ghosts.iter().enumerate();
        let able = ghosts.filter(|(_, ghost)| {
            // Before it writes it finds its token invalid.
            let may = ghost.worker.waits() || self.world.fault == Some(Fault::WritesAfterRevoke);
            may && ghost.worker.can_step(ghost, &self.world)
        });
        steps.extend(able.map(|(index, _)| Step::Haunt(index)));
        steps
    }

    /// What can go wrong next.
    pub(crate) fn mishaps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let seats = || self.seats.iter().flatten();
        if self.losses > 0 && self.world.refused.is_none() {
            let waiting = seats().filter(|seat| seat.worker.waits());
            steps.extend(waiting.map(|seat| Step::Lose(seat.partition)));
        }
        if self.rebalances > 0 && self.world.refused.is_none() {
            for seat in seats() {
                steps.push(Step::Revoke(seat.partition, true));
                steps.push(Step::Revoke(seat.partition, false));
            }
        }
        if self.crashes > 0 && self.world.refused.is_none() {
            steps.extend((0..self.world.known.len()).map(Step::Crash));
        }
        steps
    }

    fn to_commit(&self, seat: &Seat) -> Option<NextOffset> {
        let next = seat.worker.reader();
        let position = self.world.log.position(seat.partition, next);
        seat.tracker.to_commit(Some(NextOffset::at(position)))
    }

    pub(crate) fn step(&mut self, step: Step) -> Result<(), Trouble> {
        match step {
            Step::Work(partition) => {
                let seat = self.seats[partition].as_mut().unwrap();
                Worker::step(seat, &mut self.world)
            }
            Step::Haunt(index) => Worker::step(&mut self.ghosts[index], &mut self.world),
            Step::Acknowledge(partition) => {
                let seat = self.seats[partition].as_mut().unwrap();
                seat.tracker
                    .acknowledge(seat.worker.done(), seat.worker.last());
                Ok(())
            }
            Step::Commit(partition) => {
                let next = self.seats[partition]
                    .as_ref()
                    .and_then(|seat| self.to_commit(seat));
                self.commit(partition, next)
            }
            Step::Seat(partition, member) => {
                self.seat(partition, member);
                Ok(())
            }
            Step::Revoke(partition, with_commit) => {
                self.rebalances -= 1;
                self.revoke(partition, with_commit)
            }
            Step::Lose(partition) => {
                self.losses -= 1;
                self.ghosts.extend(self.seats[partition].take());
                Ok(())
            }
            Step::Crash(member) => {
                self.crashes -= 1;
                self.ghosts.retain(|ghost| ghost.member != member);
                for seat in &mut self.seats {
                    seat.take_if(|seat| seat.member == member);
                }
                self.world.known[member] = self.world.target.done();
                Ok(())
            }
        }
    }

    fn seat(&mut self, partition: usize, member: usize) {
        let world = &self.world;
        let committed = world
            .committed
            .get(&world.log.partitions[partition])
            .copied();
        let First::At(next) = first_offset(committed, 0) else {
            unreachable!("nothing is ever removed")
        };
        let last = match CommitMetadata::read(&world.metadata[partition]) {
            Committer::Us(last) => last,
            Committer::Other => None,
        };
        self.seats[partition] = Some(Seat {
            member,
            partition,
            tracker: OffsetTracker::new(NextOffset::at(next), last),
            worker: Worker::new(next),
        });
    }

    fn revoke(&mut self, partition: usize, with_commit: bool) -> Result<(), Trouble> {
        // The worker has ended: what it told is taken in, then committed, then the partition goes.
        if with_commit {
            let seat = self.seats[partition].as_mut().unwrap();
            seat.tracker
                .acknowledge(seat.worker.done(), seat.worker.last());
            let next = seat.tracker.to_commit(None);
            self.commit(partition, next)?;
        }
        let seat = self.seats[partition].take();
        if self.world.fault == Some(Fault::WritesAfterRevoke) {
            self.ghosts.extend(seat);
        }
        Ok(())
    }

    fn commit(&mut self, partition: usize, next: Option<NextOffset>) -> Result<(), Trouble> {
        let (Some(next), Some(seat)) = (next, self.seats[partition].as_mut()) else {
            return Ok(());
        };
        let name = &self.world.log.partitions[partition];
        let before = self.world.committed.insert(name.clone(), next.get());
        self.world.metadata[partition] = seat.tracker.metadata();
        seat.tracker.commit_confirmed(next);
        match before {
            Some(before) if before > next.get() => {
                let text = format!("{name:?} from {before} to {next}");
                Err(Trouble::Rewound(text))
            }
            _ => Ok(()),
        }
    }

    /// Whether everything is committed, or a member refused to go on.
    pub(crate) fn is_over(&self) -> bool {
        let world = &self.world;
        let ends = world.log.partitions.iter().zip(&world.log.records);
        world.refused.is_some()
            || ends.into_iter().all(|(name, records)| {
                world.committed.get(name).copied() == i64::try_from(records.len()).ok()
            })
    }

    /// Nothing goes wrong any more: all take turns until nobody has anything to do.
    pub(crate) fn finish(&mut self) -> Result<(), Trouble> {
        let records: usize = self.world.log.records.iter().map(Vec::len).sum();
        // Each record is read, gathered for, run, noted, acknowledged and committed.
        for _ in 0..20 * (records + 10) {
            let Some(step) = self.steps().first().copied() else {
                break;
            };
            self.step(step)?;
        }
        if self.is_over() {
            return Ok(());
        }
        let at = format!("{:?} {:?}", self.world.committed, self.seats);
        Err(Trouble::Stuck(at))
    }

    /// The target holds what the source held, if nobody refused to go on.
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        let reference = self.world.log.reference(&self.world.filter);
        let found = &self.world.target.collections;
        if self.world.refused.is_some() || *found == reference {
            return Ok(());
        }
        let text = format!("{found:?} instead of {reference:?}");
        Err(Trouble::Diverged(text))
    }
}
