//! The writes of one step: they are folded by document, and distributed over lanes.

use std::hash::BuildHasher;
use std::ops::Range;

use oplog_relay_core::key::write_id_identity;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::{Action, Bulk, BulkKind, Lane, PlanFault, Routing, Write};
use crate::record_position::Origin;
use crate::topic_partition::TopicPartition;
use crate::worker::batch::Located;

/// A write with its collection.
struct PlannedWrite<'a> {
    ns: &'a str,
    write: Write<'a>,
    /// The canonical `_id` of the document, as a range of [`Segment::identities`].
    identity: Range<usize>,
}

/// The writes of one step. The `Segment` of `worker/segment.rs` is the whole batch, with the stop after
/// it.
pub(super) struct Segment<'a> {
    partition: &'a TopicPartition,
    writes: Vec<PlannedWrite<'a>>,
    /// The canonical `_id`s of the documents, one after the other.
    identities: Vec<u8>,
}

/// The state of a document while its entries are read backwards.
#[derive(Clone, Copy, Default)]
struct Fold {
    /// Index of the write that determines the whole state; it supersedes all earlier writes.
    whole: Option<usize>,
    /// True if a later write that is not superseded is a diff that no command can apply.
    rewrite: bool,
}

/// The treatment of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A later write supersedes it.
    Folded,
    /// It is sent in the bulk of its kind.
    Sent,
    /// It is sent in the bulk of rewrites.
    Rewritten,
}

impl<'a> Segment<'a> {
    pub(super) const fn of(partition: &'a TopicPartition) -> Self {
        Self {
            partition,
            writes: Vec::new(),
            identities: Vec::new(),
        }
    }

    /// Returns the segment, and leaves an empty one in its place.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::of(self.partition))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Returns the number of writes.
    pub(super) const fn len(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn push(
        &mut self,
        located: &Located<'a>,
        action: Action<'a>,
    ) -> Result<(), PlanFault> {
        let document_id = located.entry.document_id()?;
        let start = self.identities.len();
        write_id_identity(document_id, &mut self.identities)?;
        self.writes.push(PlannedWrite {
            ns: located.entry.ns,
            write: Write {
                id: located.id,
                origin: Origin {
                    partition: self.partition,
                    offset: located.offset,
                },
                document_id,
                action,
                routing: Routing::NONE,
            },
            identity: start..self.identities.len(),
        });
        Ok(())
    }

    /// Folds and distributes the writes. Also returns the number of superseded writes.
    pub(super) fn into_lanes(
        mut self,
        count: usize,
        is_ordered: &dyn Fn(&str) -> bool,
    ) -> (Vec<Lane<'a>>, u64) {
        let ordered = self.ordered(is_ordered);
        let fates = self.fold(&ordered);
        let mut lanes = vec![Lane::default(); count];
        // Index of a collection's first bulk in its lane, by lane and namespace.
        let mut bulks: FxHashMap<(usize, &str), usize> = FxHashMap::default();
        let mut folded = 0;
        for (index, planned) in self.writes.iter().enumerate() {
            let PlannedWrite { ns, write, .. } = planned;
            let kind = match fates.get(index) {
                Some(Fate::Folded) => {
                    folded += 1;
                    continue;
                }
                Some(Fate::Rewritten) => BulkKind::Rewrite,
                Some(Fate::Sent) | None => write.action.bulk_kind(),
            };
            if ordered.contains(ns) {
                if let Some(lane) = lanes.get_mut(lane_of(ns, b"", count)) {
                    lane.push_last(ns, kind, *write);
                }
                continue;
            }
            let number = lane_of(ns, self.identity(planned), count);
            let Some(lane) = lanes.get_mut(number) else {
                continue;
            };
            let first = *bulks.entry((number, ns)).or_insert_with(|| lane.open(ns));
            lane.push(first, kind, *write);
        }
        for lane in &mut lanes {
            lane.bulks.retain(|bulk| !bulk.writes.is_empty());
        }
        lanes.retain(|lane| !lane.bulks.is_empty());
        (lanes, folded)
    }

    /// Returns the collections of this segment whose writes must keep their order.
    fn ordered(&self, is_ordered: &dyn Fn(&str) -> bool) -> FxHashSet<&'a str> {
        let all: FxHashSet<&str> = self.writes.iter().map(|planned| planned.ns).collect();
        all.into_iter().filter(|ns| is_ordered(ns)).collect()
    }

