//! Where in a dump the stream begins.

use oplog_relay_core::position::{Position, Timestamp};

use super::merge::{Overlap, Taken};
use crate::error::{Gap, PositionLost, ProducerError};
use crate::source::StartAt;

/// The parts of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What is not needed.
    Done,
    /// Before the start, but transactions may be open there.
    Earlier,
    /// What is to be sent.
    Wanted,
}

/// Finds the parts of a dump, and counts.
pub(super) struct Cut {
    start: StartAt,
    open: Option<Timestamp>,
    /// The saved position's entry was seen, or there is no saved position.
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

    /// The part of the next entry.
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

    /// A transaction that was open at the saved position may never have been committed, so its
    /// missing entries matter only where a commit names them.
    fn check_open(&self, first: Timestamp) {
        if let (StartAt::After(_), Some(open)) = (self.start, self.open)
            && first > open
        {
            tracing::warn!(
                %open,
                %first,
                "the dump begins after the first entry of a transaction that was open when the last \
                 one ended. If it is committed in this dump, the stream stops there; give a dump \
                 that begins at or before that entry then"
            );
        }
    }

    fn after(&mut self, saved: Position, taken: Taken) -> Result<Part, ProducerError> {
        let ts = taken.at.ts;
        let earlier = match self.open {
            Some(open) if ts >= open => Part::Earlier,
            // A live source, which a dump may go on from, does not say what is open.
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

    /// For a dump without the entry of the saved position.
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
            }
        };
        Box::new(lost).into()
    }

    /// Says what was in the dump, and what is odd about it.
    pub(super) fn report(&self, overlap: Overlap) {
        let text =
            |ts: Option<Timestamp>| ts.map_or_else(|| "none".to_owned(), |ts| ts.to_string());
        let (oldest, newest) = (text(self.first), text(self.last));
        tracing::info!(
            entries = self.entries,
            from_the_start_on = self.wanted,
            repeated = overlap.repeated,
            oldest,
            newest,
            "the dump was read to its end"
        );
        if overlap.rolled_back > 0 {
            tracing::warn!(
                entries = overlap.rolled_back,
                "entries were left out: a segment of a higher term proves that they were rolled back"
            );
        }
        if let Some(oddity) = self.oddity() {
            tracing::warn!(newest, "{oddity}");
        }
    }

    /// Why a dump may not be the one that was meant.
    fn oddity(&self) -> Option<String> {
        match self.start {
            _ if self.entries == 0 => Some("the dump has no entries: nothing was sent".to_owned()),
            StartAt::After(saved) if !self.found => Some(format!(
                "the dump ends before the saved position {saved}: nothing of it is new"
            )),
            StartAt::At(start) if self.wanted == 0 => Some(format!(
                "the dump ends before the start {start}: nothing was sent"
            )),
            _ => None,
        }
    }
}
