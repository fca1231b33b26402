//! Partitions in which the broker has the state of this producer.
//!
//! A broker accepts any sequence number if a partition has no state of the producer: in a new topic,
//! or after the producer sent nothing for the broker's `producer.id.expiration.ms` (a day). If the
//! first of two requests in flight then fails, because the leader is not available yet, and the
//! second succeeds, the client considers the first as delivered (librdkafka 2.12,
//! `rd_kafka_dr_implicit_ack`) and its records are lost silently. So the first record to such a
//! partition is sent alone: it is delivered before the next one is sent. From then on the broker
//! refuses a gap.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::encode::chunk::TopicIndex;

/// Time without records after which the broker may have expired the state of the producer. It is far
/// below the broker's default of a day; a value that is too low costs only one more wait for a
/// delivery.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// The state of one partition.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Start of the Kafka transaction in which it last got a record other than the first.
    since: Option<Instant>,
    /// Start of the Kafka transaction, and round, in which its first record was sent.
    first: Option<(Instant, u64)>,
}

/// All partitions of a producer.
#[derive(Debug, Default)]
pub(crate) struct KnownPartitions {
    partitions: FxHashMap<(TopicIndex, i32), Known>,
    /// Number of times that all records were delivered.
    round: u64,
}

impl KnownPartitions {
    /// Notes that everything that was sent is delivered.
    pub(crate) const fn delivered(&mut self) {
        self.round += 1;
    }

    /// Returns the number of partitions that got a record.
    pub(crate) fn partitions(&self) -> u64 {
        self.partitions.len() as u64
    }

    /// Returns true if no record has been sent to a partition yet.
    pub(crate) fn is_new(&self, topic: TopicIndex, partition: i32) -> bool {
        !self.partitions.contains_key(&(topic, partition))
    }

    /// Returns true if a record may be sent to a partition now, in the transaction that began at
    /// `began`; the record then counts as sent. If false, everything has to be delivered first.
    #[inline]
    pub(crate) fn admits(&mut self, topic: TopicIndex, partition: i32, began: Instant) -> bool {
        let known = self.partitions.entry((topic, partition)).or_default();
        known.since == Some(began) || known.admits(began, self.round)
    }
}

impl Known {
    /// Decides about the first record of a transaction, and about the second one of a new
    /// partition.
    #[cold]
    fn admits(&mut self, began: Instant, round: u64) -> bool {
        let is_fresh = |since: Instant| began.saturating_duration_since(since) < KNOWN_FOR;
        let first = self.first.filter(|(sent, _)| is_fresh(*sent));
        if self.since.is_some_and(is_fresh) || first.is_some_and(|(_, first)| first < round) {
            (self.since, self.first) = (Some(began), None);
            return true;
        }
        self.first = first.or(Some((began, round)));
        first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicIndex = TopicIndex(2);

    fn is_new_again(known: &mut KnownPartitions, later: Instant) {
        assert!(known.admits(TOPIC, 0, later), "the first one");
        assert!(!known.admits(TOPIC, 0, later), "not the second one");
        known.delivered();
        assert!(known.admits(TOPIC, 0, later));
    }

    #[test]
    fn the_first_record_is_sent_alone() {
        let mut known = KnownPartitions::default();
        let began = Instant::now();
        assert!(known.admits(TOPIC, 3, began));
        assert!(!known.admits(TOPIC, 3, began));
        assert!(
            !known.admits(TOPIC, 3, began),
            "a second query changes nothing"
        );
        assert!(known.admits(TOPIC, 0, began), "another partition");
        known.delivered();
        for _ in 0..3 {
            assert!(known.admits(TOPIC, 3, began));
            assert!(known.admits(TOPIC, 0, began));
        }
    }

    #[test]
    fn a_partition_without_recent_records_is_new_again() {
        let mut known = KnownPartitions::default();
        let began = Instant::now();
        assert!(known.admits(TOPIC, 0, began));
        known.delivered();
        assert!(known.admits(TOPIC, 0, began));
        let next = began + KNOWN_FOR / 2;
        assert!(known.admits(TOPIC, 0, next) && known.admits(TOPIC, 0, next));
        is_new_again(&mut known, next + KNOWN_FOR);
    }

    #[test]
    fn partition_that_got_one_record_long_ago_is_new_again() {
        let mut known = KnownPartitions::default();
        let began = Instant::now();
        assert!(known.admits(TOPIC, 0, began));
        known.delivered();
        is_new_again(&mut known, began + KNOWN_FOR);
    }

    #[test]
    fn first_record_of_an_earlier_transaction_is_delivered_by_its_commit() {
        let mut known = KnownPartitions::default();
        let began = Instant::now();
        assert!(known.admits(TOPIC, 0, began));
        known.delivered();
        let next = began + Duration::from_secs(1);
        assert!(known.admits(TOPIC, 0, next) && known.admits(TOPIC, 0, next));
    }
}