    /// Decides the treatment of each write, from the last to the first. An insert of a document
    /// that was written before in this segment becomes a replacement.
    fn fold(&mut self, ordered: &FxHashSet<&str>) -> Vec<Fate> {
        let mut fates = vec![Fate::Sent; self.writes.len()];
        let mut replaced = Vec::new();
        let mut rewrites = false;
        let mut folds: FxHashMap<(&str, &[u8]), Fold> = FxHashMap::default();
        folds.reserve(self.writes.len());
        for (index, planned) in self.writes.iter().enumerate().rev() {
            let PlannedWrite { ns, write, .. } = planned;
            if ordered.contains(ns) {
                if matches!(write.action, Action::Diff(_))
                    && let Some(fate) = fates.get_mut(index)
                {
                    *fate = Fate::Rewritten;
                }
                continue;
            }
            let fold = folds.entry((ns, self.identity(planned))).or_default();
            match fold.whole {
                Some(later) => {
                    if let Some(fate) = fates.get_mut(index) {
                        *fate = Fate::Folded;
                    }
                    replaced.push(later);
                }
                None if write.action.is_whole() => fold.whole = Some(index),
                None => fold.rewrite |= matches!(write.action, Action::Diff(_)),
            }
            rewrites |= fold.rewrite;
        }
        if rewrites {
            for (index, planned) in self.writes.iter().enumerate() {
                let PlannedWrite { ns, write, .. } = planned;
                let fold = folds.get(&(*ns, self.identity(planned)));
                let rewrite = fold.is_some_and(|fold| fold.rewrite) && !write.action.is_whole();
                if let Some(fate) = fates.get_mut(index).filter(|fate| **fate == Fate::Sent)
                    && rewrite
                {
                    *fate = Fate::Rewritten;
                }
            }
        }
        for index in replaced {
            if let Some(planned) = self.writes.get_mut(index)
                && let Action::Insert(document) = planned.write.action
            {
                planned.write.action = Action::Replace(document);
            }
        }
        fates
    }

    fn identity(&self, planned: &PlannedWrite<'_>) -> &[u8] {
        let identity = self.identities.get(planned.identity.clone());
        identity.expect("it was appended when the write was planned")
    }
}

/// Returns the index of a document's lane. In a collection that keeps its order, `identity` is
/// empty.
fn lane_of(ns: &str, identity: &[u8], count: usize) -> usize {
    if count == 1 {
        return 0;
    }
    let hash = FxBuildHasher.hash_one((ns, identity));
    let count = u64::try_from(count).expect("a count has at most 64 bits");
    usize::try_from(hash % count).expect("the remainder is smaller than the count")
}

impl<'a> Lane<'a> {
    const KINDS: [BulkKind; 4] = [
        BulkKind::Insert,
        BulkKind::Delete,
        BulkKind::Update,
        BulkKind::Rewrite,
    ];

    /// Adds the bulks of a collection and returns the index of the first.
    fn open(&mut self, ns: &'a str) -> usize {
        let first = self.bulks.len();
        self.bulks.extend(Self::KINDS.map(|kind| Bulk {
            ns,
            kind,
            writes: Vec::new(),
        }));
        first
    }

    /// Appends a write after all earlier ones of its collection.
    fn push_last(&mut self, ns: &'a str, kind: BulkKind, write: Write<'a>) {
        let last = self.bulks.iter_mut().rfind(|bulk| bulk.ns == ns);
        if let Some(bulk) = last.filter(|bulk| bulk.kind == kind) {
            bulk.writes.push(write);
            return;
        }
        let writes = vec![write];
        self.bulks.push(Bulk { ns, kind, writes });
    }

    /// Appends a write to the bulk of its kind. `first` is the index of the collection's first
    /// bulk.
    fn push(&mut self, first: usize, kind: BulkKind, write: Write<'a>) {
        let bulk = self.bulks.iter_mut().skip(first).take(Self::KINDS.len());
        if let Some(bulk) = bulk.into_iter().find(|bulk| bulk.kind == kind) {
            bulk.writes.push(write);
        }
    }
}
