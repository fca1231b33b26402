//! Incarnations: which collection a name referred to at a given time on the source. Pure code,
//! without I/O.
//!
//! An incarnation of a name ends when its collection is dropped, renamed or emptied. An entry
//! belongs to the incarnation in which it was written. After the offsets of a group were reset,
//! entries of an earlier incarnation must not be applied to the collection that has the name now.

mod reading;

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::time_series::VIEWS;
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) use reading::{AFTER_ALL, Reading};

/// The end of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    /// The command that ended it.
    id: EntryId,
    /// The offset of the record of that command, if its note has it.
    offset: Option<i64>,
    fate: Fate,
}

/// What became of a collection at the end of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// The collection was dropped, or all of its documents were removed (`emptycapped`).
    Dropped,
    /// The collection continues under another name.
    Renamed(String),
}

/// The effect of a command on names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The collection is created.
    Created,
    /// The collection is dropped.
    Dropped,
    /// The collection is renamed to `to`; an existing collection of that name is dropped.
    Renamed {
        /// `db.collection`
        to: String,
    },
    /// All documents of the collection are removed; the collection itself stays.
    Emptied,
    /// Names do not change.
    Other,
}

impl Change {
    /// Returns true if the command creates a collection.
    #[must_use]
    pub const fn is_creation(&self) -> bool {
        matches!(self, Self::Created)
    }
}

/// A command that ran on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The identity of the command's entry.
    pub id: EntryId,
    /// The command's `db.collection`, as the source named it.
    pub ns: String,
    /// The collection's UUID at the source.
    pub ui: Option<CollectionUuid>,
    /// The effect of the command on names.
    pub change: Change,
    /// The offset of the command's record in its topic.
    pub offset: Option<i64>,
}

/// The moment at which an entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The entry's own time.
    Time(EntryId),
    /// The offset of the entry's record, for an entry that another program wrote without a time.
    /// The commands of such a topic are in the same partition, so the offsets can be compared.
    Offset(i64),
}

impl Moment {
    /// Returns true if an incarnation ended before the entry, or by the entry itself if the entry
    /// has a time. An end without an offset counts as earlier than every offset.
    fn is_after(self, end: &End) -> bool {
        match self {
            Self::Time(id) => end.id <= id,
            Self::Offset(offset) => end.offset.is_none_or(|end| end < offset),
        }
    }
}

/// The collection of an entry on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved<'l> {
    /// The collection's current name.
    Live(&'l str),
    /// The collection was dropped; its entries are not applied.
    Dropped,
    /// The name now belongs to a different collection than the entry's.
    Foreign,
}

/// The commands of one source that ran on a target, and the incarnations that follow from them.
///
/// An entry is affected only by incarnations that end after it. Commands and ends that are older than
/// the oldest entry that may still be applied need not be held; [`Incarnations::reaches`] returns
/// true for the entries that can be resolved. The current owner of each existing name is always held.
#[derive(Debug, Clone, Default)]
pub struct Incarnations {
    /// The position from which commands are held; `None` if all commands are held.
    from: Option<EntryId>,
    has_commands: bool,
    done: FxHashSet<EntryId>,
    /// Ends of incarnations by name, ordered by time.
    ends: FxHashMap<String, Vec<End>>,
    /// The UUID of the collection that has a name now, and the command that recorded it.
    owners: FxHashMap<String, (EntryId, CollectionUuid)>,
}

impl Incarnations {
    /// Records a command that ran; commands may arrive in any order. Returns false if the command
    /// is older than those that are held: the catalog must then be read again.
    pub fn take(&mut self, ran: Ran) -> bool {
        self.has_commands = true;
        if !self.reaches(ran.id) {
            return false;
        }
        if self.done.insert(ran.id) {
            self.apply(ran);
        }
        true
    }

    fn apply(&mut self, ran: Ran) {
        let Ran {
            id,
            ns,
            ui,
            change,
            offset,
        } = ran;
        let end = |fate| End { id, offset, fate };
        match change {
            Change::Created => self.own(ns, id, ui),
            Change::Dropped => self.end(ns, end(Fate::Dropped)),
            // Writes from before the command must not be applied again; the name and its UUID stay.
            Change::Emptied => {
                self.end(ns.clone(), end(Fate::Dropped));
                self.own(ns, id, ui);
            }
            Change::Renamed { to } => {
                self.end(to.clone(), end(Fate::Dropped));
                self.end(ns, end(Fate::Renamed(to.clone())));
                self.own(to, id, ui);
            }
            Change::Other => {}
        }
    }

    /// Returns true if all commands that may affect an entry are held.
    #[must_use]
    pub fn reaches(&self, id: EntryId) -> bool {
        self.from.is_none_or(|from| from <= id)
    }

    /// Returns the position from which commands are held.
    #[must_use]
    pub const fn from(&self) -> Option<EntryId> {
        self.from
    }

