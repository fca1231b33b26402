//! Translates entries into idempotent writes. Pure code, without I/O.
//!
//! A [`Plan`] applies the entries of a batch to a target. Writes are distributed over lanes by the
//! identity of their document. Lanes do not share documents and may therefore be sent in any order
//! or concurrently; within a lane, bulks are sent one after the other. Every write may be repeated,
//! except those that `--unrepeatable apply` allows.
//!
//! The writes of one document within a batch are folded if the result is certain. An insert, a
//! replacement and a delete determine the document's whole state, so they supersede its earlier
//! writes; later writes are kept, in order:
//!
//! | entries of one document | writes |
//! | --- | --- |
//! | insert, update, update | insert; update, update |
//! | insert, update, replacement | replacement |
//! | replacement, replacement | the last replacement |
//! | insert, update, delete | delete, because the insert may have been applied before a crash |
//! | delete, insert | replacement |
//!
//! A document's insert or delete therefore precedes its updates. The order of a lane is inserts,
//! deletes, then updates and replacements in order, then rewrites.
//!
//! A rewrite is an update that no command can express: the document is read, its entries are
//! applied to it, and it is replaced. If a document has one such entry in a step, all of its
//! updates in that step are rewrites. Inserts, replacements and deletes of the document precede them,
//! and are sent in commands as usual.
//!
//! In some collections the documents depend on each other (for example if they have a unique index
//! or are capped). Their writes are neither folded nor reordered.
//!
//! A server replaces a zero timestamp in a top-level field of an inserted or replaced document with
//! its own time. Such a write is followed by a `$set` of the field. If the field's name cannot be
//! used as a path, the document is sent as `[{$replaceWith: {$literal: <document>}}]` instead,
//! which MongoDB 5.0 and later store byte for byte. A replacement by a document with a top-level
//! name that begins with a dollar sign has the same form. A document that is derived from the stored
//! one (a rewrite, a document that moves to another shard, and a held document) has this form
//! whenever it has a zero timestamp: if the program ended between two writes, an update that is
//! applied again would take the server's time for the value of the field.
//!
//! The operations of a user's own `applyOps` are in the oplog as the user wrote them. An update
//! with `b: true` is sent as an upsert. Update operators that are not idempotent are sent only with
//! `--unrepeatable apply`. Each of these updates is a step of its own.
//!
//! A replacement is sent with upsert, because the entry holds the whole document. An update is sent
//! with upsert only with `--unmatched upsert`: it would create a document of only the fields that
//! it sets.
//!
//! # Modules
//!
//! - `segment` folds the writes of one step, and distributes them over lanes
//! - `statement` encodes writes as commands; `diff` decides whether a `$v: 2` diff is sent as
//!   update operators or is a rewrite
//! - `rewrite` applies writes to a document that was read
//! - [`translation`] turns the commands of an oplog into commands for a target
//! - `fault` has the reasons why an entry cannot be applied

mod diff;
mod fault;
mod rewrite;
mod segment;
mod statement;
pub mod translation;

use oplog_relay_core::command::is_command;
use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::entry::{Operation, Update};
use oplog_relay_core::position::EntryId;

use crate::record_position::Origin;
use crate::topic_partition::TopicPartition;
use crate::worker::batch::Located;

pub use fault::{PlanError, PlanFault, UnknownOrder};
pub use rewrite::{RewriteError, loses_zeros, rewritten, zero_timestamps};
use rewrite::{ZeroTimestamps, zero_timestamps_of};
pub(crate) use rewrite::{is_zero, restoring_zeros};
use segment::Segment;
pub use statement::{CommandOptions, statement_bytes, write_command};

/// Number of entries that justify another lane. Fewer entries are faster in one command.
const ENTRIES_PER_LANE: usize = 64;

/// The steps of a batch, to be run one after the other.
#[derive(Debug, Clone, Default)]
pub struct Plan<'a> {
    /// The steps; each starts after the previous one is done.
    pub steps: Vec<Step<'a>>,
    /// Number of writes that a later one superseded.
    pub folded: u64,
}

/// A step of a plan.
#[derive(Debug, Clone)]
pub enum Step<'a> {
    /// Writes to documents. The lanes are independent of each other.
    Write(Vec<Lane<'a>>),
    /// A command to run.
    Command(Command<'a>),
}

/// A command of the batch.
#[derive(Debug, Clone)]
pub struct Command<'a> {
    /// The command's entry.
    pub located: Located<'a>,
    /// The entry's index in the batch.
    pub index: usize,
}

