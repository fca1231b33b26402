//! Plans the writes to a collection by the stored values of its shard key. Pure code, without I/O.
//!
//! A run consists of writes that can be sent at once: first the routed ones, in order, then the
//! documents that change. A write that must follow the change of its document begins another run.

use std::sync::Arc;

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::position::EntryId;
use rustc_hash::FxHashMap;

use crate::replay::plan::{Action, BulkKind, Write};
use crate::replay::sharding::shard_key::ShardKey;

/// The values of a shard key, by path.
pub(crate) type Values = Arc<[u8]>;

/// The documents that are stored, by canonical `_id`.
pub(crate) type Places = FxHashMap<Vec<u8>, Place>;

/// Where a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is stored with these values of the shard key.
    At(Values),
    /// It is stored several times, with these values.
    Several(Vec<Values>),
    /// It was deleted to be moved, and had this content.
    Moving(Arc<[u8]>),
    /// It has this index among the changes of the run.
    Changing(usize),
}

/// A write with the stored values of the shard key by which it is routed.
#[derive(Debug)]
pub(crate) struct RoutedWrite<'w, 'a> {
    pub(crate) write: &'w Write<'a>,
    pub(crate) kind: BulkKind,
    pub(crate) values: Values,
}

/// The document to which the writes of a change are applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The stored document, which must be read.
    Stored,
    /// This document, which is being moved.
    Moving(Arc<[u8]>),
    /// A document that has only its `_id`.
    New,
}

/// A document that is changed by this program, because its shard key may change or because no command
/// can express the update.
#[derive(Debug)]
pub(crate) struct Change<'w, 'a> {
    /// The canonical `_id`.
    pub(crate) identity: Vec<u8>,
    /// The values with which the document is stored.
    pub(crate) stored: Vec<Values>,
    pub(crate) base: Base,
    /// The writes, in order. Only the first one may be a whole document.
    pub(crate) writes: Vec<&'w Write<'a>>,
}

/// How the writes of a run are planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'k> {
    pub(crate) key: &'k ShardKey,
    /// True if updates are applied by this program.
    pub(crate) rewrites: bool,
    /// True if an update that finds no document creates one.
    pub(crate) creates_unmatched: bool,
}

/// The outcome of [`Run::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The write is part of the run.
    Added,
    /// The write must follow the run, which must be sent first.
    SendFirst,
}

/// Writes that can be sent at once.
#[derive(Debug, Default)]
pub(crate) struct Run<'w, 'a> {
    pub(crate) routed: Vec<RoutedWrite<'w, 'a>>,
    pub(crate) changes: Vec<Change<'w, 'a>>,
    /// Updates whose document does not exist.
    pub(crate) unmatched: Vec<&'w Write<'a>>,
    /// Updates whose document is stored several times.
    pub(crate) ambiguous: Vec<&'w Write<'a>>,
    /// Whole documents with the zero timestamp in a field of the shard key.
    pub(crate) zero_keys: Vec<&'w Write<'a>>,
}

impl<'w, 'a> Run<'w, 'a> {
    /// Adds a write, and updates the place of its document.
    pub(crate) fn push(
        &mut self,
        write: &'w Write<'a>,
        identity: &[u8],
        places: &mut Places,
        rules: Rules<'_>,
    ) -> Result<Pushed, Malformed> {
        let place = places.get(identity).cloned();
        if let Some(Place::Changing(index)) = place {
            return Ok(self.push_to_change(index, write));
        }
        match write.action {
            Action::Insert(document) | Action::Replace(document) | Action::Rewritten(document) => {
                self.push_whole(write, document, identity, places, rules)?;
            }
            Action::Delete => {
                for values in stored_values(place) {
                    self.route(write, BulkKind::Delete, values);
                }
                places.remove(identity);
            }
            Action::Modify(_)
            | Action::Fields(_)
            | Action::Diff(_)
            | Action::Zeros(_)
            | Action::AsIs { .. } => self.push_update(write, identity, places, rules)?,
        }
        Ok(Pushed::Added)
    }

