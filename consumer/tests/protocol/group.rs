//! A group of members over a log, one step at a time: the owners of the partitions, the committed
//! offsets, and the possible failures.

use std::collections::BTreeSet;

use oplog_consumer::group::committed::Offsets;
use oplog_consumer::group::offsets::{CommitMetadata, Committer, NextOffset, OffsetTracker};
use oplog_consumer::group::start::{First, first_offset};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;

use crate::history::Log;
use crate::target::Target;
use crate::worker::Worker;

/// A rule of the protocol that is omitted, to check that the test detects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A worker at a barrier commits the offset after its last record, not the barrier's own offset.
    CommitsAfterLast,
    /// A follower continues as soon as the leader has reached the command, before the command has
    /// run.
    PassesEarly,
    /// A follower does not check whether the command ran.
    PassesSkipped,
    /// A follower of a group with a filter does not check whether the command ran.
    PassesFiltered,
    /// A follower also checks whether an excluded command ran.
    ChecksExcluded,
    /// The leader does not record an excluded command, although the barrier does not show the followers
    /// that it is excluded.
    ExcludesUnrecorded,
    /// The leader does not wait.
    LeadsWithoutWaiting,
    /// The leader waits for the others, but not for its own commit.
    LeadsUncommitted,
    /// The leader does not wait if the command has already run.
    WaitsOnlyToRun,
    /// The leader takes a partition past its barrier as evidence that the command ran.
    TrustsOffsets,
    /// The leader does not check again after its wait whether the command ran.
    ChecksBeforeWaiting,
    /// A rename is recorded only after it ran.
    RecordsRenameLate,
    /// Entries go to the collection that has their name now.
    IgnoresIncarnations,
    /// A worker continues after its partition was revoked.
    WritesAfterRevoke,
}

/// A violation of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A command ran before an earlier write or after a later write.
    OutOfOrder(String),
    /// No member can continue before the end is reached, or a member refused to continue.
    Stuck(String),
    /// The target differs from the source.
    Diverged(String),
    /// The committed offset of a partition went back.
    Rewound(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A worker takes its next step.
    Work(usize),
    /// The poll thread processes a report of a worker.
    Acknowledge(usize),
    /// The poll thread commits.
    Commit(usize),
    /// A partition is assigned to a member.
    Seat(usize, usize),
    /// A partition is revoked, with or without a last commit.
    Revoke(usize, bool),
    /// A member loses a partition whose worker waits at a barrier. The worker continues, because the
    /// member has not noticed the loss yet.
    Lose(usize),
    /// A member crashes and starts again.
    Crash(usize),
    /// A worker whose partition was revoked or lost continues.
    Zombie(usize),
}

/// The worker of a partition, and its member.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) member: usize,
    pub(crate) partition: usize,
    pub(crate) tracker: OffsetTracker,
    pub(crate) worker: Worker,
}

/// The state that all workers share.
#[derive(Debug, Clone)]
pub(crate) struct World<'l> {
    pub(crate) log: &'l Log,
    pub(crate) fault: Option<Fault>,
    pub(crate) committed: Offsets,
    pub(crate) metadata: Vec<String>,
    /// The offset at which each partition started after the last reset.
    pub(crate) starts: Vec<i64>,
    pub(crate) target: Target,
    /// The commands that each member knows to have run.
    pub(crate) known: Vec<BTreeSet<EntryId>>,
    /// True for each entry that was ever applied.
    pub(crate) applied: Vec<bool>,
    pub(crate) allow_partial_reset: bool,
    pub(crate) filter: NamespaceFilter,
    /// The reason why a member refused to continue.
    pub(crate) refused: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Group<'l> {
    pub(crate) world: World<'l>,
    /// The workers by partition.
    pub(crate) seats: Vec<Option<Seat>>,
    /// Workers that continue although their partitions were revoked or lost.
    pub(crate) zombies: Vec<Seat>,
    pub(crate) crashes: usize,
    pub(crate) rebalances: usize,
    pub(crate) losses: usize,
}

impl<'l> Group<'l> {
    /// Creates a group that starts at the first records, with an empty target.
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
            zombies: Vec::new(),
            crashes: 0,
            rebalances: 0,
            losses: 0,
        }
    }

    /// Stops all members, sets these offsets, and starts the members again.
    pub(crate) fn reset(&mut self, offsets: &[Option<i64>]) {
        self.seats.fill(None);
        self.zombies.clear();
        for (index, offset) in offsets.iter().enumerate() {
            let name = self.world.log.partitions[index].clone();
            if let Some(offset) = offset {
                self.world.committed.insert(name.clone(), *offset);
                self.world.metadata[index] = String::new();
            }
            let start = self.world.committed.get(&name).copied().unwrap_or(0);
            self.world.starts[index] = start;
            // Entries that are never replayed count as being on the target.
            for number in self.world.log.written_before(index, start) {
                self.world.applied[number] = true;
            }
        }
        for known in &mut self.world.known {
            *known = self.world.target.done();
        }
    }

    /// Returns the possible next steps without failures.
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
        let zombies = self.zombies.iter().enumerate();
        let able = zombies.filter(|(_, zombie)| {
            // A worker that is about to write finds its token invalid.
            let may = zombie.worker.waits() || self.world.fault == Some(Fault::WritesAfterRevoke);
            may && zombie.worker.can_step(zombie, &self.world)
        });
        steps.extend(able.map(|(index, _)| Step::Zombie(index)));
        steps
    }

    /// Returns the possible next failures.
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
            Step::Zombie(index) => Worker::step(&mut self.zombies[index], &mut self.world),
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
                self.zombies.extend(self.seats[partition].take());
                Ok(())
            }
            Step::Crash(member) => {
                self.crashes -= 1;
                self.zombies.retain(|zombie| zombie.member != member);
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
            Committer::ThisProgram(last) => last,
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
        // The worker has ended. Its reports are processed, then its offset is committed, then the
        // partition is unassigned.
        if with_commit {
            let seat = self.seats[partition].as_mut().unwrap();
            seat.tracker
                .acknowledge(seat.worker.done(), seat.worker.last());
            let next = seat.tracker.to_commit(None);
            self.commit(partition, next)?;
        }
        let seat = self.seats[partition].take();
        if self.world.fault == Some(Fault::WritesAfterRevoke) {
            self.zombies.extend(seat);
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

    /// Returns true if everything is committed, or a member refused to continue.
    pub(crate) fn is_over(&self) -> bool {
        let world = &self.world;
        let ends = world.log.partitions.iter().zip(&world.log.records);
        world.refused.is_some()
            || ends.into_iter().all(|(name, records)| {
                world.committed.get(name).copied() == i64::try_from(records.len()).ok()
            })
    }

    /// Runs all workers, without further failures, until no step is left.
    pub(crate) fn finish(&mut self) -> Result<(), Trouble> {
        let records: usize = self.world.log.records.iter().map(Vec::len).sum();
        // The steps of each record: read, wait, run, record, acknowledge and commit.
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

    /// Checks that the target equals the source, unless a member refused to continue.
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
