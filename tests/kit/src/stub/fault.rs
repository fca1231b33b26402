//! Failures of a tailed server, configured by a test.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A failure that one `getMore` returns instead of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error of that code, which closes the cursor.
    Code(i32),
    /// The same error, after the oplog has lost the entries before that number.
    Truncated(i32, u64),
    /// The connection ends without an answer.
    Hangup,
}

/// The pending failures, each by the number of the entry before which it occurs, in order.
#[derive(Debug, Default)]
pub(super) struct Faults {
    left: Mutex<Vec<(u64, Fault)>>,
    /// Number of the first entry that still exists.
    first: AtomicU64,
    /// Number of the first entry that reads from a secondary return.
    secondary_first: AtomicU64,
    /// Number of seconds by which a majority of the set is ahead of this member.
    behind: AtomicU32,
    /// The codes with which the next queries for the oldest or newest entry fail.
    ends: Mutex<Vec<i32>>,
    /// The commands that are not answered for now, and the number of those that wait.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    commands: Vec<String>,
    waiting: usize,
}

impl Faults {
    pub(super) fn new(faults: &[(u64, Fault)]) -> Faults {
        Faults {
            left: Mutex::new(faults.iter().rev().copied().collect()),
            first: AtomicU64::new(0),
            secondary_first: AtomicU64::new(0),
            behind: AtomicU32::new(0),
            ends: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Lets the next queries for the oldest or newest entry fail with these codes.
    pub(super) fn fail_ends(&self, codes: &[i32]) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.extend(codes.iter().rev());
    }

    /// Returns the code with which a query for the oldest or newest entry fails.
    pub(super) fn take_end(&self) -> Option<i32> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.pop()
    }

    /// Withholds the answers to commands of that name.
    pub(super) fn hold(&self, command: &str) {
        self.held().commands.push(command.to_owned());
    }

    /// Returns the number of commands that wait for their answers.
    pub(super) fn waiting(&self) -> usize {
        self.held().waiting
    }

    /// Releases the answers.
    pub(super) fn resume(&self) {
        self.held().commands.clear();
    }

    /// Calls `wait` repeatedly while the answers to this command are withheld, until `wait` returns
    /// false.
    pub(super) fn wait_while_held(&self, command: &[u8], wait: impl Fn() -> bool) {
        let is_held = || {
            let held = self.held();
            held.commands.iter().any(|name| name.as_bytes() == command)
        };
        if !is_held() {
            return;
        }
        self.held().waiting += 1;
        while is_held() && wait() {}
        self.held().waiting -= 1;
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the failure that occurs before an entry. A reply must end before the next one.
    pub(super) fn take(&self, number: u64) -> Option<Fault> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, fault) = left.pop_if(|(before, _)| *before <= number)?;
        if let Fault::Truncated(_, first) = fault {
            self.first.store(first, Ordering::Relaxed);
        }
        Some(fault)
    }

    /// Returns the number of entries from that number on that may be returned before a failure is
    /// due.
    pub(super) fn room(&self, number: u64) -> u64 {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let next = left.last().map(|(before, _)| before.saturating_sub(number));
        next.filter(|room| *room > 0).unwrap_or(u64::MAX)
    }

    /// Returns true if all failures have occurred.
    pub(super) fn are_over(&self) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.is_empty()
    }

    /// Lets the oplog start at that entry.
    pub(super) fn truncate(&self, first: u64) {
        self.first.store(first, Ordering::Relaxed);
    }

    /// Lets the oplog of secondaries start at that entry, as after an initial sync.
    pub(super) fn shorten_secondaries(&self, first: u64) {
        self.secondary_first.store(first, Ordering::Relaxed);
    }

    /// Lets the majority be that many seconds ahead of this member.
    pub(super) fn fall_behind(&self, seconds: u32) {
        self.behind.store(seconds, Ordering::Relaxed);
    }

    /// Returns the number of seconds by which a majority of the set is ahead of this member.
    pub(super) fn behind(&self) -> u32 {
        self.behind.load(Ordering::Relaxed)
    }

    /// Returns the first entry that a read from a secondary or from the primary can return.
    pub(super) fn first(&self, from_secondary: bool) -> u64 {
        let first = self.first.load(Ordering::Relaxed);
        if from_secondary {
            first.max(self.secondary_first.load(Ordering::Relaxed))
        } else {
            first
        }
    }
}
