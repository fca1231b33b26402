//! Detects stalls: a member is stalled if it makes no progress although work is pending. A stalled
//! member is not ready, so that it does not appear healthy while it waits for something that may never
//! happen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::statistics::Statistics;

use super::assigned::Partition;
use crate::group::offsets::NextOffset;
use crate::topic_partition::TopicPartition;
use crate::worker::assignment::AssignmentNumber;

/// The state of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// No broker answers.
    Down,
    /// Brokers answer, but the member is not in the group: a rebalance is under way, or there is no
    /// coordinator.
    Outside,
    /// The client is a member of the group.
    Joined,
}

impl Connection {
    /// Reads the state from librdkafka's statistics.
    pub(super) fn of(statistics: &Statistics) -> Self {
        let is_up = statistics.brokers.values().any(|it| it.state == "UP");
        let group = statistics.cgrp.as_ref();
        let is_steady = group.is_none_or(|it| it.state == "up" && it.join_state == "steady");
        match (is_up, is_steady) {
            (false, _) => Self::Down,
            (true, false) => Self::Outside,
            (true, true) => Self::Joined,
        }
    }
}

/// The progress of a partition at the last check, and the time since which it has not changed
/// although work is pending.
#[derive(Debug, Clone, Copy)]
struct Place {
    handed: NextOffset,
    acknowledged: NextOffset,
    since: Instant,
}

/// A series of failed commits.
#[derive(Debug)]
struct FailingCommits {
    since: Instant,
    reason: String,
}

/// Detects stalls of the member by comparing its state with the state at the last check.
#[derive(Debug)]
pub(super) struct StallDetector {
    /// Time after which a stall is reported.
    limit: Duration,
    commits: Option<FailingCommits>,
    connection: Connection,
    /// Time at which the state of the connection last changed.
    connection_since: Instant,
    /// True once a partition was assigned to the member. Before that, it may be waiting for topics.
    was_assigned: bool,
    places: BTreeMap<AssignmentNumber, Place>,
    /// Time at which any partition last made progress. A partition that is not read may wait for memory
    /// that the others use.
    moved: Instant,
}

impl StallDetector {
    pub(super) const fn new(limit: Duration, now: Instant) -> Self {
        Self {
            limit,
            commits: None,
            connection: Connection::Joined,
            connection_since: now,
            was_assigned: false,
            places: BTreeMap::new(),
            moved: now,
        }
    }

    /// Records that a commit succeeded, or why it failed.
    pub(super) fn committed(&mut self, outcome: Result<(), String>, now: Instant) {
        let since = self.commits.take().map_or(now, |commits| commits.since);
        self.commits = outcome.err().map(|reason| FailingCommits { since, reason });
    }

    /// Checks for stalls, about once a second. Returns the reason for a stall that has lasted too
    /// long.
    pub(super) fn check(
        &mut self,
        connection: Connection,
        partitions: &[Partition],
        now: Instant,
    ) -> Option<String> {
        self.note(connection, partitions, now);
        if let Some(reason) = self.disconnected(now) {
            return Some(reason);
        }
        if let Some(reason) = self.uncommitted(partitions, now) {
            return Some(reason);
        }
        let stalled = partitions.iter().filter_map(|partition| {
            let place = self.places.get(&partition.assignment)?;
            let reason = self.reason(partition, *place, now)?;
            Some((place.since, partition, reason))
        });
        let (since, partition, reason) = stalled.min_by_key(|(since, _, _)| *since)?;
        let TopicPartition {
            topic,
            partition: number,
        } = &partition.name;
        let next = partition.tracker.acknowledged();
        let seconds = now.saturating_duration_since(since).as_secs();
        Some(format!(
            "topic {topic}, partition {number}, offset {next}: {reason} for {seconds} s"
        ))
    }

    fn note(&mut self, connection: Connection, partitions: &[Partition], now: Instant) {
        if connection != self.connection {
            (self.connection, self.connection_since) = (connection, now);
        }
        let before = std::mem::take(&mut self.places);
        for partition in partitions {
            let mut place = Place {
                handed: partition.tracker.handed(),
                acknowledged: partition.tracker.acknowledged(),
                since: now,
            };
            if let Some(seen) = before.get(&partition.assignment) {
                let has_moved =
                    (seen.handed, seen.acknowledged) != (place.handed, place.acknowledged);
                if has_moved {
                    self.moved = now;
                } else if is_behind(partition) {
                    place.since = seen.since;
                }
            }
            self.places.insert(partition.assignment, place);
        }
        self.was_assigned |= !self.places.is_empty();
    }

    fn disconnected(&self, now: Instant) -> Option<String> {
        let elapsed = now.saturating_duration_since(self.connection_since);
        let what = match self.connection {
            Connection::Outside if !self.was_assigned => return None,
            Connection::Joined => return None,
            Connection::Down => "no Kafka broker has answered",
            Connection::Outside => {
                "this member has been outside the group (rebalance in progress, or no coordinator)"
            }
        };
        (elapsed >= self.limit).then(|| format!("{what} for {} s", elapsed.as_secs()))
    }

    fn uncommitted(&self, partitions: &[Partition], now: Instant) -> Option<String> {
        let FailingCommits { since, reason } = self.commits.as_ref()?;
        let seconds = now.saturating_duration_since(*since).as_secs();
        // The partitions whose commit failed may now be assigned to another member.
        let is_needed = partitions
            .iter()
            .any(|partition| partition.tracker.to_commit(None).is_some());
        (is_needed && seconds >= self.limit.as_secs()).then(|| {
            format!(
                "Kafka has accepted no offset commit for {seconds} s ({reason}): entries applied in \
                 this time will be applied again after a restart"
            )
        })
    }

