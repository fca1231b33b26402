//! The progress of publishing a source: the position reached, and the saved one.

use oplog_relay_core::position::Position;
use oplog_relay_core::state::PositionRecord;

use crate::encode::FIRST_ROUTING;
use crate::encode::chunk::{Chunk, Reached};

/// The positions at the start of a session.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeginsAt {
    /// The saved position.
    pub saved: Option<Position>,
    /// A position to save even if no entry follows it.
    pub unsaved: Option<Position>,
}

/// The position that the sent chunks reach, and the position that the last commit saved.
#[derive(Debug)]
pub(super) struct Progress {
    saved: Option<Position>,
    /// The position that the next commit saves; `None` if the saved one is up to date.
    unsaved: Option<Position>,
    /// The position that the sent chunks reach, with everything that is saved with it.
    reached: Reached,
    /// The version that the routing table must have before the stream is done.
    wanted_routing: u32,
    /// True if the state topic or the open transaction contains the source's record.
    has_state: bool,
}

impl Progress {
    pub(super) fn new(begins_at: BeginsAt) -> Self {
        Self {
            saved: begins_at.saved,
            unsaved: begins_at.unsaved,
            reached: Reached {
                routing: FIRST_ROUTING,
                ..Reached::default()
            },
            wanted_routing: FIRST_ROUTING,
            has_state: false,
        }
    }

    /// Sets the saved version of the routing table, and the wanted one.
    pub(super) fn set_routing(&mut self, saved: u32, wanted: u32) {
        self.reached.routing = saved;
        self.wanted_routing = wanted;
    }

    /// Sets whether the state topic already contains the source's record.
    pub(super) const fn set_has_state(&mut self, has_state: bool) {
        self.has_state = has_state;
    }

    /// Advances to the end of a chunk that was sent.
    pub(super) fn take(&mut self, chunk: &Chunk) {
        // The first new topic is the state topic, and its first record is the source's record.
        self.has_state |= !chunk.new_topics.is_empty();
        let reached = &chunk.reached;
        // A full sync and a change of the routing send records without advancing the position.
        let moved = reached.position != self.unsaved.or(self.saved)
            || reached.routing != self.reached.routing
            || (reached.resume != self.reached.resume && reached.resume.is_some())
            || !chunk.is_without_records();
        if reached.position.is_none() || !moved {
            return;
        }
        self.unsaved = reached.position;
        let wall = if reached.wall > 0 {
            reached.wall
        } else {
            self.reached.wall
        };
        self.reached = Reached {
            wall,
            ..reached.clone()
        };
    }

    /// Returns the position that the next commit saves.
    pub(super) const fn unsaved(&self) -> Option<Position> {
        self.unsaved
    }

    /// Returns the saved position.
    pub(super) const fn saved(&self) -> Option<Position> {
        self.saved
    }

    /// Returns the source's wall clock at the position, in milliseconds since 1970; 0 if unknown.
    pub(super) const fn wall(&self) -> i64 {
        self.reached.wall
    }

    /// Returns true if the routing table has the wanted version.
    pub(super) const fn has_routing(&self) -> bool {
        self.reached.routing >= self.wanted_routing
    }

    /// Notes that the position was committed.
    pub(super) const fn committed(&mut self, position: Position) {
        self.saved = Some(position);
        self.unsaved = None;
    }

    /// Returns the record that saves a position.
    pub(super) fn record(&self, position: Position) -> PositionRecord {
        PositionRecord {
            reads: self.reached.reads,
            state: self.has_state,
            resume: self.reached.resume.as_deref().cloned(),
            ..PositionRecord::new(position, self.reached.routing).with_history(self.reached.history)
        }
    }
}
