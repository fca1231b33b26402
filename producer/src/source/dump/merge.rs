//! The entries of all segments of a dump, in the order of the oplog.
//!
//! Segments that were dumped at different times, or from different members, may overlap. Their
//! common entries are identical byte for byte, and only one copy is used. After a failover an older
//! segment may also contain entries that were rolled back: entries of a lower term at and after the
//! point where the histories diverge. A segment that contains this point and continues in a higher
//! term proves this, and the entries are skipped. Without such a proof it is unknown which entries
//! were kept, and the dump is refused.

use std::collections::VecDeque;

use oplog_relay_core::entry::Operation;
use oplog_relay_core::position::{OpTime, Timestamp};

use super::segment::{Segment, SegmentReader};
use crate::error::ProducerError;
use crate::source::dump::error::DumpError;

/// Term of an entry without one: the first entries of a replica set, and old servers.
const NO_TERM: i64 = -1;
/// Number of bytes that the buffer of a segment's next entry keeps. Many segments may be open at a
/// time, and few entries are larger.
const KEPT_BYTES: usize = 1 << 20;
/// Placeholder optime before any entry.
const NOWHERE: OpTime = OpTime {
    ts: Timestamp::new(0, 0),
    term: NO_TERM,
};

/// A segment that is not open yet, with the time of its first entry if that is known.
#[derive(Debug)]
pub(super) struct Waiting<'d> {
    pub(super) segment: &'d Segment,
    /// Time of the first entry; `None` for the only segment of a dump.
    pub(super) first: Option<Timestamp>,
}

/// The number of entries that were skipped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Overlap {
    /// Number of copies that were skipped because another segment contains the same entry.
    pub(super) repeated: u64,
    /// Number of entries that another segment proves to have been rolled back.
    pub(super) rolled_back: u64,
}

/// An entry that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) at: OpTime,
    pub(super) is_command: bool,
}

/// The merge of all segments. Only segments that overlap are open at the same time.
pub(super) struct Merge<'d> {
    waiting: VecDeque<Waiting<'d>>,
    open: Vec<Cursor>,
    opened: usize,
    /// The first entry of the highest term so far, and the number of its segment.
    newest: OpTime,
    newest_in: usize,
    overlap: Overlap,
    /// The error to return after the entries that were read before it.
    failed: Option<ProducerError>,
}

/// An open segment and its next entry.
struct Cursor {
    /// Number of the segment.
    number: usize,
    reader: SegmentReader,
    bytes: Vec<u8>,
    next: Taken,
    first: Timestamp,
    /// True if earlier entries of the segment were read.
    has_begun: bool,
}

impl<'d> Merge<'d> {
    /// Creates a merge of segments in the order of their first entries.
    pub(super) fn new(segments: impl IntoIterator<Item = Waiting<'d>>) -> Self {
        Self {
            waiting: segments.into_iter().collect(),
            open: Vec::new(),
            opened: 0,
            newest: NOWHERE,
            newest_in: 0,
            overlap: Overlap::default(),
            failed: None,
        }
    }

    /// Returns the number of entries skipped so far.
    pub(super) const fn overlap(&self) -> Overlap {
        self.overlap
    }

    /// Appends the next entry; `None` at the end of all segments.
    ///
    /// # Errors
    /// A [`DumpError`] for segments that cannot be one history; the errors of
    /// [`SegmentReader::read_document`].
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<Taken>, ProducerError> {
        loop {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.open_due()?;
            let order = |cursor: &Cursor| (cursor.next.at.ts, cursor.next.at.term);
            let cursors = self.open.iter().enumerate();
            let least = cursors.min_by_key(|(_, cursor)| order(cursor));
            let Some(least) = least.map(|(index, _)| index) else {
                return Ok(None);
            };
            let shared_with = self.drop_repeated(least)?;
            let rolled_back = self.is_rolled_back(least, &shared_with)?;
            let Some(cursor) = self.open.get(least) else {
                return Ok(None);
            };
            let taken = cursor.next;
            if rolled_back {
                self.overlap.rolled_back += 1;
                self.advance_or_fail(least);
                continue;
            }
            out.extend_from_slice(&cursor.bytes);
            if taken.at.term > self.newest.term {
                (self.newest, self.newest_in) = (taken.at, cursor.number);
            }
            self.advance_or_fail(least);
            return Ok(Some(taken));
        }
    }

