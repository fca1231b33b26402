//! Segments: the entries of a chunk up to the next stop, and the handling of each entry.

use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::command::{is_command, scope};
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::position::EntryId;

use super::PartitionWorker;
use crate::error::ConsumerError;
use crate::replay::catalog::{Incarnations, Moment, Resolved};
use crate::worker::batch::Located;
use crate::worker::chunk::Chunk;
use crate::worker::foreign_command::{Handling, handling};

/// A segment: entries that are applied together, and the stop after them. The `Segment` of
/// `replay/plan` is a part of it: the writes of one step.
pub(super) struct Segment<'c> {
    pub(super) entries: Vec<Located<'c>>,
    pub(super) stop: Option<Stop<'c>>,
}

/// Entries that were split at the first stop.
pub(super) struct Split<'s, 'c> {
    pub(super) segment: Segment<'s>,
    /// The entries after the stop. If the stop is an entry of another collection, they begin with
    /// that entry.
    pub(super) rest: Vec<Located<'c>>,
}

/// The end of a segment.
pub(super) enum Stop<'c> {
    /// A barrier, or the command after one.
    Barrier(StopAtBarrier<'c>),
    /// A command of another program.
    Command {
        /// The entry.
        located: Located<'c>,
        /// The last offset of its record.
        end: i64,
    },
    /// An entry of a collection whose name another collection has now.
    Foreign(Located<'c>),
}

/// A barrier, or the command after one, at the end of a segment.
pub(super) struct StopAtBarrier<'c> {
    pub(super) located: Located<'c>,
    pub(super) barrier: Barrier,
    /// The last offset of its record.
    pub(super) end: i64,
}

/// The decision about an entry.
enum Judged {
    /// The entry is applied, possibly to a collection with a different name.
    Apply {
        under_another: bool,
    },
    /// The entry is skipped: it is before the start, changes nothing, is excluded by the filter, or
    /// belongs to a dropped collection.
    Pass,
    Barrier(Barrier),
    /// A command of another program.
    Command,
    /// The name of the entry's collection belongs to another collection.
    Foreign,
}

/// The place of an entry's collection.
enum Found<'n> {
    /// The collection has this name, which may differ from that of the entry.
    Here(&'n str),
    /// The collection was dropped.
    Gone,
    /// Another collection has the name.
    Foreign,
}

impl PartitionWorker {
    /// Splits the entries at the first stop: a barrier, a command of another program, or an entry
    /// whose name belongs to another collection now.
    pub(super) fn segment<'s, 'c: 's>(
        &self,
        chunk: &Chunk,
        mut all: Vec<Located<'c>>,
        incarnations: Option<&'s Incarnations>,
    ) -> Result<Split<'s, 'c>, ConsumerError> {
        let (mut kept, mut next) = (0, all.len());
        let (mut stop, mut renamed) = (None, false);
        for index in 0..all.len() {
            let Some(located) = all.get(index) else { break };
            match self.judge(located, incarnations)? {
                Judged::Apply { under_another } => {
                    renamed |= under_another;
                    all.swap(kept, index);
                    kept += 1;
                }
                Judged::Pass => {}
                Judged::Barrier(barrier) => {
                    stop = Some(Stop::Barrier(StopAtBarrier {
                        located: *located,
                        barrier,
                        end: chunk.last_offset(located.offset),
                    }));
                    next = index + 1;
                    break;
                }
                Judged::Command => {
                    stop = Some(Stop::Command {
                        located: *located,
                        end: chunk.last_offset(located.offset),
                    });
                    next = index + 1;
                    break;
                }
                Judged::Foreign => {
                    stop = Some(Stop::Foreign(*located));
                    next = index;
                    break;
                }
            }
        }
        let rest = all.split_off(next);
        all.truncate(kept);
        let mut entries: Vec<Located<'s>> = all;
        // This is not done in the loop above, because the rest outlives these names.
        for located in entries.iter_mut().filter(|_| renamed) {
            if let Found::Here(ns) = find(located, self.assignment.partition, incarnations) {
                located.entry.ns = ns;
            }
        }
        let segment = Segment { entries, stop };
        Ok(Split { segment, rest })
    }

    /// Decides how an entry is handled.
    fn judge(
        &self,
        located: &Located<'_>,
        incarnations: Option<&Incarnations>,
    ) -> Result<Judged, ConsumerError> {
        let entry = &located.entry;
        if self.reads_foreign && is_command(entry) {
            match self.context.target().map(|_| handling(entry)) {
                Some(Handling::Skip) => return Ok(Judged::Pass),
                Some(Handling::InOrder) | None => return Ok(Judged::Command),
                Some(Handling::AnyTime) => {}
            }
        }
        let barrier = match self.reads_foreign {
            // Only oplog-producer writes barriers.
            true => None,
            false => Barrier::read(entry).map_err(|source| self.damaged(located.offset, source))?,
        };
        let id = barrier
            .as_ref()
            .map_or(located.id, |barrier| barrier.command);
        if self.assignment.after.is_some_and(|after| id <= after) {
            return Ok(Judged::Pass);
        }
        if let Some(barrier) = barrier {
            return Ok(Judged::Barrier(barrier));
        }
        if entry.operation == Operation::Noop {
            return Ok(Judged::Pass);
        }
        if !self.passes(entry) {
            self.context.metrics.filtered.inc();
            return Ok(Judged::Pass);
        }
        Ok(
            match find(located, self.assignment.partition, incarnations) {
                Found::Here(ns) => Judged::Apply {
                    under_another: ns != entry.ns,
                },
                Found::Gone => {
                    self.context.metrics.dropped_entries.inc();
                    Judged::Pass
                }
                Found::Foreign => Judged::Foreign,
            },
        )
    }

    /// Returns true if the filter includes the entry. The namespace of a command is `db.$cmd`, so the
    /// collection is taken from the command.
    fn passes(&self, entry: &Entry<'_>) -> bool {
        if !is_command(entry) {
            return self.context.filter.passes(entry.ns);
        }
        let scope = scope(entry).ok().flatten();
        scope.is_none_or(|scope| self.context.filter.passes(&scope.ns()))
    }
}

fn find<'n>(
    located: &Located<'n>,
    partition: i32,
    incarnations: Option<&'n Incarnations>,
) -> Found<'n> {
    let Entry { ns, ui, .. } = located.entry;
    let Some(incarnations) = incarnations else {
        return Found::Here(ns);
    };
    if incarnations.is_empty() || is_command(&located.entry) {
        return Found::Here(ns);
    }
    let written = match has_time(located.id) {
        true => Moment::Time(located.id),
        false if partition == 0 => Moment::Offset(located.offset),
        // The topic had one partition when its commands ran, so this partition was added later.
        false => Moment::Offset(i64::MAX),
    };
    match incarnations.resolve(ns, written, ui) {
        Resolved::Live(ns) => Found::Here(ns),
        Resolved::Dropped => Found::Gone,
        Resolved::Foreign => Found::Foreign,
    }
}

/// Returns true if the time of an entry is known. It is unknown only in some entries of other
/// programs.
pub(super) fn has_time(id: EntryId) -> bool {
    id.ts.seconds > 0
}
