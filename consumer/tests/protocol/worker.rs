//! A model of the worker of one partition, which corresponds to `PartitionWorker` and `CommandBarrier`.
//! Each step is one write to the target, or one read of the state of other workers.

use oplog_consumer::group::offsets::NextOffset;
use oplog_consumer::replay::catalog::{Change, Moment, Ran, Resolved};
use oplog_consumer::worker::barrier::{
    Side, Waited, assembled, followers, gathered, is_left_out, is_past, leader, needs_note,
};
use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::EntryId;

use crate::group::{Fault, Seat, Trouble, World};
use crate::history::{Command, Entry, Event, NAMES, Record, filtered, namespaces, topics};

/// The state of a worker.
#[derive(Debug, Clone)]
enum Stage {
    Reading,
    /// The worker waits until the leader is past the command.
    Following(Barrier),
    /// The worker waits for all others before it runs the command.
    Gathering(Barrier, Entry),
    /// All others have reached their barriers.
    Deciding(Barrier, Entry, Waited),
    Running(Barrier, Entry),
    /// A rename is recorded. The flags are true if its collection exists now, and if it existed when
    /// the rename was first recorded.
    Moving(Barrier, Entry, (bool, bool)),
    /// The command ran and is to be recorded.
    Noting(Barrier, Ran),
}

#[derive(Debug, Clone)]
pub(crate) struct Worker {
    stage: Stage,
    /// The next record to read.
    next: i64,
    /// The offset before which everything is applied.
    done: i64,
    last: Option<EntryId>,
}

impl Worker {
    pub(crate) const fn new(next: i64) -> Self {
        Self {
            stage: Stage::Reading,
            next,
            done: next,
            last: None,
        }
    }

    pub(crate) const fn done(&self) -> NextOffset {
        NextOffset::at(self.done)
    }

    pub(crate) const fn last(&self) -> Option<EntryId> {
        self.last
    }

    /// Returns the offset before which everything was taken from Kafka.
    pub(crate) const fn reader(&self) -> i64 {
        self.next
    }

    /// Returns true if the worker waits at a barrier, so that its next step writes nothing.
    pub(crate) const fn waits(&self) -> bool {
        matches!(
            self.stage,
            Stage::Following(_) | Stage::Gathering(..) | Stage::Deciding(..)
        )
    }

    /// Returns true if a step would change anything.
    pub(crate) fn can_step(&self, seat: &Seat, world: &World<'_>) -> bool {
        match &self.stage {
            Stage::Reading => world.log.next(seat.partition, self.next).is_some(),
            Stage::Following(barrier) => is_released(barrier, world),
            Stage::Gathering(barrier, _) => gather(barrier, world).is_some(),
            Stage::Deciding(..) | Stage::Running(..) | Stage::Moving(..) | Stage::Noting(..) => {
                true
            }
        }
    }

    pub(crate) fn step(seat: &mut Seat, world: &mut World<'_>) -> Result<(), Trouble> {
        match seat.worker.stage.clone() {
            Stage::Reading => return read(seat, world),
            Stage::Following(barrier) => follow(seat, &barrier, world),
            Stage::Gathering(barrier, entry) => {
                if let Some(waited) = gather(&barrier, world) {
                    seat.worker.stage = Stage::Deciding(barrier, entry, waited);
                }
            }
            Stage::Deciding(barrier, entry, waited) => {
                decide(seat, (barrier, entry), &waited, world);
            }
            Stage::Running(barrier, entry) => return run(seat, (barrier, entry), world),
            Stage::Moving(barrier, entry, existed) => {
                return rename(seat, (barrier, entry), existed, world);
            }
            Stage::Noting(barrier, ran) => {
                world.known[seat.member].insert(ran.id);
                world.target.finish(ran);
                seat.worker.pass(&barrier);
            }
        }
        Ok(())
    }

    /// Continues after the current record.
    fn pass(&mut self, barrier: &Barrier) {
        self.stage = Stage::Reading;
        self.done = self.next;
        self.last = Some(barrier.command);
    }
}

fn read(seat: &mut Seat, world: &mut World<'_>) -> Result<(), Trouble> {
    let Some((offset, record)) = world.log.next(seat.partition, seat.worker.next) else {
        return Ok(());
    };
    let record = record.clone();
    seat.tracker.hand(offset);
    seat.worker.next = offset + 1;
    match record {
        Record::Entry(entry) => {
            check_commands(&entry, (seat.partition, offset), world)?;
            write(&entry, seat.member, world);
            seat.worker.done = offset + 1;
            seat.worker.last = Some(entry.id);
        }
        Record::Barrier(barrier) => {
            report_barrier_offset(offset, seat, world);
            if barrier.passable || world.log.partitions[seat.partition] == leader(&barrier) {
                seat.worker.pass(&barrier);
            } else {
                seat.worker.stage = Stage::Following(barrier);
            }
        }
        Record::Command(barrier, entry) => {
            report_barrier_offset(offset, seat, world);
            lead(seat, barrier, entry, world);
        }
    }
    Ok(())
}

