//! Decides what a change of a position means, and what is saved. Performs no I/O.

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::{GapReason, GapRecord, History, PositionRecord, SourceRecord};

use crate::config::position::Accepted;
use crate::encode::FIRST_ROUTING;
use crate::error::ProducerError;
use crate::position::error::PositionChangeError;
use crate::position::routed::SourceCollections;
use crate::saved::checkpoint::Checkpoint;

/// A producer seems to be running if a position was saved less than this number of milliseconds ago.
const RECENT_MS: i64 = 60_000;
/// Maximum number of gaps that the source's record keeps apart.
const GAPS: usize = 100;

/// A wanted change.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// First part of the topic names.
    pub(super) prefix: String,
    /// The new position.
    pub(super) wanted: Position,
    /// What is accepted.
    pub(super) accepted: Accepted,
    /// Whether the position must, may or must not be the first one.
    pub(super) first: FirstPosition,
    /// The identity of the source, for one that has none saved.
    pub(super) identity: SourceRecord,
    /// The collections that the source has now, if they were read.
    pub(super) collections: Option<SourceCollections>,
}

/// Whether the new position must, may or must not be the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstPosition {
    /// It must be the first one: no position may be saved.
    Required,
    /// It may be the first one.
    Allowed,
    /// It must not be the first one: a position must be saved.
    Refused,
}

/// The relation of a new position to the saved one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// No position is saved.
    First,
    /// Entries are sent again.
    Back,
    /// Entries are skipped.
    Forward,
}

/// The records of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decided {
    /// The relation to the saved position.
    pub(super) direction: Direction,
    /// The record of the position.
    pub(super) position: PositionRecord,
    /// The record of the source, if it changes.
    pub(super) source: Option<SourceRecord>,
}

impl Change {
    /// Checks that no producer seems to be running, unless it may be fenced.
    ///
    /// # Errors
    /// [`PositionChangeError::Running`].
    pub(super) fn check_stopped(
        &self,
        saved: &Checkpoint,
        now_ms: i64,
    ) -> Result<(), PositionChangeError> {
        let written = saved.place.and_then(|place| place.written_ms);
        let age = written.map(|written| now_ms.saturating_sub(written));
        match age {
            Some(age) if !self.accepted.fence && age < RECENT_MS => {
                Err(PositionChangeError::Running {
                    seconds: age.max(0) / 1000,
                })
            }
            _ => Ok(()),
        }
    }

    /// Returns what has to be saved; `None` if the position is saved already.
    ///
    /// # Errors
    /// [`PositionChangeError`] if the change is not accepted or not possible;
    /// [`crate::position_lost::PositionLost`] if the position or the state was lost in Kafka. A change
    /// would hide that.
    pub(super) fn decide(
        &self,
        saved: &Checkpoint,
        now_ms: i64,
    ) -> Result<Option<Decided>, ProducerError> {
        saved
            .check_kept(&self.prefix, &self.identity.name, None)
            .map_err(Box::new)?;
        let direction = match (saved.position, self.first) {
            (None, FirstPosition::Refused) => {
                return Err(PositionChangeError::NotSaved {
                    source_name: self.identity.name.clone(),
                    prefix: self.prefix.clone(),
                }
                .into());
            }
            (Some(saved), FirstPosition::Required) => {
                return Err(PositionChangeError::AlreadySaved {
                    source_name: self.identity.name.clone(),
                    saved,
                }
                .into());
            }
            (None, _) => Direction::First,
            (Some(saved), _) if saved == self.wanted => return Ok(None),
            (Some(saved), _) if is_after(self.wanted, saved) => Direction::Forward,
            (Some(_), _) => Direction::Back,
        };
        self.check_possible(saved)?;
        self.check_accepted(saved, direction)?;
        let source = self.source_record(saved, direction, now_ms);
        Ok(Some(Decided {
            direction,
            position: self.position_record(saved, direction),
            source: (saved.state.source.as_ref() != Some(&source)).then_some(source),
        }))
    }

    fn check_possible(&self, saved: &Checkpoint) -> Result<(), PositionChangeError> {
        let collections = saved.state.copies.len();
        if collections > 0 {
            return Err(PositionChangeError::FullSync { collections });
        }
        match saved.history.open {
            Some(open) => Err(PositionChangeError::OpenTransaction { open }),
            None => Ok(()),
        }
    }

