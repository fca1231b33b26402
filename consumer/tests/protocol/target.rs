//! A model of the target: its collections, and the catalog of commands that ran.

use std::collections::{BTreeMap, BTreeSet};

use oplog_consumer::replay::catalog::{Incarnations, Ran};
use oplog_relay_core::position::EntryId;

use crate::history::{Command, NAMES, Write};

/// Collections by name, documents by number; each document has two fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Collections(BTreeMap<String, BTreeMap<u8, [u32; 2]>>);

impl Collections {
    /// Applies a write as a replay does: an insert replaces the document, and an update of a missing
    /// document has no effect.
    pub(crate) fn write(&mut self, ns: &str, document: u8, write: Write, value: u32) {
        match write {
            Write::Insert => {
                let collection = self.0.entry(ns.to_owned()).or_default();
                collection.insert(document, [value; 2]);
            }
            Write::Update(field) => {
                let found = self
                    .0
                    .get_mut(ns)
                    .and_then(|found| found.get_mut(&document));
                if let Some(found) = found {
                    found[field] = value;
                }
            }
            Write::Delete => {
                if let Some(collection) = self.0.get_mut(ns) {
                    collection.remove(&document);
                }
            }
        }
    }

    pub(crate) fn run(&mut self, command: Command) {
        match command {
            Command::Create(ns) => drop(self.0.entry(NAMES[ns].to_owned()).or_default()),
            Command::Drop(ns) => drop(self.0.remove(NAMES[ns])),
            Command::Rename(from, to) => {
                if let Some(moved) = self.0.remove(NAMES[from]) {
                    self.0.insert(NAMES[to].to_owned(), moved);
                }
            }
            Command::Order(_) | Command::Build(_) => {}
        }
    }

    pub(crate) fn has(&self, ns: usize) -> bool {
        self.0.contains_key(NAMES[ns])
    }
}

/// The catalog's note of a command.
#[derive(Debug, Clone)]
struct Note {
    ran: Ran,
    existed: bool,
    done: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    pub(crate) collections: Collections,
    notes: BTreeMap<EntryId, Note>,
}

impl Target {
    pub(crate) fn is_done(&self, id: EntryId) -> bool {
        self.notes.get(&id).is_some_and(|note| note.done)
    }

    /// Records a rename before it runs. Returns true if its collection existed when the rename was
    /// first recorded.
    pub(crate) fn begin(&mut self, ran: Ran, existed: bool) -> bool {
        let done = false;
        let note = self
            .notes
            .entry(ran.id)
            .or_insert(Note { ran, existed, done });
        note.existed
    }

    pub(crate) fn finish(&mut self, ran: Ran) {
        let (existed, done) = (false, true);
        self.notes.insert(ran.id, Note { ran, existed, done });
    }

    /// Returns all commands that ran.
    pub(crate) fn done(&self) -> BTreeSet<EntryId> {
        let done = self.notes.values().filter(|note| note.done);
        done.map(|note| note.ran.id).collect()
    }

    /// Returns the incarnations that follow from the notes that a member has read.
    pub(crate) fn incarnations(&self, known: &BTreeSet<EntryId>) -> Incarnations {
        let mut incarnations = Incarnations::default();
        for id in known {
            incarnations.take(self.notes[id].ran.clone());
        }
        incarnations
    }
}