/// Decides by the filter, like the start of `CommandBarrier::lead`.
fn lead(seat: &mut Seat, barrier: Barrier, entry: Entry, world: &mut World<'_>) {
    let Event::Run(command) = entry.event else {
        unreachable!("only commands are led")
    };
    match Side::of(&namespaces(command), &world.filter) {
        Side::Inside | Side::Leaves => seat.worker.stage = Stage::Gathering(barrier, entry),
        Side::Enters => world.refused = Some(format!("{entry:?} enters")),
        Side::Outside if needs_note(&barrier) && world.fault != Some(Fault::ExcludesUnrecorded) => {
            let change = match command {
                Command::Create(_) => Change::Created,
                _ => Change::Other,
            };
            let ran = Ran {
                id: entry.id,
                ns: NAMES[topics(command)[0]].to_owned(),
                ui: entry.ui,
                change,
                offset: None,
            };
            seat.worker.stage = Stage::Noting(barrier, ran);
        }
        Side::Outside => seat.worker.pass(&barrier),
    }
}

/// Reports the barrier's own offset to the poll thread.
fn report_barrier_offset(offset: i64, seat: &mut Seat, world: &World<'_>) {
    if world.fault != Some(Fault::CommitsAfterLast) {
        seat.worker.done = offset;
    }
}

fn write(entry: &Entry, member: usize, world: &mut World<'_>) {
    let Event::Write(ns, document, write) = entry.event else {
        return;
    };
    let named = NAMES[ns];
    if !world.filter.passes(named) {
        world.applied[usize::try_from(entry.number).unwrap()] = true;
        return;
    }
    let mut incarnations = world.target.incarnations(&world.known[member]);
    let written = Moment::Time(entry.id);
    if incarnations.resolve(named, written, entry.ui) == Resolved::Foreign {
        world.known[member] = world.target.done();
        incarnations = world.target.incarnations(&world.known[member]);
    }
    let now = match incarnations.resolve(named, written, entry.ui) {
        _ if world.fault == Some(Fault::IgnoresIncarnations) => Some(named),
        Resolved::Live(now) => Some(now),
        Resolved::Dropped => None,
        Resolved::Foreign => {
            world.refused = Some(format!("{entry:?} is of another collection"));
            return;
        }
    };
    if let Some(now) = now {
        let collections = &mut world.target.collections;
        collections.write(now, document, write, entry.number);
    }
    world.applied[usize::try_from(entry.number).unwrap()] = true;
}

fn is_released(barrier: &Barrier, world: &World<'_>) -> bool {
    if world.fault == Some(Fault::PassesEarly) {
        let at = world.committed.get(&leader(barrier));
        return at.is_some_and(|at| *at > barrier.leader_offset);
    }
    is_past(barrier, &world.committed)
}

fn follow(seat: &mut Seat, barrier: &Barrier, world: &mut World<'_>) {
    if !is_released(barrier, world) {
        return;
    }
    let is_filtered = world.filter != NamespaceFilter::default();
    let checks_command = match world.fault {
        Some(Fault::PassesSkipped | Fault::PassesEarly) => false,
        Some(Fault::PassesFiltered) => !is_filtered,
        Some(Fault::ChecksExcluded) => true,
        _ => !is_left_out(barrier, &world.filter),
    };
    if world.target.is_done(barrier.command) {
        world.known[seat.member].insert(barrier.command);
    } else if checks_command && !world.allow_partial_reset {
        world.refused = Some(format!("{} was skipped", barrier.command));
        return;
    }
    seat.worker.pass(barrier);
}

fn gather(barrier: &Barrier, world: &World<'_>) -> Option<Waited> {
    let ran = world.target.is_done(barrier.command);
    match world.fault {
        Some(Fault::LeadsWithoutWaiting) => Some(Waited::Reached),
        Some(Fault::WaitsOnlyToRun) if ran => Some(Waited::Reached),
        Some(Fault::LeadsUncommitted) => gathered(&followers(barrier), &world.committed),
        _ => assembled(barrier, &world.committed),
    }
}

fn decide(
    seat: &mut Seat,
    (barrier, entry): (Barrier, Entry),
    waited: &Waited,
    world: &mut World<'_>,
) {
    let mut ran = world.target.is_done(entry.id);
    if world.fault == Some(Fault::ChecksBeforeWaiting) {
        ran = world.known[seat.member].contains(&entry.id);
    }
    if ran {
        world.known[seat.member].insert(entry.id);
    }
    if world.fault == Some(Fault::TrustsOffsets) {
        ran = matches!(waited, Waited::Beyond { .. });
    }
    if ran {
        seat.worker.pass(&barrier);
        return;
    }
    match waited {
        Waited::Beyond { name, committed } if !world.allow_partial_reset => {
            world.refused = Some(format!("{name:?} is at {committed}, beyond {barrier:?}"));
        }
        _ => seat.worker.stage = Stage::Running(barrier, entry),
    }
}