    /// Returns a copy without the commands and ends before an entry.
    #[must_use]
    pub fn pruned(&self, from: EntryId) -> Self {
        let from = self.from.map_or(from, |held| held.max(from));
        let mut ends = FxHashMap::default();
        for (ns, all) in &self.ends {
            let mut first = all.partition_point(|end| end.id < from);
            if keeps_last_end(ns) {
                first = first.min(all.len().saturating_sub(1));
            }
            if let Some(kept) = all.get(first..).filter(|kept| !kept.is_empty()) {
                ends.insert(ns.clone(), kept.to_vec());
            }
        }
        let done = self.done.iter().copied().filter(|id| *id >= from);
        Self {
            from: Some(from),
            has_commands: self.has_commands,
            done: done.collect(),
            ends,
            owners: self.owners.clone(),
        }
    }

    /// Returns the number of commands, of names with an end, and of names with an owner, in total.
    #[must_use]
    pub fn held(&self) -> usize {
        self.done.len() + self.ends.len() + self.owners.len()
    }

    /// Records the owner of a name, unless a later command gave the name to another collection or
    /// ended it.
    fn own(&mut self, ns: String, id: EntryId, ui: Option<CollectionUuid>) {
        let newer = self.owners.get(&ns).is_none_or(|(since, _)| *since < id);
        let ended = self.ends.get(&ns).and_then(|ends| ends.last());
        if newer
            && ended.is_none_or(|end| end.id <= id)
            && let Some(ui) = ui
        {
            self.owners.insert(ns, (id, ui));
        }
    }

    /// Records the end of an incarnation of a name, and removes the owner that it ended.
    fn end(&mut self, ns: String, end: End) {
        if self
            .owners
            .get(&ns)
            .is_some_and(|(since, _)| *since <= end.id)
        {
            self.owners.remove(&ns);
        }
        let ends = self.ends.entry(ns).or_default();
        let place = ends.partition_point(|other| other.id < end.id);
        if ends.get(place).is_none_or(|other| other.id != end.id) {
            ends.insert(place, end);
        }
    }

    /// Forgets that a command ran, but keeps its effect on names.
    pub fn forget(&mut self, id: EntryId) {
        self.done.remove(&id);
    }

    /// Returns true if a command ran.
    #[must_use]
    pub fn is_done(&self, id: EntryId) -> bool {
        self.done.contains(&id)
    }

    /// Returns true if a command has recorded that the name belongs to this collection now.
    #[must_use]
    pub fn is_owned(&self, ns: &str, ui: CollectionUuid) -> bool {
        self.owners.get(ns).is_some_and(|(_, owner)| *owner == ui)
    }

    /// Returns true if, according to the recorded commands, the last collection of that name was
    /// dropped.
    #[must_use]
    pub fn has_ended(&self, ns: &str) -> bool {
        let last = self.ends.get(ns).and_then(|ends| ends.last());
        let dropped = last.is_some_and(|end| end.fate == Fate::Dropped);
        dropped && !self.owners.contains_key(ns)
    }

    /// Returns true if no command has run yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.has_commands
    }

    /// Returns the current collection of an entry. `ns` is the namespace in the entry, and `ui` its
    /// collection UUID, if it has one. [`Incarnations::reaches`] must return true for the entry.
    #[must_use]
    pub fn resolve<'l>(
        &'l self,
        ns: &'l str,
        written: Moment,
        ui: Option<CollectionUuid>,
    ) -> Resolved<'l> {
        let (mut ns, mut since) = (ns, written);
        // Each iteration moves forward in time, so the loop terminates.
        while let Some(ends) = self.ends.get(ns) {
            let next = ends.partition_point(|end| since.is_after(end));
            let Some(End { id, fate, .. }) = ends.get(next) else {
                break;
            };
            match fate {
                Fate::Dropped => return Resolved::Dropped,
                Fate::Renamed(to) => (ns, since) = (to, Moment::Time(*id)),
            }
        }
        match (self.owners.get(ns), ui) {
            (Some((_, owner)), Some(ui)) if *owner != ui => Resolved::Foreign,
            _ => Resolved::Live(ns),
        }
    }
}

