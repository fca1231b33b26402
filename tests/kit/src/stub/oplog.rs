//! The prepared oplog, generated or given: the elements of a reply's array, in one contiguous block
//! of memory, so that any batch is a slice of it.
//!
//! The elements' names count within blocks of 100,000 rather than within a reply. Drivers iterate
//! over a batch without reading the names; the length of a name is that of a real reply.

use std::ops::Range;

use anyhow::Result;
use oplog_relay_core::document::{Document, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::Timestamp;

use super::entry::{Recipe, Shape, TERM, write_entry};

/// The size limit of a server's reply: 16 MB.
const REPLY_BYTES: u64 = 16 * 1024 * 1024;
/// Number of different names, which have at most five digits, as those of a full reply.
const NAMES: u64 = 100_000;

/// Entries in memory, ready to be sent.
#[derive(Debug)]
pub struct Oplog {
    elements: Vec<u8>,
    /// The start of each element, and the end of the last one.
    starts: Vec<u64>,
    /// Bytes of the entries alone.
    bytes: u64,
    /// Times of given entries. The time of a generated entry follows from its number.
    times: Vec<Timestamp>,
    /// Commit times of given entries, in milliseconds since 1970.
    walls: Vec<i64>,
    recipe: Recipe,
    /// Election term of the newest entry.
    term: i64,
}

impl Oplog {
    /// Generates that many entries.
    #[must_use]
    pub fn generate(entries: u64, shape: Shape) -> Oplog {
        Oplog::make(Recipe::new(entries, shape))
    }

    /// Generates entries.
    #[must_use]
    pub fn make(recipe: Recipe) -> Oplog {
        let mut oplog = Oplog {
            recipe,
            ..Oplog::empty()
        };
        for number in 0..recipe.entries {
            oplog.append(|out| write_entry(number, &recipe, out));
            if number == 0 {
                // The memory is reserved at once, because growth would copy gigabytes repeatedly.
                // Element names become longer, so some bytes are added for each entry.
                let most = (oplog.elements.len() as u64 + 8) * recipe.entries;
                oplog.elements.reserve(usize::try_from(most).unwrap_or(0));
            }
        }
        oplog
    }

    /// Serves the concatenated entries.
    ///
    /// # Errors
    /// The bytes are not a sequence of entries.
    pub fn given(mut entries: &[u8]) -> Result<Oplog> {
        let mut oplog = Oplog::empty();
        while !entries.is_empty() {
            let (document, rest) = Document::split(entries)?;
            let entry = Entry::parse(document)?;
            oplog.times.push(entry.ts);
            oplog.walls.push(entry.ts.clamp_wall(entry.wall));
            oplog.term = entry.term;
            oplog.append(|out| out.extend_from_slice(document.as_bytes()));
            entries = rest;
        }
        Ok(oplog)
    }

    fn empty() -> Oplog {
        Oplog {
            elements: Vec::new(),
            starts: vec![0],
            bytes: 0,
            times: Vec::new(),
            walls: Vec::new(),
            recipe: Recipe::new(0, Shape::Inserts),
            term: TERM,
        }
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.elements.push(kind::DOCUMENT);
        let name = (self.len() % NAMES).to_string();
        self.elements.extend_from_slice(name.as_bytes());
        self.elements.push(0);
        let document = self.elements.len();
        write(&mut self.elements);
        self.bytes += (self.elements.len() - document) as u64;
        self.starts.push(self.elements.len() as u64);
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// Returns true if there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Returns the bytes of all entries.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the time of the newest entry.
    #[must_use]
    pub fn newest(&self) -> Option<Timestamp> {
        self.len().checked_sub(1).map(|number| self.time(number))
    }

    /// Returns the election term of the newest entry.
    #[must_use]
    pub const fn term(&self) -> i64 {
        self.term
    }

    /// Returns the time of entry `number`. A generated oplog has a time for every number, even past
    /// its end.
    #[must_use]
    pub fn time(&self, number: u64) -> Timestamp {
        let given = usize::try_from(number).ok();
        let given = given.and_then(|number| self.times.get(number));
        given.copied().unwrap_or_else(|| self.recipe.time(number))
    }

    /// Returns the number of entries with a time up to `millis` since 1970.
    pub(super) fn until(&self, millis: i64) -> u64 {
        if !self.walls.is_empty() {
            return self.walls.partition_point(|wall| *wall <= millis) as u64;
        }
        // The entries of a millisecond exist from its beginning on.
        let past = u64::try_from(millis - self.recipe.wall(0) + 1).unwrap_or(0);
        let there = past.saturating_mul(self.recipe.per_second).div_ceil(1000);
        there.min(self.len())
    }

    /// Returns the entry at exactly that time.
    pub(super) fn entry_at(&self, ts: Timestamp) -> Option<&[u8]> {
        let number = self.first_at(ts);
        let entry = self.entry(number)?;
        (self.time(number) == ts).then_some(entry)
    }

    /// Returns the bytes of entry `number`.
    #[must_use]
    pub fn entry(&self, number: u64) -> Option<&[u8]> {
        if number >= self.len() {
            return None;
        }
        let element = self.elements(number..number + 1);
        let name_end = element.iter().position(|byte| *byte == 0)?;
        element.get(name_end + 1..)
    }

    /// Returns the number of the first entry at or after that time.
    pub(super) fn first_at(&self, ts: Timestamp) -> u64 {
        let mut known = 0..self.len();
        while known.start < known.end {
            let middle = known.start + (known.end - known.start) / 2;
            if self.time(middle) < ts {
                known.start = middle + 1;
            } else {
                known.end = middle;
            }
        }
        known.start
    }

    /// Returns the entries of the next reply: from `start`, at most `limit`, and at most 16 MB
    /// except for a single larger entry.
    pub(super) fn batch(&self, start: u64, limit: u64) -> Range<u64> {
        let last = start.saturating_add(limit).min(self.len());
        if start >= last {
            return start..start;
        }
        let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let ends = &self.starts[place(start) + 1..=place(last)];
        let full = self.starts[place(start)] + REPLY_BYTES;
        let fitting = ends.partition_point(|end| *end <= full).max(1);
        start..start + fitting as u64
    }

    /// Returns the elements of these entries, as they are in an array.
    pub(super) fn elements(&self, entries: Range<u64>) -> &[u8] {
        let place = |number: u64| {
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            usize::try_from(self.starts[number]).unwrap_or(usize::MAX)
        };
        &self.elements[place(entries.start)..place(entries.end)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_by_count_and_by_bytes() {
        let oplog = Oplog::generate(100_000, Shape::Inserts);
        assert_eq!(oplog.batch(0, 101), 0..101);
        assert_eq!(oplog.batch(99_990, 101), 99_990..100_000);
        assert_eq!(oplog.batch(100_000, 101), 100_000..100_000);
        let full = oplog.batch(5, u64::MAX);
        let bytes = oplog.elements(full).len() as u64;
        assert!((REPLY_BYTES - 500..=REPLY_BYTES).contains(&bytes));
        assert_eq!(oplog.bytes(), 46_600_000);
    }

    #[test]
    fn given_entries_are_served_as_they_are() -> Result<()> {
        let generated = Oplog::generate(20, Shape::Mixed);
        let entries: Vec<u8> = (5..20)
            .filter_map(|number| generated.entry(number))
            .flatten()
            .copied()
            .collect();
        let given = Oplog::given(&entries)?;
        assert_eq!((given.len(), given.bytes()), (15, entries.len() as u64));
        assert_eq!(given.entry(0), generated.entry(5));
        assert_eq!(given.entry_at(generated.time(7)), generated.entry(7));
        assert_eq!(given.entry_at(generated.time(4)), None);
        assert_eq!(given.newest(), generated.newest());
        assert!(Oplog::given(&entries[1..]).is_err());
        Ok(())
    }

    #[test]
    fn an_entry_is_found_by_its_time() {
        let oplog = Oplog::generate(3000, Shape::Mixed);
        assert_eq!(oplog.first_at(Timestamp::default()), 0);
        assert_eq!(oplog.first_at(oplog.time(1500)), 1500);
        let between = Timestamp::new(oplog.time(999).seconds, u32::MAX);
        assert_eq!(oplog.first_at(between), 1000);
        assert_eq!(oplog.first_at(Timestamp::new(u32::MAX, 0)), 3000);
    }
}
