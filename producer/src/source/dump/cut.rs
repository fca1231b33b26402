//! The start of the stream within a dump.

use oplog_relay_core::position::{Position, Timestamp};

use super::merge::{Overlap, Taken};
use crate::error::ProducerError;
use crate::position_lost::{Gap, PositionLost, RolledBackRange};
use crate::source::StartAt;

/// The parts of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Entries that are not needed.
    Done,
    /// Entries before the start, among which transactions may be open.
    Earlier,
    /// Entries to be sent.
    Wanted,
}

/// Assigns entries of a dump to its parts, and counts them.
pub(super) struct Cut {
    start: StartAt,
    open: Option<Timestamp>,
    /// True if the saved position's entry was seen, or if no position is saved.
    found: bool,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    entries: u64,
    wanted: u64,
}

impl Cut {
    pub(super) const fn new(start: StartAt, open: Option<Timestamp>) -> Self {
        let found = !matches!(start, StartAt::After(_));
        Self {
            start,
            open,
            found,
            first: None,
            last: None,
            entries: 0,
            wanted: 0,
        }
    }

    /// Returns the part of the next entry.
    pub(super) fn part(&mut self, taken: Taken) -> Result<Part, ProducerError> {
        let ts = taken.at.ts;
        if self.first.is_none() {
            self.first = Some(ts);
            self.check_open(ts);
        }
        self.last = Some(ts);
        self.entries += 1;
        let part = match self.start {
            StartAt::Oldest => Part::Wanted,
            StartAt::At(start) if ts < start => Part::Earlier,
            StartAt::At(_) => Part::Wanted,
            StartAt::Now => Part::Done,
            StartAt::After(saved) => self.after(saved, taken)?,
        };
        self.wanted += u64::from(part == Part::Wanted);
        Ok(part)
    }

    /// Warns if entries of an open transaction are missing. The transaction may never have been
    /// committed, so they matter only if a commit names them.
    fn check_open(&self, first: Timestamp) {
        if let (StartAt::After(_), Some(open)) = (self.start, self.open)
            && first > open
        {
            tracing::warn!(
                %open,
                %first,
                "the dump starts after the first entry of a transaction that was open at the end \
                 of the previous dump. If the transaction is committed in this dump, the stream \
                 stops at the commit; in that case, give a dump that starts at or before that entry"
            );
        }
    }

    fn after(&mut self, saved: Position, taken: Taken) -> Result<Part, ProducerError> {
        let ts = taken.at.ts;
        let earlier = match self.open {
            Some(open) if ts >= open => Part::Earlier,
            // A live source, which a dump may continue, does not record open transactions.
            None if taken.is_command => Part::Earlier,
            _ => Part::Done,
        };
        if self.found {
            let wanted = ts > saved.ts;
            return Ok(if wanted { Part::Wanted } else { earlier });
        }
        if ts < saved.ts {
            return Ok(earlier);
        }
        self.found = true;
        if (ts, taken.at.term) == (saved.ts, saved.term) {
            // With an ordinal a part of its operations is still to be sent.
            let wanted = saved.ord > 0;
            return Ok(if wanted { Part::Wanted } else { earlier });
        }
        Err(self.lost(saved, taken))
    }

    /// Returns the error for a dump without the entry of the saved position.
    fn lost(&self, checkpoint: Position, taken: Taken) -> ProducerError {
        let oldest = self.first.unwrap_or(taken.at.ts);
        let lost = if oldest > checkpoint.ts {
            PositionLost::RolledOver {
                checkpoint,
                oldest,
                gap: Gap::between(checkpoint.ts, oldest),
            }
        } else {
            PositionLost::RolledBack {
                checkpoint,
                found: Position {
                    ts: taken.at.ts,
                    term: taken.at.term,
                    ord: 0,
                },
                oldest,
                range: RolledBackRange::new(None, checkpoint),
            }
        };
        Box::new(lost).into()
    }

    /// Logs the contents of the dump, and anything unusual about it.
    pub(super) fn report(&self, overlap: Overlap) {
        let text =
            |ts: Option<Timestamp>| ts.map_or_else(|| "none".to_owned(), |ts| ts.to_string());
        let (oldest, newest) = (text(self.first), text(self.last));
        tracing::info!(
            entries = self.entries,
            after_start = self.wanted,
            repeated = overlap.repeated,
            oldest,
            newest,
            "the dump was read to its end"
        );
        if overlap.rolled_back > 0 {
            tracing::warn!(
                entries = overlap.rolled_back,
                "entries were skipped: a segment of a higher term proves that they were rolled back"
            );
        }
        if let Some(oddity) = self.oddity() {
            tracing::warn!(newest, "{oddity}");
        }
    }

    /// Returns a reason why the dump may not be the intended one.
    fn oddity(&self) -> Option<String> {
        match self.start {
            _ if self.entries == 0 => Some("the dump has no entries: nothing was sent".to_owned()),
            StartAt::After(saved) if !self.found => Some(format!(
                "the dump ends before the saved position {saved}: it contains no new entries"
            )),
            StartAt::At(start) if self.wanted == 0 => Some(format!(
                "the dump ends before the start {start}: nothing was sent"
            )),
            _ => None,
        }
    }
}
