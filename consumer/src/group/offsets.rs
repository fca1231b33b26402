//! The offsets of a partition that may be committed. This module does no I/O.
//!
//! Records are put into chunks for a worker in order and are acknowledged in order, so the state is
//! three offsets and the last acknowledged entry. The offsets are the next to put into a chunk, the
//! next to be acknowledged, and the committed one. A chunk that waits for room in the worker's
//! queue counts as handed to the worker. Control records and aborted records may lie between the
//! last record and the end of a partition, and no chunk contains them. When nothing is pending, the
//! consumer's position is therefore committed, so that the lag reaches 0.

use oplog_relay_core::position::{EntryId, Timestamp};
use serde::{Deserialize, Serialize};

/// The offset of the next record to read, as in Kafka. Only this kind of offset can be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextOffset(i64);

impl NextOffset {
    /// Returns the offset after a record.
    #[must_use]
    pub const fn after(offset: i64) -> Self {
        Self(offset + 1)
    }

    /// Wraps a consumer's position, a committed offset or a partition's end, each of which is the
    /// offset of the next record to read.
    #[must_use]
    pub const fn at(next: i64) -> Self {
        Self(next)
    }

    /// Returns the number, as Kafka uses it.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl std::fmt::Display for NextOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The metadata of every commit by this program: the entry that was applied last. It is never empty, so
/// that a commit by Kafka's own tools, whose metadata is empty, is recognized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitMetadata {
    v: u32,
    ts: String,
    ord: u32,
}

const METADATA_VERSION: u32 = 1;

impl CommitMetadata {
    /// Returns the metadata for an entry; without an entry, the metadata of time zero.
    #[must_use]
    pub fn text(id: Option<EntryId>) -> String {
        let id = id.unwrap_or(EntryId {
            ts: Timestamp::default(),
            ord: 0,
        });
        // Digits and a colon need no escape.
        format!(
            r#"{{"v":{METADATA_VERSION},"ts":"{}","ord":{}}}"#,
            id.ts, id.ord
        )
    }

    /// Returns who committed, and the entry that was applied last.
    #[must_use]
    pub fn read(text: &str) -> Committer {
        if text.is_empty() {
            return Committer::Other;
        }
        let Ok(metadata) = serde_json::from_str::<Self>(text) else {
            return Committer::Other;
        };
        match metadata.ts.parse() {
            Ok(ts) if ts > Timestamp::default() => Committer::ThisProgram(Some(EntryId {
                ts,
                ord: metadata.ord,
            })),
            _ => Committer::ThisProgram(None),
        }
    }
}

/// The program that committed an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committer {
    /// This program, after it applied this entry; `None` if it had not applied any.
    ThisProgram(Option<EntryId>),
    /// Another program. Kafka's own reset tool leaves the metadata empty.
    Other,
}

/// The offsets of one partition from its assignment to its revocation.
#[derive(Debug, Clone)]
pub struct OffsetTracker {
    /// The offset before which everything was put into chunks for the worker.
    handed: NextOffset,
    /// The offset before which everything was acknowledged.
    acknowledged: NextOffset,
    /// The offset that Kafka last confirmed; `None` until the first commit of this assignment.
    committed: Option<NextOffset>,
    /// The entry that was acknowledged last.
    last: Option<EntryId>,
}

impl OffsetTracker {
    /// Tracks a partition that is read from `start`. The start offset itself is committed first, so that
    /// workers that wait for this partition know its position.
    #[must_use]
    pub const fn new(start: NextOffset, last: Option<EntryId>) -> Self {
        Self {
            handed: start,
            acknowledged: start,
            committed: None,
            last,
        }
    }

    /// Notes that a record was put into a chunk for the worker.
    pub fn hand(&mut self, offset: i64) {
        self.handed = self.handed.max(NextOffset::after(offset));
    }

    /// Returns the offset before which everything was put into chunks for the worker.
    #[must_use]
    pub const fn handed(&self) -> NextOffset {
        self.handed
    }

    /// Returns true if a record has not been put into a chunk for the worker yet.
    #[must_use]
    pub fn expects(&self, offset: i64) -> bool {
        NextOffset::at(offset) >= self.handed
    }

    /// Records that the records from `next` on were discarded and will be read again.
    pub fn take_back(&mut self, next: NextOffset) {
        self.handed = self.handed.min(next).max(self.acknowledged);
    }

    /// Records that the worker has applied everything before `next`. `last` is the last applied
    /// entry.
    pub fn acknowledge(&mut self, next: NextOffset, last: Option<EntryId>) {
        self.acknowledged = self.acknowledged.max(next.min(self.handed));
        if last.is_some() {
            self.last = last;
        }
    }