    /// Adds a write to the change of its document. A whole document supersedes the earlier writes, and a
    /// delete must follow the change.
    fn push_to_change(&mut self, index: usize, write: &'w Write<'a>) -> Pushed {
        let change = self.changes.get_mut(index);
        let change = change.expect("its index was stored when it was added");
        match write.action {
            Action::Delete => return Pushed::SendFirst,
            Action::Insert(_) | Action::Replace(_) | Action::Rewritten(_) => {
                change.writes.clear();
            }
            _ => {}
        }
        change.writes.push(write);
        Pushed::Added
    }

    /// Returns the entries of the routed writes that must not be repeated once they are acknowledged.
    pub(crate) fn unrepeatable(&self) -> Vec<EntryId> {
        let routed = self.routed.iter().map(|routed| routed.write);
        let once = routed.filter(|write| matches!(write.action, Action::AsIs { .. }));
        once.map(|write| write.id).collect()
    }

    /// Adds a whole document: as a routed write if it keeps the stored shard key, otherwise as a change.
    fn push_whole(
        &mut self,
        write: &'w Write<'a>,
        document: Document<'_>,
        identity: &[u8],
        places: &mut Places,
        rules: Rules<'_>,
    ) -> Result<(), Malformed> {
        if rules.key.has_zero_timestamp(document)? {
            self.zero_keys.push(write);
            return Ok(());
        }
        let values: Values = rules.key.values_of(document)?.into();
        let stored = stored_values(places.get(identity).cloned());
        match stored.as_slice() {
            // A rewritten document that was deleted meanwhile is not created again.
            [] if matches!(write.action, Action::Rewritten(_)) => return Ok(()),
            [] if matches!(write.action, Action::Insert(_)) => {
                self.route(write, BulkKind::Insert, Arc::clone(&values));
            }
            [] => self.route(write, BulkKind::Update, Arc::clone(&values)),
            [only] if *only == values => {
                self.route(write, BulkKind::Update, Arc::clone(&values));
            }
            _ => {
                self.change(write, identity, places, stored, Base::New);
                return Ok(());
            }
        }
        places.insert(identity.to_vec(), Place::At(values));
        Ok(())
    }

    /// Adds an update: as a routed write if it keeps the stored shard key, otherwise as a change.
    fn push_update(
        &mut self,
        write: &'w Write<'a>,
        identity: &[u8],
        places: &mut Places,
        rules: Rules<'_>,
    ) -> Result<(), Malformed> {
        // The whole document that these zero timestamps belong to is refused.
        if let Action::Zeros(document) = write.action
            && rules.key.has_zero_timestamp(document)?
        {
            return Ok(());
        }
        match places.get(identity).cloned() {
            Some(Place::At(values)) => {
                if rules.rewrites || rules.key.may_change(&write.action)? {
                    self.change(write, identity, places, vec![values], Base::Stored);
                } else {
                    self.route(write, BulkKind::Update, values);
                }
            }
            Some(Place::Several(_)) => self.ambiguous.push(write),
            Some(Place::Moving(document)) => {
                let base = Base::Moving(document);
                self.change(write, identity, places, Vec::new(), base);
            }
            // `Zeros` follows the write of a whole document, which was refused.
            None if matches!(write.action, Action::Zeros(_)) => {}
            None => {
                let upserts = matches!(write.action, Action::AsIs { upsert: true, .. });
                if upserts || rules.creates_unmatched {
                    self.change(write, identity, places, Vec::new(), Base::New);
                } else {
                    self.unmatched.push(write);
                }
            }
            Some(Place::Changing(_)) => unreachable!("the caller handles documents that change"),
        }
        Ok(())
    }

    fn route(&mut self, write: &'w Write<'a>, kind: BulkKind, values: Values) {
        self.routed.push(RoutedWrite {
            write,
            kind,
            values,
        });
    }

    fn change(
        &mut self,
        write: &'w Write<'a>,
        identity: &[u8],
        places: &mut Places,
        stored: Vec<Values>,
        base: Base,
    ) {
        places.insert(identity.to_vec(), Place::Changing(self.changes.len()));
        self.changes.push(Change {
            identity: identity.to_vec(),
            stored,
            base,
            writes: vec![write],
        });
    }
}

/// Returns the values with which a document is stored.
pub(crate) fn stored_values(place: Option<Place>) -> Vec<Values> {
    match place {
        Some(Place::At(values)) => vec![values],
        Some(Place::Several(all)) => all,
        Some(Place::Moving(_) | Place::Changing(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
