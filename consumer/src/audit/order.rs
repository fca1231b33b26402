//! Checks that the entries of each key are in order, and that no command occurs twice. Performs
//! no I/O.
//!
//! A producer writes the entries of a source in order. If the entries of a partition have
//! increasing positions, the entries of each key do too, so only the last entry has to be
//! remembered. An entry whose position is not after all entries before it may be out of order
//! within its key. Such an entry is suspected, and the partition is read again to check the keys of
//! the suspected entries ([`SecondPass`]). A record of a full sync is part of the same order, with
//! the position at which it was sent: if it followed a later entry of its document, it would undo
//! that entry. Barriers are skipped.

use oplog_relay_core::position::EntryId;
use rustc_hash::{FxHashMap, FxHashSet};

/// The digest of a key. It has 128 bits, so collisions are practically impossible.
pub(super) type KeyDigest = [u8; 16];

/// The kind of an entry, which determines whether it may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A change to a document, which occurs once.
    Change,
    /// A command, which occurs once in a partition. Other partitions may have copies.
    Command,
    /// A document that a full sync read, which may be repeated.
    Snapshot,
}

/// An entry whose position is not after all entries before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) id: EntryId,
    pub(super) offset: i64,
    pub(super) key: KeyDigest,
    pub(super) kind: Kind,
}

/// The order of the entries of a partition that is read from its start.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    last: Option<EntryId>,
}

impl Sequence {
    /// Takes the next entry. Returns true if its position is after all entries before it.
    pub(super) fn take(&mut self, id: EntryId) -> bool {
        let in_order = self.last.is_none_or(|last| last < id);
        if in_order {
            self.last = Some(id);
        }
        in_order
    }
}

/// The way in which an entry is out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disorder {
    /// The entry follows this later entry of the same key.
    After(EntryId),
    /// The command occurs twice in the partition.
    Twice,
}

/// The second pass over a partition, for the suspected entries.
#[derive(Debug)]
pub(super) struct SecondPass {
    suspects: FxHashSet<i64>,
    /// The greatest entry so far of each suspected key.
    keys: FxHashMap<KeyDigest, Option<EntryId>>,
}

impl SecondPass {
    pub(super) fn new(suspects: &[Suspect]) -> Self {
        Self {
            suspects: suspects.iter().map(|suspect| suspect.offset).collect(),
            keys: suspects.iter().map(|suspect| (suspect.key, None)).collect(),
        }
    }

    /// Takes the next entry. Returns how it is out of order, if it is suspected and out of order.
    pub(super) fn take(&mut self, entry: &Suspect) -> Option<Disorder> {
        let greatest = self.keys.get_mut(&entry.key)?;
        let before = *greatest;
        *greatest = before.max(Some(entry.id));
        match before {
            Some(before) if before > entry.id => Some(Disorder::After(before)),
            // Other repeated entries are found when all partitions are merged.
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

    /// Returns the disorders of entries, given as (increment, key). The offset of each is its index.
    fn disorders(entries: &[(u32, u8)]) -> Vec<(i64, Disorder)> {
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
        let mut second = SecondPass::new(&suspects);
        let again = entries.iter();
        again
            .filter_map(|entry| second.take(entry).map(|disorder| (entry.offset, disorder)))
            .collect()
    }

    #[test]
    fn only_an_entry_after_a_later_one_of_its_key_is_reported() {
        assert_eq!(disorders(&[(1, 1), (2, 2), (3, 1)]), []);
        // The entry is out of the partition's order, but not out of its key's order.
        assert_eq!(disorders(&[(1, 1), (3, 2), (2, 1), (4, 2)]), []);
        let later = EntryId {
            ts: Timestamp::new(1, 3),
            ord: 0,
        };
        assert_eq!(
            disorders(&[(1, 1), (3, 1), (2, 1), (4, 1)]),
            [(2, Disorder::After(later))]
        );
    }
}
