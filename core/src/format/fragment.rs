//! Fragments: the parts of a record that is larger than its topic allows.
//!
//! The fragments of a record follow each other in its partition. They were written in one Kafka
//! transaction without any record between them, control records included, so their offsets are
//! consecutive. Each has the key, the timestamp and the headers of the record, and an additional
//! header, [`FRAGMENT_HEADER`] = `<index>/<count>` in decimal, with the index starting at 0. The
//! concatenated values are the record's value.

use std::ops::Range;

use super::FormatError;
use crate::position::EntryId;

/// The name of the header of fragments.
pub const FRAGMENT_HEADER: &str = "oplog-fragment";

/// The place of a fragment in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The index of the fragment, starting at 0.
    pub index: u32,
    /// The number of fragments of the record. The producer writes the header only if there are at
    /// least two.
    pub count: u32,
}

impl Fragment {
    /// Reads the header's value.
    ///
    /// # Errors
    /// [`FormatError::Fragment`] if the header does not have this form.
    pub fn parse(header: &[u8]) -> Result<Self, FormatError> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        std::str::from_utf8(header)
            .ok()
            .and_then(|text| text.split_once('/'))
            .and_then(|(index, count)| {
                let fragment = Self {
                    index: number(index)?,
                    count: number(count)?,
                };
                (fragment.index < fragment.count).then_some(fragment)
            })
            .ok_or(FormatError::Fragment("its header cannot be read"))
    }

    /// Appends the header's value.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(digits.format(self.index).as_bytes());
        out.push(b'/');
        out.extend_from_slice(digits.format(self.count).as_bytes());
    }

    /// Returns true if this is the first fragment of its record.
    #[must_use]
    pub const fn is_first(self) -> bool {
        self.index == 0
    }

    /// Returns true if this is the last fragment of its record.
    #[must_use]
    pub const fn is_last(self) -> bool {
        self.index + 1 == self.count
    }
}

impl std::fmt::Display for Fragment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// A fragment with its part of the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FragmentValue {
    /// The fragment.
    pub fragment: Fragment,
    /// The place of its part.
    pub value: Range<usize>,
}

/// Splits a value into parts of at most `room` bytes, in order. A `room` of 0 counts as 1.
pub fn cut(value: Range<usize>, room: usize) -> impl Iterator<Item = FragmentValue> {
    let room = room.max(1);
    let count = u32::try_from(value.len().div_ceil(room)).unwrap_or(u32::MAX);
    let parts = (0..count).zip(value.clone().step_by(room));
    parts.map(move |(index, start)| {
        let end = start.saturating_add(room).min(value.end);
        FragmentValue {
            fragment: Fragment { index, count },
            value: start..end,
        }
    })
}

/// The progress of a reader within the fragments of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The last fragment that was read, and its offset.
    last: (Fragment, i64),
    /// The identity of the first entry in the record.
    id: Option<EntryId>,
}

/// The role of a record, given the records that were read before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The record is complete.
    Whole,
    /// The record is the first of several fragments.
    Begins(Run),
    /// The record continues the fragments read so far.
    Continues(Run),
    /// The record completes the fragments read so far.
    Ends,
    /// The fragments read so far are incomplete, and this record starts with the same entry or an
    /// earlier one. A broker before KIP-890 has kept a part of an aborted transaction, and the
    /// producer has sent its entries again. The caller discards the fragments and evaluates this
    /// record again.
    Again,
}

impl Run {
    /// Classifies the next record. `run` is the progress after the record before it; it is `None`
    /// if that record was complete. `offset` is the record's offset, `fragment` the value of its
    /// [`FRAGMENT_HEADER`], and `id` returns the identity of its first entry.
    ///
    /// # Errors
    /// [`FormatError::Headless`] if the start of the record lies before the first record read;
    /// [`FormatError::Fragment`] if a fragment is missing.
    pub fn next(
        run: Option<Self>,
        offset: i64,
        fragment: Option<Fragment>,
        id: impl FnOnce() -> Option<EntryId>,
    ) -> Result<Part, FormatError> {
        let Some(run) = run else {
            return match fragment {
                None => Ok(Part::Whole),
                Some(fragment) if !fragment.is_first() => Err(FormatError::Headless(fragment)),
                Some(fragment) if fragment.is_last() => Ok(Part::Whole),
                Some(fragment) => Ok(Part::Begins(Self {
                    last: (fragment, offset),
                    id: id(),
                })),
            };
        };
        let (last, at) = run.last;
        let follows = fragment.is_some_and(|fragment| {
            fragment.count == last.count && fragment.index == last.index + 1 && offset == at + 1
        });
        match fragment {
            Some(fragment) if follows && fragment.is_last() => Ok(Part::Ends),
            Some(fragment) if follows => Ok(Part::Continues(Self {
                last: (fragment, offset),
                ..run
            })),
            fragment if fragment.is_none_or(Fragment::is_first) && repeats(run.id, id()) => {
                Ok(Part::Again)
            }
            _ => Err(FormatError::Fragment("the rest of it is missing")),
        }
    }
}

