//! Commands and their barriers, which contain offsets.
//!
//! A barrier contains the offset of the leader barrier, which the command directly follows, and the
//! command contains the offsets of all barriers. This producer is the only writer of its topics, so
//! these offsets are known before the records are sent: the end offset of each partition is read
//! once in a Kafka transaction, and from then on every record is counted. A topic that this session
//! has created starts empty. Before the transaction is committed, the end offsets are read again;
//! if one of them differs from the count, the transaction is aborted.
//!
//! The first read has to wait until the previous transaction is complete. A broker answers a commit
//! before it has written the markers that end the transaction in each partition, and a marker takes an
//! offset. It does not accept a record of the next transaction before all markers are written, so a
//! delivered record proves that they are: the encoder puts a record ahead of each barrier.

use rustc_hash::FxHashMap;

use super::{Publisher, unknown_topic};
use crate::encode::barrier::{BarrierRequest, BarrierTopic};
use crate::encode::chunk::{Chunk, TopicIndex};
use crate::error::ProducerError;
use crate::publish::log_end_offsets::PartitionedTopic;

/// The offsets of the next records in the open transaction, by topic and partition. It contains only
/// topics that had a barrier in this transaction.
#[derive(Debug, Default)]
pub(crate) struct NextOffsets(FxHashMap<TopicIndex, Vec<i64>>);

impl NextOffsets {
    /// Discards the offsets, because another transaction begins.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a record that is sent.
    #[inline]
    pub(crate) fn count(&mut self, topic: TopicIndex, partition: i32) {
        if !self.0.is_empty() {
            self.count_known(topic, partition);
        }
    }

    fn count_known(&mut self, topic: TopicIndex, partition: i32) {
        let offsets = self.0.get_mut(&topic);
        let partition = usize::try_from(partition).expect("a partition is not negative");
        if let Some(next) = offsets.and_then(|offsets| offsets.get_mut(partition)) {
            *next += 1;
        }
    }

    fn of(&self, topic: TopicIndex) -> Vec<i64> {
        self.0.get(&topic).cloned().unwrap_or_default()
    }
}

impl Publisher {
    /// Sends a command with its barriers.
    pub(crate) fn send_barrier(
        &mut self,
        request: &BarrierRequest,
        entry: &[u8],
    ) -> Result<(), ProducerError> {
        self.read_missing(request)?;
        let mut names = Vec::with_capacity(request.topics.len());
        for BarrierTopic { topic, .. } in &request.topics {
            names.push(self.topic_name(*topic)?.to_owned());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let topics = request.topics.iter();
        let offsets: Vec<Vec<i64>> = topics.map(|at| self.next_offsets.of(at.topic)).collect();
        let mut records = Chunk::default();
        request.write(entry, &self.source, &names, &offsets, &mut records)?;
        self.send_records(&records)
    }

    /// Reads the end offsets of the topics that have no barrier in this transaction yet. The end
    /// offsets of a topic that this session has created, and to which it has sent nothing, are 0
    /// and need no request.
    fn read_missing(&mut self, request: &BarrierRequest) -> Result<(), ProducerError> {
        let mut missing = Vec::new();
        for BarrierTopic {
            topic, partitions, ..
        } in &request.topics
        {
            if self.next_offsets.0.contains_key(topic) {
                continue;
            }
            if self.is_untouched(*topic, *partitions)? {
                let none =
                    usize::try_from(*partitions).expect("a number of 32 bits fits into usize");
                self.next_offsets.0.insert(*topic, vec![0; none]);
            } else {
                missing.push((*topic, *partitions));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if self.sent.records == 0 {
            return Err(ProducerError::Ended("no record precedes a barrier"));
        }
        // A delivered record proves that the previous transaction is complete (see the module).
        self.drain()?;
        let mut named = Vec::with_capacity(missing.len());
        for (topic, partitions) in &missing {
            named.push(PartitionedTopic {
                name: self.topic_name(*topic)?.to_owned(),
                partitions: *partitions,
            });
        }
        let ends = self.ends.read(&named)?;
        let topics = missing.into_iter().map(|(topic, _)| topic);
        self.next_offsets.0.extend(topics.zip(ends));
        Ok(())
    }

    fn is_untouched(&self, topic: TopicIndex, partitions: u32) -> Result<bool, ProducerError> {
        let found = self.topics.get(topic.0);
        let existed = found.ok_or_else(unknown_topic)?.existed;
        let mut partitions = 0..i32::try_from(partitions).unwrap_or(i32::MAX);
        Ok(!existed && partitions.all(|partition| self.known.is_new(topic, partition)))
    }

    /// Compares the end offsets of all partitions that had barriers in this transaction with the
    /// counted offsets.
    /// All records must have been delivered before the call.
    pub(crate) fn check_barriers(&mut self) -> Result<(), ProducerError> {
        if self.next_offsets.0.is_empty() {
            return Ok(());
        }
        let mut named = Vec::with_capacity(self.next_offsets.0.len());
        let mut expected = Vec::with_capacity(named.capacity());
        for (topic, offsets) in &self.next_offsets.0 {
            let partitions = u32::try_from(offsets.len()).unwrap_or(u32::MAX);
            named.push(PartitionedTopic {
                name: self.topic_name(*topic)?.to_owned(),
                partitions,
            });
            expected.push(offsets);
        }
        let found = self.ends.read(&named)?;
        check_offsets(&named, &expected, &found)
    }

    fn topic_name(&self, topic: TopicIndex) -> Result<&str, ProducerError> {
        let found = self.topics.get(topic.0);
        let topic = found.ok_or_else(unknown_topic)?;
        Ok(&topic.name)
    }
}

/// Fails if a partition does not end at the counted offset.
fn check_offsets(
    topics: &[PartitionedTopic],
    expected: &[&Vec<i64>],
    found: &[Vec<i64>],
) -> Result<(), ProducerError> {
    for (topic, (expected, found)) in topics.iter().zip(expected.iter().zip(found)) {
        let name = &topic.name;
        for (partition, (expected, found)) in expected.iter().zip(found).enumerate() {
            if expected != found {
                return Err(ProducerError::kafka(
                    format!("sending a command with its barriers to {name}[{partition}]"),
                    format!(
                        "the partition ends at {found}, but the records of this producer end at \
                         {expected}: another program writes to this topic. Only one oplog-producer \
                         may write to it"
                    ),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_topics_with_barriers_are_counted() {
        let (with, without) = (TopicIndex(1), TopicIndex(2));
        let mut next = NextOffsets::default();
        next.count(with, 0);
        next.0.insert(with, vec![7, 9]);
        for (topic, partition) in [(with, 1), (with, 1), (without, 0), (with, 5)] {
            next.count(topic, partition);
        }
        assert_eq!(next.of(with), [7, 11]);
        assert!(next.of(without).is_empty());
        next.clear();
        assert!(next.of(with).is_empty());
    }

    #[test]
    fn another_writer_is_detected() {
        let topics = [PartitionedTopic {
            name: "cdc.a.b".to_owned(),
            partitions: 2,
        }];
        let check = |found| check_offsets(&topics, &[&vec![7, 11]], &[found]);
        assert!(check(vec![7, 11]).is_ok());
        let error = check(vec![7, 12]).err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(
            error.contains("cdc.a.b[1]") && error.contains("ends at 12"),
            "{error}"
        );
    }
}
