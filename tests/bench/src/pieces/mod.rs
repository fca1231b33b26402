//! The work per entry, split into named pieces. The micro-benchmarks time them, and the test
//! `instructions` counts their instructions.
//!
//! Each [`Piece`] does its work once for each of [`ENTRIES`] entries in a pass, on buffers that it
//! keeps. Nothing in it is random, so every pass executes the same instructions.
//!
//! | file | holds |
//! | --- | --- |
//! | `input` | the entries: the stub's, and handmade updates |
//! | `produce` | header, key, encoding |
//! | `consume` | decoding, reading, diffs, plans, commands |

mod consume;
mod input;
mod produce;

use std::hint::black_box;

use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;

/// Number of entries in a pass.
pub const ENTRIES: u64 = 200;

/// One piece of work on entries of one kind.
pub struct Piece {
    /// The name: `<what>/<entries>`.
    pub name: &'static str,
    /// Runs one pass and returns a value that depends on all of the work, so that the compiler
    /// cannot remove it.
    pass: Box<dyn FnMut() -> usize>,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Piece").field("name", &self.name).finish()
    }
}

impl Piece {
    /// Returns all pieces.
    #[must_use]
    pub fn all() -> Vec<Piece> {
        let mut all = produce::pieces();
        all.extend(consume::pieces());
        all
    }

    /// Does the work for [`ENTRIES`] entries.
    pub fn pass(&mut self) {
        black_box((self.pass)());
    }

    fn new(name: &'static str, pass: impl FnMut() -> usize + 'static) -> Piece {
        Piece {
            name,
            pass: Box::new(pass),
        }
    }

    /// Returns a piece that works on the raw bytes of each entry.
    fn of_bytes(
        name: &'static str,
        entries: Vec<Vec<u8>>,
        mut work: impl FnMut(Document<'_>) -> usize + 'static,
    ) -> Piece {
        Piece::new(name, move || {
            let documents = entries.iter().map(|bytes| Document::new(bytes).unwrap());
            documents.map(&mut work).sum()
        })
    }

    /// Returns a piece that works on each entry after its header was read.
    fn of_entries(
        name: &'static str,
        entries: Vec<Vec<u8>>,
        mut work: impl FnMut(&Entry<'_>) -> usize + 'static,
    ) -> Piece {
        // Reading the header is a piece of its own, so here it is read once, before the first pass.
        let entries: &'static [Vec<u8>] = Vec::leak(entries);
        let read = |bytes: &'static Vec<u8>| Entry::parse(Document::new(bytes).unwrap()).unwrap();
        let entries: Vec<Entry<'static>> = entries.iter().map(read).collect();
        Piece::new(name, move || entries.iter().map(&mut work).sum())
    }
}

/// Runs the given number of passes, after a first one that grows the buffers. Callgrind writes its
/// counts when this function returns.
#[inline(never)]
pub fn warmed_piece(piece: &mut Piece, passes: u64) {
    piece.pass();
    counted_passes(piece, passes);
}

/// Runs the passes. Callgrind counts the instructions of this function and of what it calls.
#[inline(never)]
fn counted_passes(piece: &mut Piece, passes: u64) {
    for _ in 0..passes {
        piece.pass();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_piece_does_the_same_in_every_pass() {
        let mut names = HashSet::new();
        for mut piece in Piece::all() {
            let (first, second) = ((piece.pass)(), (piece.pass)());
            assert!(first >= ENTRIES as usize, "{piece:?}: {first}");
            assert_eq!(first, second, "{piece:?}");
            assert!(names.insert(piece.name), "{piece:?} exists twice");
        }
    }
}
