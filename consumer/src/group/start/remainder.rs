//! Partitions that no longer have their first records, and how messages name them.

use std::fmt;

use crate::topic_partition::TopicPartition;

/// Maximum number of partitions that are named in a message.
const NAMED: usize = 8;

/// A partition that no longer has its first records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remainder {
    /// The topic and partition.
    pub name: TopicPartition,
    /// The first offset that still exists.
    pub low: i64,
    /// The source second of the first record that still exists; `None` if the partition has no
    /// records left, or none could be read in time.
    pub second: Option<i64>,
}

impl Remainder {
    /// Returns true if records at or after a source second may be missing; `None` stands for the
    /// beginning. A partition without records does not count for a given second.
    pub(crate) fn misses(&self, requested: Option<i64>) -> bool {
        match (requested, self.second) {
            (None, _) => true,
            // Earlier records of the same second may be among the removed ones.
            (Some(requested), Some(first)) => first >= requested,
            // The time of the removed records is not known.
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TopicPartition { topic, partition } = &self.name;
        write!(f, "topic {topic}, partition {partition} ")?;
        match self.second {
            Some(second) => write!(f, "begins at offset {}, {}", self.low, shown(second)),
            None => write!(f, "has no records left before offset {}", self.low),
        }
    }
}

/// Returns a source second in RFC 3339 format, for messages.
pub(super) fn shown(second: i64) -> String {
    let time = bson::DateTime::from_millis(second.saturating_mul(1000));
    time.try_to_rfc3339_string()
        .unwrap_or_else(|_| format!("{second}:0"))
}

/// Returns the first source second from which each of these partitions has all of its records.
pub(super) fn whole_since(remainders: &[Remainder]) -> i64 {
    let seconds = remainders.iter().filter_map(|remainder| remainder.second);
    seconds.max().map_or(0, |second| second + 1)
}

/// Returns the first partitions of a list and the number of the others, for messages.
pub(super) fn describe(missing: &[Remainder]) -> String {
    let named = missing.iter().take(NAMED);
    let mut places: Vec<String> = named.map(Remainder::to_string).collect();
    if missing.len() > NAMED {
        places.push(format!("and {} more partitions", missing.len() - NAMED));
    }
    places.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remainder(partition: i32, second: Option<i64>) -> Remainder {
        let topic = "cdc.shop.a".to_owned();
        Remainder {
            name: TopicPartition { topic, partition },
            low: 350,
            second,
        }
    }

    #[test]
    fn records_are_missing_up_to_the_second_of_the_first_remaining_record() {
        let left = remainder(0, Some(100));
        let table = [(None, true), (Some(99), true), (Some(100), true)];
        for (requested, missing) in table.into_iter().chain([(Some(101), false)]) {
            assert_eq!(left.misses(requested), missing, "{requested:?}");
        }
        let empty = remainder(1, None);
        assert!(empty.misses(None) && !empty.misses(Some(1)));
        assert_eq!(whole_since(&[left, remainder(2, Some(7)), empty]), 101);
        assert_eq!(whole_since(&[]), 0);
    }
}