/// Runs a command like the sink: checks the catalog again, finds the collection, and runs the command.
fn run(
    seat: &mut Seat,
    (barrier, entry): (Barrier, Entry),
    world: &mut World<'_>,
) -> Result<(), Trouble> {
    let Event::Run(command) = entry.event else {
        unreachable!("only commands are run")
    };
    if world.target.is_done(entry.id) && world.fault != Some(Fault::TrustsOffsets) {
        seat.worker.pass(&barrier);
        return Ok(());
    }
    let command = filtered(command, &world.filter).unwrap();
    let concerned = topics(command);
    let named = NAMES[concerned[0]];
    let change = match command {
        Command::Create(_) => Change::Created,
        Command::Drop(_) => Change::Dropped,
        Command::Rename(_, to) => Change::Renamed {
            to: NAMES[to].to_owned(),
        },
        Command::Order(_) | Command::Build(_) => Change::Other,
    };
    let mut ran = Ran {
        id: entry.id,
        ns: named.to_owned(),
        ui: entry.ui,
        change,
        offset: None,
    };
    let incarnations = world.target.incarnations(&world.known[seat.member]);
    let Resolved::Live(now) = incarnations.resolve(named, Moment::Time(entry.id), None) else {
        ran.change = Change::Other;
        seat.worker.stage = Stage::Noting(barrier, ran);
        return Ok(());
    };
    let now = NAMES.iter().position(|name| *name == now).unwrap();
    if matches!(command, Command::Rename(..)) && world.fault != Some(Fault::RecordsRenameLate) {
        let exists = world.target.collections.has(now);
        let existed = world.target.begin(ran, exists);
        seat.worker.stage = Stage::Moving(barrier, entry, (exists, existed));
        return Ok(());
    }
    check_order(&entry, &concerned, world)?;
    match command {
        Command::Drop(_) => world.target.collections.run(Command::Drop(now)),
        Command::Rename(..) => {
            let exists = world.target.collections.has(now);
            moved(command, (exists, exists), world);
        }
        Command::Create(_) | Command::Order(_) | Command::Build(_) => {
            world.target.collections.run(command);
        }
    }
    seat.worker.stage = Stage::Noting(barrier, ran);
    Ok(())
}

fn rename(
    seat: &mut Seat,
    (barrier, entry): (Barrier, Entry),
    existed: (bool, bool),
    world: &mut World<'_>,
) -> Result<(), Trouble> {
    let Event::Run(Command::Rename(from, to)) = entry.event else {
        unreachable!("only renames move")
    };
    check_order(&entry, &[from, to], world)?;
    moved(Command::Rename(from, to), existed, world);
    let ran = Ran {
        id: entry.id,
        ns: NAMES[from].to_owned(),
        ui: entry.ui,
        change: Change::Renamed {
            to: NAMES[to].to_owned(),
        },
        offset: None,
    };
    seat.worker.stage = Stage::Noting(barrier, ran);
    Ok(())
}

/// Moves a renamed collection. If it does not exist and did not exist when the command was recorded,
/// the collection with the new name is dropped. If it existed then, it was moved before a crash.
fn moved(command: Command, (now, first): (bool, bool), world: &mut World<'_>) {
    let Command::Rename(_, to) = command else {
        return;
    };
    if now {
        world.target.collections.run(command);
    } else if !first {
        world.target.collections.run(Command::Drop(to));
    }
}

/// Checks that all earlier writes of the command's collections were applied and no later one was,
/// unless the command is an index build, which later writes may pass.
fn check_order(entry: &Entry, concerned: &[usize], world: &World<'_>) -> Result<(), Trouble> {
    let is_build = matches!(entry.event, Event::Run(Command::Build(_)));
    for (other, applied) in world.log.entries.iter().zip(&world.applied) {
        let Event::Write(ns, ..) = other.event else {
            continue;
        };
        let earlier = other.id < entry.id;
        if !concerned.contains(&ns) || *applied == earlier || (is_build && !earlier) {
            continue;
        }
        if earlier || !world.allow_partial_reset {
            let which = if earlier {
                "before an earlier"
            } else {
                "after a later"
            };
            let text = format!("{entry:?} ran {which} write: {other:?}");
            return Err(Trouble::OutOfOrder(text));
        }
    }
    Ok(())
}

/// Checks that every command has run whose barrier is before the entry in its partition, but not
/// before the offset to which the operator last set the partition.
fn check_commands(
    entry: &Entry,
    (partition, offset): (usize, i64),
    world: &World<'_>,
) -> Result<(), Trouble> {
    let passed = (world.starts[partition], offset);
    let mut passed = world.log.commands(partition, passed);
    let is_missing =
        |id: &EntryId| world.log.is_run(*id, &world.filter) && !world.target.is_done(*id);
    match passed.find(is_missing) {
        Some(command) if !world.allow_partial_reset => {
            let text = format!("{entry:?} is written, but {command} did not run");
            Err(Trouble::OutOfOrder(text))
        }
        _ => Ok(()),
    }
}