/// Returns true if the last end of a name is never pruned. Only `system.views` needs it, because
/// [`Incarnations::has_ended`] is not called for other names.
fn keeps_last_end(ns: &str) -> bool {
    ns.split_once('.').is_some_and(|(_, name)| name == VIEWS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::catalog::at;

    fn incarnations(history: &[(u32, &str, u8, Change)]) -> Incarnations {
        let mut incarnations = Incarnations::default();
        for (seconds, ns, ui, change) in history {
            incarnations.take(Ran {
                id: at(*seconds),
                ns: (*ns).to_owned(),
                ui: Some(CollectionUuid([*ui; 16])),
                change: change.clone(),
                offset: None,
            });
        }
        incarnations
    }

    fn since(seconds: u32) -> Moment {
        Moment::Time(at(seconds))
    }

    fn renamed(to: &str) -> Change {
        Change::Renamed { to: to.to_owned() }
    }

    /// All entries are applied again, after the name was created, renamed and dropped several
    /// times.
    #[test]
    fn entries_resolve_to_the_incarnation_in_which_they_were_written() {
        let history = [
            (10, "s.a", 1, Change::Created),
            (20, "s.a", 1, renamed("s.b")),
            (30, "s.a", 2, Change::Created),
            (40, "s.a", 2, Change::Dropped),
            (50, "s.a", 3, Change::Created),
        ];
        let mut backwards = history.clone();
        backwards.reverse();
        for incarnations in [incarnations(&history), incarnations(&backwards)] {
            for (seconds, ui, expected) in [
                (15, 1, Resolved::Live("s.b")),
                (35, 2, Resolved::Dropped),
                (55, 3, Resolved::Live("s.a")),
                (55, 9, Resolved::Foreign),
            ] {
                assert_eq!(
                    incarnations.resolve("s.a", since(seconds), Some(CollectionUuid([ui; 16]))),
                    expected
                );
                let without = match expected {
                    Resolved::Foreign => Resolved::Live("s.a"),
                    other => other,
                };
                assert_eq!(incarnations.resolve("s.a", since(seconds), None), without);
            }
            assert_eq!(
                incarnations.resolve("s.b", since(25), Some(CollectionUuid([1; 16]))),
                Resolved::Live("s.b")
            );
            assert!(incarnations.is_done(at(20)) && !incarnations.is_done(at(21)));
            assert!(!incarnations.has_ended("s.a") && !incarnations.has_ended("s.b"));
        }
    }

    #[test]
    fn a_name_has_ended_until_a_collection_takes_it_again() {
        let mut incarnations = incarnations(&[
            (10, "s.a", 1, Change::Created),
            (20, "s.a", 1, Change::Dropped),
        ]);
        assert!(incarnations.has_ended("s.a") && !incarnations.has_ended("s.b"));
        incarnations.take(Ran {
            id: at(30),
            ns: "s.a".to_owned(),
            ui: Some(CollectionUuid([2; 16])),
            change: Change::Created,
            offset: None,
        });
        assert!(!incarnations.has_ended("s.a"));
    }

    #[test]
    fn an_emptied_collection_keeps_its_name_and_not_its_earlier_entries() {
        let incarnations = incarnations(&[
            (10, "s.a", 1, Change::Created),
            (20, "s.a", 1, Change::Emptied),
        ]);
        let ui = Some(CollectionUuid([1; 16]));
        assert_eq!(
            incarnations.resolve("s.a", since(15), ui),
            Resolved::Dropped
        );
        assert_eq!(
            incarnations.resolve("s.a", since(25), ui),
            Resolved::Live("s.a")
        );
        assert_eq!(
            incarnations.resolve("s.a", since(25), Some(CollectionUuid([2; 16]))),
            Resolved::Foreign
        );
    }

    #[test]
    fn a_rename_ends_the_collection_whose_name_it_takes() {
        let incarnations = incarnations(&[
            (10, "s.a", 1, Change::Created),
            (11, "s.b", 2, Change::Created),
            (20, "s.a", 1, renamed("s.b")),
            (30, "s.b", 1, renamed("s.c")),
        ]);
        assert_eq!(
            incarnations.resolve("s.b", since(15), Some(CollectionUuid([2; 16]))),
            Resolved::Dropped
        );
        assert_eq!(
            incarnations.resolve("s.a", since(15), Some(CollectionUuid([1; 16]))),
            Resolved::Live("s.c")
        );
        assert_eq!(
            incarnations.resolve("s.b", since(25), Some(CollectionUuid([1; 16]))),
            Resolved::Live("s.c")
        );
        // A new incarnation of a name that no recorded command has created.
        assert_eq!(
            incarnations.resolve("s.b", since(35), Some(CollectionUuid([7; 16]))),
            Resolved::Live("s.b")
        );
    }

    /// mongo-kafka copies the documents of a collection again after it was dropped or renamed. The
    /// copied documents have no time.
    #[test]
    fn an_entry_without_time_is_placed_by_its_offset() {
        let mut incarnations = Incarnations::default();
        for (seconds, ns, change, offset) in [
            (10, "s.a", renamed("s.b"), 5),
            (20, "s.b", Change::Dropped, 8),
        ] {
            incarnations.take(Ran {
                id: at(seconds),
                ns: ns.to_owned(),
                ui: None,
                change,
                offset: Some(offset),
            });
        }
        for (offset, ns, expected) in [
            (3, "s.a", Resolved::Dropped),
            (6, "s.a", Resolved::Live("s.a")),
            (6, "s.b", Resolved::Dropped),
            (9, "s.b", Resolved::Live("s.b")),
        ] {
            let found = incarnations.resolve(ns, Moment::Offset(offset), None);
            assert_eq!(found, expected, "{ns} at {offset}");
        }
    }
}
