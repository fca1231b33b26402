//! The open cursors: each is a position in the oplog or in the collection.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The position of a cursor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// True if it reads the collection, not the oplog.
    pub(super) documents: bool,
    /// Number of the next entry or document.
    pub(super) next: u64,
    /// Number of entries or documents that it may still return.
    pub(super) left: u64,
    /// True if it stays open at the end, and waits there.
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

    /// Removes a cursor; the caller puts it back if it stays open.
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
