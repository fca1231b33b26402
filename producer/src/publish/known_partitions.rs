//! Partitions that know this producer.
//!
//! A broker takes any sequence number from a producer of which a partition knows nothing: in a new
//! topic, or where it was silent for the broker's `producer.id.expiration.ms` (a day). If then the
//! first of two requests under way fails, because the leader is not there yet, and the second
//! succeeds, the client takes the first for delivered (librdkafka 2.12, `rd_kafka_dr_implicit_ack`)
//! and its records are lost without a word. So the first record to such a partition goes alone: it
//! is delivered before the next one is sent. From then on the broker refuses a gap.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::encode::chunk::TopicIndex;

/// A partition that got nothing for that long may have forgotten the producer. Far below a broker's
/// default of a day, and cheap: it costs one delivery.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// What is known of one partition.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The Kafka transaction in which it last got a record beside the first.
    since: Option<Instant>,
    /// When its first record was sent, and in which round.
    first: Option<(Instant, u64)>,
}

/// All partitions of a producer.
#[derive(Debug, Default)]
pub(crate) struct KnownPartitions {
    partitions: FxHashMap<(TopicIndex, i32), Known>,
    /// Counts the moments when everything that was sent was delivered.
    round: u64,
}

impl KnownPartitions {
    /// Everything that was sent is delivered.
    pub(crate) const fn delivered(&mut self) {
        self.round += 1;
    }

    /// How many partitions got something.
    pub(crate) fn partitions(&self) -> u64 {
        self.partitions.len() as u64
    }

    /// Whether a partition got nothing yet.
    pub(crate) fn is_new(&self, topic: TopicIndex, partition: i32) -> bool {
        !self.partitions.contains_key(&(topic, partition))
    }

    /// Whether a record may be sent to a partition now, in the transaction that began then. If not,
    /// everything has to be delivered first. If so, it counts as sent.
    #[inline]
    pub(crate) fn admits(&mut self, topic: TopicIndex, partition: i32, began: Instant) -> bool {
        let known = self.partitions.entry((topic, partition)).or_default();
        known.since == Some(began) || known.admits(began, self.round)
    }
}

impl Known {
    /// The first record in a transaction, and the second one of all.
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

    fn is_new_again(known: &mut KnownPartitions, late: Instant) {
        assert!(known.admits(TOPIC, 0, late), "the first one");
        assert!(!known.admits(TOPIC, 0, late), "not the second one");
        known.delivered();
        assert!(known.admits(TOPIC, 0, late));
    }

    #[test]
    fn first_record_goes_alone() {
        let mut known = KnownPartitions::default();
        let began = Instant::now();
        assert!(known.admits(TOPIC, 3, began));
        assert!(!known.admits(TOPIC, 3, began));
        assert!(
            !known.admits(TOPIC, 3, began),
            "asking again changes nothing"
        );
        assert!(known.admits(TOPIC, 0, began), "another partition");
        known.delivered();
        for _ in 0..3 {
            assert!(known.admits(TOPIC, 3, began));
            assert!(known.admits(TOPIC, 0, began));
        }
    }

    #[test]
    fn partition_that_was_silent_is_new_again() {
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
