//! Failures that a server was told to have while it is tailed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a `getMore` meets instead of entries, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error of that code; the cursor is gone.
    Code(i32),
    /// The same, and the oplog has lost the entries before that number.
    Truncated(i32, u64),
    /// The connection ends without an answer.
    Hangup,
}

/// The failures that are to come, by the number of the entry before which each does, in order.
#[derive(Debug, Default)]
pub(super) struct Faults {
    left: Mutex<Vec<(u64, Fault)>>,
    /// The first entry that is still there.
    first: AtomicU64,
    /// The first entry that reads from a secondary find.
    secondary_first: AtomicU64,
    /// Seconds by which a majority of the set is ahead of this member.
    behind: AtomicU32,
    /// The codes that the next reads of an end of the oplog get.
    ends: Mutex<Vec<i32>>,
}

impl Faults {
    pub(super) fn new(faults: &[(u64, Fault)]) -> Faults {
        Faults {
            left: Mutex::new(faults.iter().rev().copied().collect()),
            first: AtomicU64::new(0),
            secondary_first: AtomicU64::new(0),
            behind: AtomicU32::new(0),
            ends: Mutex::default(),
        }
    }

    /// The next reads of an end of the oplog get these codes.
    pub(super) fn fail_ends(&self, codes: &[i32]) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.extend(codes.iter().rev());
    }

    /// The code that a read of an end of the oplog gets.
    pub(super) fn take_end(&self) -> Option<i32> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.pop()
    }

    /// The failure that comes before an entry. A reply may not go beyond the next one.
    pub(super) fn take(&self, number: u64) -> Option<Fault> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, fault) = left.pop_if(|(before, _)| *before <= number)?;
        if let Fault::Truncated(_, first) = fault {
            self.first.store(first, Ordering::Relaxed);
        }
        Some(fault)
    }

    /// Entries that may be given from that number on before a failure is due.
    pub(super) fn room(&self, number: u64) -> u64 {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let next = left.last().map(|(before, _)| before.saturating_sub(number));
        next.filter(|room| *room > 0).unwrap_or(u64::MAX)
    }

    /// Whether all of them came.
    pub(super) fn are_over(&self) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.is_empty()
    }

    /// The oplog of secondaries begins at that entry, as after an initial sync.
    pub(super) fn shorten_secondaries(&self, first: u64) {
        self.secondary_first.store(first, Ordering::Relaxed);
    }

    /// The majority is that many seconds ahead of what this member gives.
    pub(super) fn fall_behind(&self, seconds: u32) {
        self.behind.store(seconds, Ordering::Relaxed);
    }

    /// Seconds by which a majority of the set is ahead of this member.
    pub(super) fn behind(&self) -> u32 {
        self.behind.load(Ordering::Relaxed)
    }

    /// The first entry that is still there for a read from a secondary or from the primary.
    pub(super) fn first(&self, from_secondary: bool) -> u64 {
        let first = self.first.load(Ordering::Relaxed);
        if from_secondary {
            first.max(self.secondary_first.load(Ordering::Relaxed))
        } else {
            first
        }
    }
}
