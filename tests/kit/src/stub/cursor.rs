//! The cursors that are open: each is a place in the oplog or in the collection.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Where a cursor stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// It reads the collection, not the oplog.
    pub(super) documents: bool,
    /// The next entry, or the next document.
    pub(super) next: u64,
    /// Those that it may still give.
    pub(super) left: u64,
    /// Stays open at the end, and waits there.
    pub(super) tailable: bool,
}

/// All cursors of a server; any connection may use any of them.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    open: Mutex<(i64, HashMap<i64, Cursor>)>,
}

impl Cursors {
    /// Opens a cursor and returns its id.
    pub(super) fn open(&self, cursor: Cursor) -> i64 {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 += 1;
        let id = open.0;
        open.1.insert(id, cursor);
        id
    }

    /// Takes a cursor out; whoever goes on with it puts it back.
    pub(super) fn take(&self, id: i64) -> Option<Cursor> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.1.remove(&id)
    }

    /// Puts a cursor back under its id.
    pub(super) fn put(&self, id: i64, cursor: Cursor) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.1.insert(id, cursor);
    }
}