fn repeats(begun: Option<EntryId>, next: Option<EntryId>) -> bool {
    matches!((begun, next), (Some(begun), Some(next)) if next <= begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Timestamp;
    use proptest::prelude::*;

    fn id(seconds: u32) -> Option<EntryId> {
        Some(EntryId {
            ts: Timestamp::new(seconds, 1),
            ord: 0,
        })
    }

    #[test]
    fn the_header_of_fragments_is_frozen() {
        assert_eq!(FRAGMENT_HEADER, "oplog-fragment");
        let mut header = Vec::new();
        Fragment {
            index: 0,
            count: 12,
        }
        .write(&mut header);
        assert_eq!(header, b"0/12");
        let read = Fragment::parse(b"11/12").unwrap();
        assert_eq!((read.index, read.count), (11, 12));
        assert!(read.is_last() && !read.is_first());
        assert_eq!(read.to_string(), "11/12");
        for bad in [
            "",
            "1",
            "/",
            "1/",
            "/2",
            "2/2",
            "0/0",
            "+0/2",
            "0/2 ",
            "0/4294967296",
            "\u{1}",
        ] {
            assert!(Fragment::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let parts: Vec<_> = cut(5..15, 4)
            .map(|part| (part.fragment.to_string(), part.value))
            .collect();
        let expected = [("0/3", 5..9), ("1/3", 9..13), ("2/3", 13..15)];
        assert_eq!(
            parts,
            expected.map(|(text, range)| (text.to_owned(), range))
        );
    }

    #[test]
    fn incomplete_fragments_are_reported_unless_their_entry_was_sent_again() {
        let part = |index, count| Some(Fragment { index, count });
        let begun = |offset| {
            let begun = Run::next(None, offset, part(0, 3), || id(5)).unwrap();
            let Part::Begins(run) = begun else { panic!() };
            Some(run)
        };
        let headless = Run::next(None, 7, part(1, 3), || id(5));
        assert!(matches!(headless, Err(FormatError::Headless(_))));
        let table = [
            (8, part(1, 3), 5, true),
            // In turn: a gap in the offsets, another count, a missing part, a whole record with a
            // later entry, the first fragment of a later entry.
            (9, part(1, 3), 5, false),
            (8, part(1, 4), 5, false),
            (8, part(2, 3), 5, false),
            (8, None, 6, false),
            (8, part(0, 3), 6, false),
            // The same entry again, then an earlier one.
            (9, part(0, 3), 5, true),
            (9, None, 4, true),
        ];
        for (offset, fragment, seconds, goes_on) in table {
            let next = Run::next(begun(7), offset, fragment, || id(seconds));
            assert_eq!(next.is_ok(), goes_on, "{offset} {fragment:?} {next:?}");
        }
        let again = Run::next(begun(7), 9, part(0, 3), || id(5));
        assert_eq!(again, Ok(Part::Again));
    }

    proptest! {
        /// For all sizes, reassembly returns the original value.
        #[test]
        fn values_come_back_whole(values in prop::collection::vec((1_usize..400, 1_usize..100), 1..30)) {
            let (mut run, mut offset, mut built) = (None, 0, Vec::new());
            for (seconds, (length, room)) in (1..).zip(values) {
                let value: Vec<u8> = (0..=250).cycle().take(length).collect();
                let parts: Vec<_> = cut(0..length, room).collect();
                let whole = parts.len() == 1;
                for FragmentValue { fragment, value: range } in parts {
                    prop_assert!(range.len() <= room && !range.is_empty());
                    let fragment = (!whole).then_some(fragment);
                    let part = Run::next(run, offset, fragment, || id(seconds)).unwrap();
                    offset += 1;
                    if matches!(part, Part::Whole | Part::Begins(_)) {
                        built.clear();
                    }
                    built.extend_from_slice(&value[range]);
                    run = match part {
                        Part::Begins(run) | Part::Continues(run) => Some(run),
                        _ => None,
                    };
                }
                prop_assert_eq!(run, None);
                prop_assert_eq!(&built, &value);
            }
        }
    }
}