    fn reason(&self, partition: &Partition, place: Place, now: Instant) -> Option<&'static str> {
        let is_long = |since: Instant| now.saturating_duration_since(since) >= self.limit;
        if !is_long(place.since) || !is_behind(partition) {
            return None;
        }
        if partition.holding {
            return Some("waiting at a barrier for the other partitions or for its command");
        }
        if partition.handed_bytes > 0 {
            return Some("applying the same records");
        }
        is_long(self.moved).then_some("more records exist, but none have been read")
    }
}

/// Returns true if a partition has work to do.
fn is_behind(partition: &Partition) -> bool {
    let tracker = &partition.tracker;
    // The end offset lies after the marker of the last transaction. It is committed once everything
    // before it is read and applied.
    let handed = tracker.handed();
    let reached = tracker.committed().map_or(handed, |it| it.max(handed));
    let has_more = partition.end.is_some_and(|end| end > reached.get());
    !tracker.is_idle() || has_more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::offsets::OffsetTracker;
    use crate::worker::assignment::Token;
    use tokio::sync::mpsc;

    const MINUTE: Duration = Duration::from_secs(60);

    fn partition(assignment: AssignmentNumber) -> Partition {
        let name = TopicPartition {
            topic: "cdc.a.b".to_owned(),
            partition: i32::try_from(assignment).unwrap(),
        };
        let tracker = OffsetTracker::new(NextOffset::at(0), None);
        let (sender, _) = mpsc::channel(1);
        Partition::new(name, assignment, Token::default(), tracker, sender)
    }

    /// Returns the reason that is reported this many seconds after the first check.
    fn after(seconds: u64, connection: Connection, partitions: &[Partition]) -> Option<String> {
        let begin = Instant::now();
        let mut detector = StallDetector::new(MINUTE, begin);
        assert_eq!(detector.check(connection, partitions, begin), None);
        let now = begin + Duration::from_secs(seconds);
        detector.check(connection, partitions, now)
    }

    #[test]
    fn a_stall_at_a_barrier_in_a_worker_or_in_reading_is_reported_after_a_minute() {
        let mut holding = partition(1);
        holding.holding = true;
        holding.tracker.hand(4);
        let mut applying = partition(1);
        applying.handed_bytes = 100;
        applying.tracker.hand(4);
        let mut unread = partition(1);
        unread.end = Some(9);
        for (partition, expected) in [
            (holding, "waiting at a barrier"),
            (applying, "applying the same records for 61 s"),
            (unread, "none have been read"),
        ] {
            let all = [partition];
            assert_eq!(after(59, Connection::Joined, &all), None, "{expected}");
            let reason = after(61, Connection::Joined, &all).unwrap();
            assert!(reason.contains(expected), "{reason}");
            assert!(reason.starts_with("topic cdc.a.b, partition 1"), "{reason}");
        }
        let mut idle = partition(1);
        idle.end = Some(0);
        let mut at_marker = partition(1);
        at_marker.tracker.hand(4);
        at_marker.tracker.acknowledge(NextOffset::after(4), None);
        at_marker.end = Some(6);
        at_marker.tracker.commit_confirmed(NextOffset::at(6));
        assert_eq!(after(600, Connection::Joined, &[idle, at_marker]), None);
    }

    #[test]
    fn an_unread_partition_is_reported_only_when_no_partition_makes_progress() {
        let begin = Instant::now();
        let mut detector = StallDetector::new(MINUTE, begin);
        let mut all = [partition(1), partition(2)];
        all[0].end = Some(9);
        for second in 0..100 {
            all[1].tracker.hand(second);
            all[1].tracker.acknowledge(NextOffset::after(second), None);
            let now = begin + Duration::from_secs(u64::try_from(second).unwrap());
            assert_eq!(detector.check(Connection::Joined, &all, now), None);
        }
        let now = begin + Duration::from_secs(200);
        let reason = detector.check(Connection::Joined, &all, now);
        assert!(reason.unwrap().contains("none have been read"));
    }

    #[test]
    fn commits_that_keep_failing_are_reported_while_there_is_something_to_commit() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let check = |detector: &mut StallDetector, all: &[Partition], seconds| {
            detector.check(Connection::Joined, all, at(seconds))
        };
        let refused = || Err("NotCoordinator".to_owned());
        let mut detector = StallDetector::new(MINUTE, begin);
        let mut all = [partition(1)];
        all[0].tracker.hand(4);
        all[0].tracker.acknowledge(NextOffset::after(4), None);
        detector.committed(refused(), at(0));
        detector.committed(refused(), at(59));
        assert_eq!(check(&mut detector, &all, 59), None);
        let reason = check(&mut detector, &all, 61).unwrap();
        assert!(reason.contains("for 61 s (NotCoordinator)"), "{reason}");
        // Another member owns the partition now.
        let mut other = [partition(2)];
        other[0].tracker.commit_confirmed(NextOffset::at(0));
        assert_eq!(check(&mut detector, &other, 62), None);
        detector.committed(Ok(()), at(63));
        detector.committed(refused(), at(64));
        assert_eq!(check(&mut detector, &all, 70), None);
    }

    #[test]
    fn a_lost_connection_is_reported_after_a_minute() {
        let idle = || [partition(1)];
        for (connection, expected) in [
            (Connection::Down, "no Kafka broker"),
            (Connection::Outside, "outside the group"),
        ] {
            assert_eq!(after(59, connection, &idle()), None);
            let reason = after(61, connection, &idle()).unwrap();
            assert!(reason.contains(expected), "{reason}");
        }
        assert_eq!(after(600, Connection::Joined, &idle()), None);
        // The topics may not exist yet.
        assert_eq!(after(600, Connection::Outside, &[]), None);
    }
}
