//! The lives of names: which collection a name meant at a point of the source's time. Pure.
//!
//! A name's life ends when its collection is dropped or renamed. An entry belongs to the life in
//! which it was written: after a reset, entries of a life that has ended must not reach the
//! collection that has the name now.

mod reading;

use oplog_relay_core::position::EntryId;
use oplog_relay_core::time_series::VIEWS;
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) use reading::{AFTER_ALL, Reading};

/// How a name's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// The collection is gone.
    Dropped,
    /// The collection goes on under another name.
    Renamed(String),
}

/// What a command did to names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The collection begins.
    Created,
    /// The collection ends.
    Dropped,
    /// The collection goes on as `to`; whatever had that name ends.
    Renamed {
        /// `db.collection`
        to: String,
    },
    /// The collection goes on without its documents.
    Emptied,
    /// Names stay as they are.
    Other,
}

impl Change {
    /// Whether a collection begins.
    #[must_use]
    pub const fn is_creation(&self) -> bool {
        matches!(self, Self::Created)
    }
}

/// A command that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Which.
    pub id: EntryId,
    /// `db.collection` that it was about, as the source named it.
    pub ns: String,
    /// UUID of the collection at the source.
    pub ui: Option<[u8; 16]>,
    /// What it did.
    pub change: Change,
}

/// The collection of an entry on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved<'l> {
    /// It has this name now.
    Live(&'l str),
    /// It is gone, and its entries with it.
    Dropped,
    /// The collection of that name is another one than the entry's.
    Foreign,
}

/// The commands of one source that ran on a target, and what follows from them.
///
/// An entry asks only for ends that come after it. So ends and commands from before the oldest
/// entry that is still applied need not be held: [`Incarnations::reaches`] tells for which entries the
/// answers are right. Whose name it is now is always held, once for each collection that is there.
#[derive(Debug, Clone, Default)]
pub struct Incarnations {
    /// Commands from here on are held; none: all of them.
    from: Option<EntryId>,
    has_commands: bool,
    done: FxHashSet<EntryId>,
    /// By name, in order of time.
    ends: FxHashMap<String, Vec<(EntryId, Fate)>>,
    /// Whose name it is now, where a command has told.
    owners: FxHashMap<String, (EntryId, [u8; 16])>,
}

impl Incarnations {
    /// Takes a command that ran, in any order. Returns false for one from before what is held:
    /// then the lives have to be read again.
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
        let Ran { id, ns, ui, change } = ran;
        match change {
            Change::Created => self.own(ns, id, ui),
            Change::Dropped => self.end(ns, id, Fate::Dropped),
            // Its documents end, and are not to come back; its name does not.
            Change::Emptied => {
                self.end(ns.clone(), id, Fate::Dropped);
                self.own(ns, id, ui);
            }
            Change::Renamed { to } => {
                self.end(to.clone(), id, Fate::Dropped);
                self.end(ns, id, Fate::Renamed(to.clone()));
                self.own(to, id, ui);
            }
            Change::Other => {}
        }
    }

    /// Whether all that an entry may ask for is held.
    #[must_use]
    pub fn reaches(&self, id: EntryId) -> bool {
        self.from.is_none_or(|from| from <= id)
    }

    /// From where on commands are held.
    #[must_use]
    pub const fn from(&self) -> Option<EntryId> {
        self.from
    }

    /// The same without the commands from before an entry.
    #[must_use]
    pub fn pruned(&self, from: EntryId) -> Self {
        let from = self.from.map_or(from, |held| held.max(from));
        let mut ends = FxHashMap::default();
        for (ns, all) in &self.ends {
            let mut first = all.partition_point(|(end, _)| *end < from);
            if is_kept(ns) {
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

    /// Commands, ends and names that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.done.len() + self.ends.len() + self.owners.len()
    }

    fn own(&mut self, ns: String, id: EntryId, ui: Option<[u8; 16]>) {
        let newer = self.owners.get(&ns).is_none_or(|(since, _)| *since < id);
        let ended = self.ends.get(&ns).and_then(|ends| ends.last());
        if newer
            && ended.is_none_or(|(end, _)| *end <= id)
            && let Some(ui) = ui
        {
            self.owners.insert(ns, (id, ui));
        }
    }

    fn end(&mut self, ns: String, id: EntryId, fate: Fate) {
        if self.owners.get(&ns).is_some_and(|(since, _)| *since <= id) {
            self.owners.remove(&ns);
        }
        let ends = self.ends.entry(ns).or_default();
        let place = ends.partition_point(|(end, _)| *end < id);
        if ends.get(place).is_none_or(|(end, _)| *end != id) {
            ends.insert(place, (id, fate));
        }
    }

    /// Forgets that a command ran, not what it did to names.
    pub fn forget(&mut self, id: EntryId) {
        self.done.remove(&id);
    }

    /// Whether a command ran.
    #[must_use]
    pub fn is_done(&self, id: EntryId) -> bool {
        self.done.contains(&id)
    }

    /// Whether a name is that of this collection now, as a command has told.
    #[must_use]
    pub fn is_owned(&self, ns: &str, ui: [u8; 16]) -> bool {
        self.owners.get(ns).is_some_and(|(_, owner)| *owner == ui)
    }

    /// Whether the last collection of that name of which commands have told was dropped.
    #[must_use]
    pub fn has_ended(&self, ns: &str) -> bool {
        let last = self.ends.get(ns).and_then(|ends| ends.last());
        let dropped = last.is_some_and(|(_, fate)| *fate == Fate::Dropped);
        dropped && !self.owners.contains_key(ns)
    }

    /// Whether no command ran yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.has_commands
    }

    /// The collection that `ns` meant at `id`, which has to be [reached](Self::reaches).
    #[must_use]
    pub fn resolve<'l>(&'l self, ns: &'l str, id: EntryId, ui: Option<[u8; 16]>) -> Resolved<'l> {
        let (mut ns, mut since) = (ns, id);
        // Each turn goes on in time, so this ends.
        while let Some(ends) = self.ends.get(ns) {
            let next = ends.partition_point(|(end, _)| *end <= since);
            match ends.get(next) {
                None => break,
                Some((_, Fate::Dropped)) => return Resolved::Dropped,
                Some((end, Fate::Renamed(to))) => (ns, since) = (to, *end),
            }
        }
        match (self.owners.get(ns), ui) {
            (Some((_, owner)), Some(ui)) if *owner != ui => Resolved::Foreign,
            _ => Resolved::Live(ns),
        }
    }
}