    /// Returns true if every record that was put into a chunk for the worker is acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.acknowledged >= self.handed
    }

    /// Returns the offset to commit now, if Kafka does not have it yet. `position` is the
    /// consumer's position.
    #[must_use]
    pub fn to_commit(&self, position: Option<NextOffset>) -> Option<NextOffset> {
        let next = match position {
            Some(position) if self.is_idle() => self.acknowledged.max(position),
            _ => self.acknowledged,
        };
        (self.committed.is_none_or(|committed| committed < next)).then_some(next)
    }

    /// Records that Kafka confirmed a commit.
    pub fn commit_confirmed(&mut self, next: NextOffset) {
        self.committed = Some(self.committed.map_or(next, |committed| committed.max(next)));
    }

    /// Returns the offset that Kafka last confirmed.
    #[must_use]
    pub const fn committed(&self) -> Option<NextOffset> {
        self.committed
    }

    /// Returns the offset before which everything was acknowledged.
    #[must_use]
    pub const fn acknowledged(&self) -> NextOffset {
        self.acknowledged
    }

    /// Returns the metadata for [`OffsetTracker::to_commit`].
    #[must_use]
    pub fn metadata(&self) -> String {
        CommitMetadata::text(self.last)
    }

    /// Returns the entry that was acknowledged last, in this assignment or an earlier one.
    #[must_use]
    pub const fn last(&self) -> Option<EntryId> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metadata_has_a_fixed_form_and_identifies_the_committer() {
        let id = EntryId {
            ts: Timestamp::new(1_700_000_000, 7),
            ord: 2,
        };
        let text = CommitMetadata::text(Some(id));
        assert_eq!(text, r#"{"v":1,"ts":"1700000000:7","ord":2}"#);
        assert_eq!(
            CommitMetadata::read(&text),
            Committer::ThisProgram(Some(id))
        );
        assert_eq!(CommitMetadata::text(None), r#"{"v":1,"ts":"0:0","ord":0}"#);
        assert_eq!(
            CommitMetadata::read(&CommitMetadata::text(None)),
            Committer::ThisProgram(None)
        );
        for other in ["", "x", "{}"] {
            assert_eq!(CommitMetadata::read(other), Committer::Other);
        }
    }

    #[test]
    fn the_start_is_committed_first() {
        let mut tracker = OffsetTracker::new(NextOffset::at(7), None);
        assert_eq!(tracker.to_commit(None), Some(NextOffset::at(7)));
        tracker.commit_confirmed(NextOffset::at(7));
        assert_eq!(tracker.to_commit(None), None);
    }

    #[test]
    fn the_position_counts_only_when_nothing_is_pending() {
        let mut tracker = OffsetTracker::new(NextOffset::at(0), None);
        tracker.commit_confirmed(NextOffset::at(0));
        tracker.hand(0);
        tracker.hand(1);
        assert_eq!(tracker.to_commit(Some(NextOffset::at(3))), None);
        tracker.acknowledge(NextOffset::after(0), None);
        assert_eq!(
            tracker.to_commit(Some(NextOffset::at(3))),
            Some(NextOffset::at(1))
        );
        tracker.acknowledge(NextOffset::after(1), None);
        assert_eq!(
            tracker.to_commit(Some(NextOffset::at(3))),
            Some(NextOffset::at(3))
        );
    }

    /// An event of a partition.
    #[derive(Debug, Clone)]
    enum Event {
        Record,
        Control,
        Acknowledge(usize),
        Commit,
        Position,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => Just(Event::Record),
            1 => Just(Event::Control),
            3 => (0_usize..4).prop_map(Event::Acknowledge),
            1 => Just(Event::Commit),
            2 => Just(Event::Position),
        ];
        proptest::collection::vec(event, 0..80)
    }

    /// Returns the index of the first record of a log that is not acknowledged, or the end of the
    /// log. `Some(acknowledged)` is a record, `None` a control record.
    fn naive(log: &[Option<bool>]) -> usize {
        log.iter()
            .position(|slot| *slot == Some(false))
            .unwrap_or(log.len())
    }

    proptest! {
        /// Commits never pass a record that is not acknowledged, and reach the end if nothing is
        /// pending.
        #[test]
        fn commits_agree_with_a_list_of_records(start in 0_i64..5, events in events()) {
            let mut tracker = OffsetTracker::new(NextOffset::at(start), None);
            let mut log: Vec<Option<bool>> = Vec::new();
            let mut committed = None;
            let at = |index: usize| NextOffset::at(start + i64::try_from(index).unwrap());
            for event in events {
                match event {
                    Event::Record => {
                        tracker.hand(at(log.len()).get());
                        log.push(Some(false));
                    }
                    Event::Control => log.push(None),
                    Event::Acknowledge(count) => for _ in 0..count {
                        let Some(index) = log.iter().position(|slot| *slot == Some(false)) else { break };
                        log[index] = Some(true);
                        tracker.acknowledge(NextOffset::after(at(index).get()), None);
                    },
                    Event::Position | Event::Commit => {
                        let commit = tracker.to_commit(Some(at(log.len())));
                        let safe = at(naive(&log));
                        let next = commit.or(committed).unwrap();
                        prop_assert!(next <= safe);
                        if !log.contains(&Some(false)) {
                            prop_assert_eq!(next, safe);
                        }
                        // Only control records are between the commit and the safe offset.
                        let behind = usize::try_from(next.get() - start).unwrap();
                        prop_assert!(log[behind..naive(&log)].iter().all(Option::is_none));
                        if let (Event::Commit, Some(next)) = (event, commit) {
                            prop_assert!(committed.is_none_or(|before| before < next));
                            tracker.commit_confirmed(next);
                            committed = Some(next);
                        }
                    }
                }
            }
        }
    }
}