/// Bulks that are sent one after the other.
#[derive(Debug, Clone, Default)]
pub struct Lane<'a> {
    /// The inserts, deletes, updates and rewrites of one collection, then those of the next. The
    /// bulks of a collection whose writes keep their order are in the order of its entries.
    pub bulks: Vec<Bulk<'a>>,
}

/// The kind of the writes of a bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkKind {
    /// Inserts of different documents; on a duplicate `_id` the document is replaced.
    Insert,
    /// Deletes of different documents; a document that does not exist is ignored.
    Delete,
    /// Updates and replacements, to be applied in order.
    Update,
    /// Updates of documents that are read, changed by [`rewritten`] and replaced; in order.
    Rewrite,
}

/// Writes of one kind to one collection.
#[derive(Debug, Clone)]
pub struct Bulk<'a> {
    /// `db.collection`
    pub ns: &'a str,
    /// The kind of the writes.
    pub kind: BulkKind,
    /// The writes; their order matters only if the kind says so.
    pub writes: Vec<Write<'a>>,
}

/// One write to one document.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The entry of the write.
    pub id: EntryId,
    /// The record of the entry.
    pub origin: Origin<'a>,
    /// The document's `_id`, as the entry has it. The stored one may have another numeric type.
    pub document_id: Element<'a>,
    /// The change of the document.
    pub action: Action<'a>,
    /// The values by which a sharded cluster finds the document's shard.
    pub routing: Routing<'a>,
}

/// The part of a filter by which a sharded cluster finds the shard of a document. It is empty where
/// `_id` is sufficient: on a replica set, in collections that are not sharded, and in those that are
/// sharded by `_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing<'a> {
    /// The stored values of the shard key, by path, without `_id`.
    pub values: Document<'a>,
    /// True if the collection has a collation of its own. A shard key is always compared without one,
    /// so the filter must be too.
    pub has_collation: bool,
}

impl Routing<'static> {
    /// No values: the filter has only `_id`.
    pub const NONE: Self = Self {
        values: Document::EMPTY,
        has_collation: false,
    };
}