/// Whether the last end of a name is held for as long as no collection has the name:
/// [`Incarnations::has_ended`] is asked of the collections of views, of which a database has one.
fn is_kept(ns: &str) -> bool {
    ns.split_once('.').is_some_and(|(_, name)| name == VIEWS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::catalog::at;

    fn lives(history: &[(u32, &str, u8, Change)]) -> Incarnations {
        let mut lives = Incarnations::default();
        for (seconds, ns, ui, change) in history {
            lives.take(Ran {
                id: at(*seconds),
                ns: (*ns).to_owned(),
                ui: Some([*ui; 16]),
                change: change.clone(),
            });
        }
        lives
    }

    fn renamed(to: &str) -> Change {
        Change::Renamed { to: to.to_owned() }
    }

    /// Full reset over create → rename → create again → drop.
    #[test]
    fn entries_find_the_life_in_which_they_were_written() {
        let history = [
            (10, "s.a", 1, Change::Created),
            (20, "s.a", 1, renamed("s.b")),
            (30, "s.a", 2, Change::Created),
            (40, "s.a", 2, Change::Dropped),
            (50, "s.a", 3, Change::Created),
        ];
        let mut backwards = history.clone();
        backwards.reverse();
        for lives in [lives(&history), lives(&backwards)] {
            for (seconds, ui, expected) in [
                (15, 1, Resolved::Live("s.b")),
                (35, 2, Resolved::Dropped),
                (55, 3, Resolved::Live("s.a")),
                (55, 9, Resolved::Foreign),
            ] {
                assert_eq!(lives.resolve("s.a", at(seconds), Some([ui; 16])), expected);
                let without = match expected {
                    Resolved::Foreign => Resolved::Live("s.a"),
                    other => other,
                };
                assert_eq!(lives.resolve("s.a", at(seconds), None), without);
            }
            assert_eq!(
                lives.resolve("s.b", at(25), Some([1; 16])),
                Resolved::Live("s.b")
            );
            assert!(lives.is_done(at(20)) && !lives.is_done(at(21)));
            assert!(!lives.has_ended("s.a") && !lives.has_ended("s.b"));
        }
    }

    #[test]
    fn a_name_has_ended_until_a_collection_takes_it_again() {
        let mut lives = lives(&[
            (10, "s.a", 1, Change::Created),
            (20, "s.a", 1, Change::Dropped),
        ]);
        assert!(lives.has_ended("s.a") && !lives.has_ended("s.b"));
        lives.take(Ran {
            id: at(30),
            ns: "s.a".to_owned(),
            ui: Some([2; 16]),
            change: Change::Created,
        });
        assert!(!lives.has_ended("s.a"));
    }

    #[test]
    fn what_was_emptied_stays_empty_and_keeps_its_name() {
        let lives = lives(&[
            (10, "s.a", 1, Change::Created),
            (20, "s.a", 1, Change::Emptied),
        ]);
        let ui = Some([1; 16]);
        assert_eq!(lives.resolve("s.a", at(15), ui), Resolved::Dropped);
        assert_eq!(lives.resolve("s.a", at(25), ui), Resolved::Live("s.a"));
        assert_eq!(
            lives.resolve("s.a", at(25), Some([2; 16])),
            Resolved::Foreign
        );
    }

    #[test]
    fn a_rename_ends_the_collection_whose_name_it_takes() {
        let lives = lives(&[
            (10, "s.a", 1, Change::Created),
            (11, "s.b", 2, Change::Created),
            (20, "s.a", 1, renamed("s.b")),
            (30, "s.b", 1, renamed("s.c")),
        ]);
        assert_eq!(
            lives.resolve("s.b", at(15), Some([2; 16])),
            Resolved::Dropped
        );
        assert_eq!(
            lives.resolve("s.a", at(15), Some([1; 16])),
            Resolved::Live("s.c")
        );
        assert_eq!(
            lives.resolve("s.b", at(25), Some([1; 16])),
            Resolved::Live("s.c")
        );
        // A new life of a name that no command of the source has told of.
        assert_eq!(
            lives.resolve("s.b", at(35), Some([7; 16])),
            Resolved::Live("s.b")
        );
    }
}