    /// Opens the segments that start at or before the next entry.
    fn open_due(&mut self) -> Result<(), ProducerError> {
        loop {
            let next = self.open.iter().map(|cursor| cursor.next.at.ts).min();
            let due = |waiting: &mut Waiting<'_>| match (waiting.first, next) {
                (Some(first), Some(next)) => first <= next,
                _ => next.is_none(),
            };
            let Some(waiting) = self.waiting.pop_front_if(due) else {
                return Ok(());
            };
            let reader = SegmentReader::open(waiting.segment)?;
            self.opened += 1;
            self.open.extend(Cursor::open(self.opened, reader)?);
        }
    }

    /// Skips the entry in the other segments that contain it, and returns their numbers.
    fn drop_repeated(&mut self, least: usize) -> Result<Vec<usize>, ProducerError> {
        let mut shared_with = Vec::new();
        for index in (0..self.open.len()).rev() {
            let (Some(own), Some(other)) = (self.open.get(least), self.open.get(index)) else {
                continue;
            };
            // `min_by_key` returns the first of equal ones, so removals do not change the index of
            // `least`.
            if index == least || own.next.at != other.next.at {
                continue;
            }
            if own.bytes != other.bytes {
                return Err(DumpError::DifferentEntries {
                    one: own.reader.name().to_owned(),
                    other: other.reader.name().to_owned(),
                    at: own.next.at.ts,
                }
                .into());
            }
            shared_with.push(other.number);
            self.overlap.repeated += 1;
            self.advance_or_fail(index);
        }
        Ok(shared_with)
    }

    /// Returns true if another segment proves that the entry was rolled back.
    fn is_rolled_back(&self, least: usize, shared_with: &[usize]) -> Result<bool, ProducerError> {
        let Some(own) = self
            .open
            .get(least)
            .filter(|own| own.next.at.term != NO_TERM)
        else {
            return Ok(false);
        };
        let mut proven = false;
        let is_without =
            |other: &&Cursor| other.number != own.number && !shared_with.contains(&other.number);
        for other in self.open.iter().filter(is_without) {
            let shares = own.has_begun && other.has_begun;
            // The other segment continues in a higher term here, without this entry.
            if other.next.at.term > own.next.at.term && other.has_begun {
                proven = true;
                continue;
            }
            let starts_in_newer_term =
                other.next.at.term > own.next.at.term && other.next.at.ts <= own.next.at.ts;
            let continues_in_older_term =
                other.next.at.term < own.next.at.term && other.next.at.term != NO_TERM && !shares;
            // One of the two starts here, so the point where they diverge is unknown.
            if starts_in_newer_term || continues_in_older_term {
                return Err(diverged(own, other).into());
            }
        }
        // The segment that reached the highest term may have ended already.
        let is_behind = own.next.at.term < self.newest.term && own.number != self.newest_in;
        if is_behind && !proven && own.first >= self.newest.ts {
            return Err(DumpError::LowerTerm {
                segment: own.reader.name().to_owned(),
                at: own.next.at.ts,
                term: own.next.at.term,
                reached: self.newest.term,
                reached_at: self.newest.ts,
            }
            .into());
        }
        Ok(proven || is_behind)
    }

    /// Reads the next entry of a segment. Damage ends the merge, but only after the entries before it.
    fn advance_or_fail(&mut self, index: usize) {
        if let Err(error) = self.advance(index) {
            self.failed.get_or_insert(error);
        }
    }

    fn advance(&mut self, index: usize) -> Result<(), ProducerError> {
        let Some(cursor) = self.open.get_mut(index) else {
            return Ok(());
        };
        cursor.has_begun = true;
        if !cursor.read()? {
            self.open.remove(index);
        }
        Ok(())
    }
}

impl Cursor {
    /// Opens a segment; `None` if it has no entries.
    fn open(number: usize, reader: SegmentReader) -> Result<Option<Self>, ProducerError> {
        let mut cursor = Self {
            number,
            reader,
            bytes: Vec::new(),
            next: Taken {
                at: NOWHERE,
                is_command: false,
            },
            first: NOWHERE.ts,
            has_begun: false,
        };
        if !cursor.read()? {
            return Ok(None);
        }
        cursor.first = cursor.next.at.ts;
        Ok(Some(cursor))
    }

    fn read(&mut self) -> Result<bool, ProducerError> {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        if !self.reader.read_document(&mut self.bytes)? {
            return Ok(false);
        }
        let entry = self.reader.entry(&self.bytes)?;
        self.next = Taken {
            at: OpTime {
                ts: entry.ts,
                term: entry.term,
            },
            is_command: entry.operation == Operation::Command,
        };
        Ok(true)
    }
}

/// Returns the error for two segments that diverge before the first entry of one of them.
fn diverged(own: &Cursor, other: &Cursor) -> DumpError {
    DumpError::Diverged {
        one: own.reader.name().to_owned(),
        other: other.reader.name().to_owned(),
        at: own.next.at.ts,
        term: own.next.at.term,
        other_term: other.next.at.term,
    }
}