/// A change of a document. The action for a command of the oplog is [`translation::Action`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Inserts the document.
    Insert(Document<'a>),
    /// Replaces the document, or inserts it if it does not exist.
    Replace(Document<'a>),
    /// Applies `$set` and `$unset` if the document exists. The modifiers may have `$v` and the same
    /// operator twice; [`write_command`] corrects both.
    Modify(Document<'a>),
    /// Applies a `$v: 2` diff if the document exists, by an equivalent `$set` and `$unset` of
    /// top-level fields.
    Fields(Document<'a>),
    /// Applies a `$v: 2` diff if the document exists. No command can do that, so it is a rewrite.
    Diff(Document<'a>),
    /// Replaces the document if it exists: the result of a rewrite.
    Rewritten(Document<'a>),
    /// Sets the top-level fields of this document that hold a zero timestamp. It follows an insert
    /// or a replacement in which the server stored its own time in them.
    Zeros(Document<'a>),
    /// Deletes the document if it exists.
    Delete,
    /// Applies a user's own modifiers unchanged, except for `$v`.
    AsIs {
        /// The operators.
        modifiers: Document<'a>,
        /// True if the document is created when it does not exist.
        upsert: bool,
    },
}

impl Action<'_> {
    /// Returns true if the action determines the document's whole state.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        !matches!(
            self,
            Self::Modify(_) | Self::Fields(_) | Self::Diff(_) | Self::Zeros(_) | Self::AsIs { .. }
        )
    }

    const fn bulk_kind(&self) -> BulkKind {
        match self {
            Self::Insert(_) => BulkKind::Insert,
            Self::Delete => BulkKind::Delete,
            Self::Replace(_)
            | Self::Modify(_)
            | Self::Fields(_)
            | Self::Rewritten(_)
            | Self::Zeros(_)
            | Self::AsIs { .. } => BulkKind::Update,
            Self::Diff(_) => BulkKind::Rewrite,
        }
    }
}

/// Returns the effect of zero timestamps on an insert or replacement. They have no effect on other
/// actions.
fn zeros_of(action: &Action<'_>) -> Result<ZeroTimestamps, Malformed> {
    Ok(match action {
        Action::Insert(document) => zero_timestamps_of(*document)?,
        Action::Replace(document) if loses_zeros(*document)? => ZeroTimestamps::Settable,
        _ => ZeroTimestamps::Absent,
    })
}

/// Plans the writes of batches.
#[derive(Debug, Clone)]
pub struct Planner {
    lanes: usize,
    applies_unrepeatable: bool,
}

impl Planner {
    /// Creates a planner that distributes the writes of a batch over at most `lanes` lanes.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        Self {
            lanes: lanes.max(1),
            applies_unrepeatable: false,
        }
    }

    /// Makes the planner send updates with operators that are not idempotent (`$inc`, `$push`)
    /// unchanged.
    #[must_use]
    pub const fn applying_unrepeatable(mut self) -> Self {
        self.applies_unrepeatable = true;
        self
    }

    /// Plans a batch of collections whose documents do not depend on each other.
    ///
    /// # Errors
    /// Returns the errors of [`Planner::plan_ordered`].
    pub fn plan<'a>(&self, entries: &[Located<'a>]) -> Result<Plan<'a>, PlanError> {
        self.plan_ordered(entries, TopicPartition::NONE, &|_| false)
    }

    /// Plans a batch of a partition. If `is_ordered` returns true for a collection, all of its entries are
    /// kept, in order, in one lane.
    ///
    /// # Errors
    /// [`PlanError`] names the first entry that cannot be applied. The entries before it can be
    /// planned as a batch of their own.
    pub fn plan_ordered<'a>(
        &self,
        entries: &[Located<'a>],
        partition: &'a TopicPartition,
        is_ordered: &dyn Fn(&str) -> bool,
    ) -> Result<Plan<'a>, PlanError> {
        let mut plan = Plan::default();
        let mut segment = Segment::of(partition);
        for (index, located) in entries.iter().enumerate() {
            let fault = |fault| PlanError {
                index,
                id: located.id,
                ns: located.entry.ns.to_owned(),
                fault,
            };
            if is_command(&located.entry) {
                self.finish(segment.take(), is_ordered, &mut plan);
                let located = *located;
                plan.steps.push(Step::Command(Command { located, index }));
            } else if let Some(mut action) = self.action_of(located).map_err(fault)? {
                let zeros = zeros_of(&action).map_err(|error| fault(error.into()))?;
                // No `$set` can restore all zero timestamps after an insert of this document, so it
                // is sent as an upsert with a literal.
                if let (ZeroTimestamps::Hidden, Action::Insert(document)) = (zeros, action) {
                    action = Action::Replace(document);
                }
                let is_own_step = matches!(action, Action::AsIs { .. });
                if is_own_step {
                    self.finish(segment.take(), is_ordered, &mut plan);
                }
                segment.push(located, action).map_err(fault)?;
                if is_own_step {
                    self.finish(segment.take(), is_ordered, &mut plan);
                }
                if zeros == ZeroTimestamps::Settable
                    && let Action::Insert(document) | Action::Replace(document) = action
                {
                    segment
                        .push(located, Action::Zeros(document))
                        .map_err(fault)?;
                }
            }
        }
        self.finish(segment, is_ordered, &mut plan);
        Ok(plan)
    }

    /// Returns the change that an entry makes to its document; `None` if it makes none.
    fn action_of<'a>(&self, located: &Located<'a>) -> Result<Option<Action<'a>>, PlanFault> {
        let entry = &located.entry;
        if entry.is_timeseries {
            return Err(PlanFault::TimeSeries);
        }
        Ok(match entry.operation {
            Operation::Insert => Some(Action::Insert(entry.o)),
            Operation::Delete => Some(Action::Delete),
            Operation::Update => match entry.update()? {
                Update::Replacement(document) => Some(Action::Replace(document)),
                Update::Modifiers(modifiers) => self.modifiers(modifiers, entry.is_upsert)?,
                Update::Diff(diff) => diff::action(diff, entry)?,
            },
            Operation::Command | Operation::Noop => None,
        })
    }

    fn modifiers<'a>(
        &self,
        modifiers: Document<'a>,
        upsert: bool,
    ) -> Result<Option<Action<'a>>, PlanFault> {
        let as_is = Action::AsIs { modifiers, upsert };
        match statement::check_modifiers(modifiers) {
            Ok(false) => Ok(None),
            Ok(true) if upsert => Ok(Some(as_is)),
            Ok(true) => Ok(Some(Action::Modify(modifiers))),
            Err(PlanFault::Operator(_)) if self.applies_unrepeatable => Ok(Some(as_is)),
            Err(fault) => Err(fault),
        }
    }

    /// Adds the writes of a segment to the plan, as a step.
    fn finish<'a>(
        &self,
        segment: Segment<'a>,
        is_ordered: &dyn Fn(&str) -> bool,
        plan: &mut Plan<'a>,
    ) {
        if segment.is_empty() {
            return;
        }
        let count = segment.len().div_ceil(ENTRIES_PER_LANE).min(self.lanes);
        let (lanes, folded) = segment.into_lanes(count, is_ordered);
        plan.folded += folded;
        plan.steps.push(Step::Write(lanes));
    }
}

#[cfg(test)]
mod tests;
