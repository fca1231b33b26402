//! Whether the entries of each key are in order, and none comes twice. Pure.
//!
//! A producer writes a source's entries in order, so a whole partition is in order, and then each
//! of its keys is, with nothing to remember but the last entry. Only an entry that is not behind
//! all before it can be out of its key's order: it is suspected, and the partition is read once
//! more for the keys of those ([`Trial`]). A snapshot record is in the same order, by the position at
//! which it was sent: after a later entry of its document it would undo it. Barriers are passed over.

use oplog_relay_core::position::EntryId;
use rustc_hash::{FxHashMap, FxHashSet};

/// A digest of a key: 128 bits, so that two keys never share one.
pub(super) type KeyDigest = [u8; 16];

/// What an entry is, where it might come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A change of a document: there once.
    Change,
    /// A command: once in a partition, others may have copies.
    Command,
    /// What a full sync read: it may come again.
    Snapshot,
}

/// An entry that is not behind all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) id: EntryId,
    pub(super) offset: i64,
    pub(super) key: KeyDigest,
    pub(super) kind: Kind,
}

/// Reads a partition from its beginning.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    last: Option<EntryId>,
}

impl Sequence {
    /// Takes the next entry; whether it is behind all before it.
    pub(super) fn take(&mut self, id: EntryId) -> bool {
        let behind = self.last.is_none_or(|last| last < id);
        if behind {
            self.last = Some(id);
        }
        behind
    }
}

/// How an entry is out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disorder {
    /// A later entry of its key comes before it; this one.
    After(EntryId),
    /// It comes twice.
    Twice,
}

/// Reads a partition again for those that are suspected.
#[derive(Debug)]
pub(super) struct Trial {
    suspects: FxHashSet<i64>,
    /// The greatest entry so far of each key in question.
    keys: FxHashMap<KeyDigest, Option<EntryId>>,
}

impl Trial {
    pub(super) fn new(suspects: &[Suspect]) -> Self {
        Self {
            suspects: suspects.iter().map(|suspect| suspect.offset).collect(),
            keys: suspects.iter().map(|suspect| (suspect.key, None)).collect(),
        }
    }

    /// Takes the next entry; how it is out of order, if it is.
    pub(super) fn take(&mut self, entry: &Suspect) -> Option<Disorder> {
        let greatest = self.keys.get_mut(&entry.key)?;
        let before = *greatest;
        *greatest = before.max(Some(entry.id));
        match before {
            Some(before) if before > entry.id => Some(Disorder::After(before)),
            // The merge of all partitions finds the others that come twice.
            Some(before) if before == entry.id && entry.kind == Kind::Command => {
                Some(Disorder::Twice)
            }
            _ => None,
        }
        .filter(|_| self.suspects.contains(&entry.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::position::Timestamp;

    /// Entries as (increment, key); each one's offset is its place.
    fn judge(entries: &[(u32, u8)]) -> Vec<(i64, Disorder)> {
        let entries: Vec<Suspect> = (0..)
            .zip(entries)
            .map(|(offset, (increment, key))| Suspect {
                id: EntryId {
                    ts: Timestamp::new(1, *increment),
                    ord: 0,
                },
                offset,
                key: [*key; 16],
                kind: Kind::Change,
            })
            .collect();
        let mut sequence = Sequence::default();
        let suspects: Vec<Suspect> = entries
            .iter()
            .filter(|entry| !sequence.take(entry.id))
            .copied()
            .collect();
        let mut trial = Trial::new(&suspects);
        let judged = entries.iter();
        judged
            .filter_map(|entry| trial.take(entry).map(|disorder| (entry.offset, disorder)))
            .collect()
    }

    #[test]
    fn an_entry_before_an_earlier_one_of_its_key_is_found_and_others_are_not() {
        assert_eq!(judge(&[(1, 1), (2, 2), (3, 1)]), []);
        // Out of the partition's order, not out of a key's.
        assert_eq!(judge(&[(1, 1), (3, 2), (2, 1), (4, 2)]), []);
        let later = EntryId {
            ts: Timestamp::new(1, 3),
            ord: 0,
        };
        assert_eq!(
            judge(&[(1, 1), (3, 1), (2, 1), (4, 1)]),
            [(2, Disorder::After(later))]
        );
    }
}