    fn check_accepted(
        &self,
        saved: &Checkpoint,
        direction: Direction,
    ) -> Result<(), PositionChangeError> {
        let wanted = self.wanted;
        match (direction, saved.position) {
            (Direction::Forward, Some(saved)) if !self.accepted.gap => {
                Err(PositionChangeError::Gap { saved, wanted })
            }
            (Direction::Forward, _) => self.check_collections(saved),
            (Direction::Back, _) if !self.accepted.before_start => {
                if let Some(gap) = crossed(saved, wanted.ts) {
                    return Err(PositionChangeError::AcrossGap {
                        wanted,
                        after: gap.after.clone(),
                        through: gap.through.clone(),
                    });
                }
                let began = began(saved);
                match began {
                    Some(began) if began <= wanted.ts => Ok(()),
                    began => Err(PositionChangeError::BeforeStart { wanted, began }),
                }
            }
            _ => Ok(()),
        }
    }

    /// Checks that no collection has ended, because its end may be among the entries that are skipped.
    fn check_collections(&self, saved: &Checkpoint) -> Result<(), PositionChangeError> {
        let Some(collections) = &self.collections else {
            return Ok(());
        };
        let ended = collections.ended(&saved.state.routes);
        match ended.is_empty() {
            true => Ok(()),
            false => Err(PositionChangeError::CollectionsEnded { ended }),
        }
    }

    fn position_record(&self, saved: &Checkpoint, direction: Direction) -> PositionRecord {
        let next = self.wanted.ts.after();
        let begin = match direction {
            // A transaction that began in the gap may be incomplete, because its first entries may be
            // gone.
            Direction::Forward => Some(next),
            // A transaction that began after the position must not count as incomplete.
            Direction::First | Direction::Back => {
                saved.history.begin.filter(|begin| *begin <= next)
            }
        };
        let history = History { begin, open: None };
        PositionRecord {
            state: true,
            ..PositionRecord::new(self.wanted, saved.routing.unwrap_or(FIRST_ROUTING))
                .with_history(history)
        }
    }

    /// Returns the record of the source after the change.
    fn source_record(&self, saved: &Checkpoint, direction: Direction, now_ms: i64) -> SourceRecord {
        let wanted = self.wanted.ts;
        let mut source = saved.state.source.clone().unwrap_or_else(|| SourceRecord {
            began: Some(wanted.to_string()),
            ..self.identity.clone()
        });
        // A record without a beginning was written by an earlier version: it stays unknown.
        if began(saved).is_some_and(|began| wanted < began) {
            source.began = Some(wanted.to_string());
        }
        if direction == Direction::Back {
            source.moves += 1;
        }
        // The entries of a gap that are sent now follow later entries, so the gap stays recorded. A gap
        // that cannot be read stays as it is.
        let resent = |gap: GapRecord| gap.clone().resent(wanted).unwrap_or(gap);
        source.gaps = source.gaps.into_iter().map(resent).collect();
        if let (Direction::Forward, Some(position)) = (direction, saved.position) {
            add_gap(&mut source.gaps, done(position), wanted, now_ms);
        }
        source
    }
}

/// Adds a gap, or lengthens the last one if it ends where this one begins.
fn add_gap(gaps: &mut Vec<GapRecord>, after: Timestamp, through: Timestamp, now_ms: i64) {
    let gap = GapRecord::new(after, through, now_ms, GapReason::Operator);
    match gaps.last_mut() {
        Some(last)
            if last.reason == gap.reason
                && last.through == gap.after
                && last.resent_after.is_none() =>
        {
            last.through = gap.through;
        }
        _ => gaps.push(gap),
    }
    // Each move adds at most one gap. The two oldest gaps become one, which also covers what lies between
    // them.
    if gaps.len() > GAPS {
        let first = gaps.remove(0);
        if let Some(second) = gaps.first_mut() {
            *second = first.merged(second);
        }
    }
}

/// Returns the beginning of a stream, if it is saved.
fn began(saved: &Checkpoint) -> Option<Timestamp> {
    saved.state.source.as_ref()?.began.as_ref()?.parse().ok()
}

/// Returns a gap that ends after a position, if there is one.
fn crossed(saved: &Checkpoint, wanted: Timestamp) -> Option<&GapRecord> {
    let source = saved.state.source.as_ref()?;
    // A gap that cannot be read may end anywhere, so it counts as crossed.
    let mut gaps = source.gaps.iter();
    gaps.find(|gap| gap.is_crossed_by(wanted) != Ok(false))
}

/// Returns the timestamp up to which everything is sent at a position.
pub(super) const fn done(position: Position) -> Timestamp {
    match position.ord {
        0 => position.ts,
        _ => position.ts.before(),
    }
}

/// Returns true if entries lie between a saved position and a later new one, whose entry is complete.
pub(super) fn is_after(wanted: Position, saved: Position) -> bool {
    wanted.ts > saved.ts || (wanted.ts == saved.ts && saved.ord > 0)
}

#[cfg(test)]
mod tests;
