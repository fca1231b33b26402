//! Raw frames that are being filled: one for each partition of each topic.
//!
//! A frame keeps its buffer when it is closed, because most partitions are written to repeatedly.
//! The total size of the buffers is bounded: beyond [`KEPT_BYTES`], a buffer is kept only if the
//! chunk that was just completed has filled half of it. Otherwise each partition, including those
//! of dropped collections, would retain the size of its largest frame.

use oplog_relay_core::document::Document;
use oplog_relay_core::format::raw::{DOCUMENT_HEADER_BYTES, Frame, HEADER_BYTES};
use oplog_relay_core::position::EntryId;

use super::FRAMES_BYTES;
use crate::encode::chunk::{Chunk, Destination, EncodedRecord, TopicIndex};
use crate::encode::record::{Written, write_frame};
use crate::publish::RECORD_OVERHEAD;

/// Upper bound of the bytes of a frame's record header without the name of the source: the name of
/// the header, two entry ids and a count.
const FRAME_HEADER: usize = 128;

/// Number of bytes of buffers that closed frames always keep: as many as the largest chunk of frames
/// needs, because buffers grow by doubling.
const KEPT_BYTES: usize = 2 * FRAMES_BYTES;

/// The frames of all topics.
#[derive(Debug)]
pub(crate) struct Frames {
    source: String,
    /// Frames by the index of their topic.
    topics: Vec<TopicFrames>,
    /// Number of bytes of all entries in open frames.
    bytes: usize,
    /// Number of bytes of the buffers of all frames when they were last closed.
    kept: usize,
}

/// The frames of one topic, by partition.
#[derive(Debug)]
struct TopicFrames {
    /// The largest frame that the topic accepts, in bytes. A frame of a single entry may be larger.
    most_bytes: usize,
    partitions: Vec<Frame>,
}

/// An entry to be added to a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramedEntry<'e> {
    pub(crate) id: EntryId,
    pub(crate) entry: Document<'e>,
    /// True if it was built from an operation of a transaction, or by the producer.
    pub(crate) built: bool,
}

impl Frames {
    pub(crate) fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            topics: Vec::new(),
            bytes: 0,
            kept: 0,
        }
    }

    /// Adds the topic with the next index. `max_bytes` is the largest record batch that it accepts.
    pub(crate) fn add_topic(&mut self, partitions: u32, max_bytes: usize) {
        let beside = self.source.len() + FRAME_HEADER + RECORD_OVERHEAD;
        self.topics.push(TopicFrames {
            most_bytes: max_bytes.saturating_sub(beside),
            partitions: (0..partitions).map(|_| Frame::default()).collect(),
        });
    }

    /// Returns the number of bytes of all entries in open frames.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry to the frame of its partition. A frame that would become larger than its topic
    /// accepts is closed first.
    pub(crate) fn add(
        &mut self,
        framed: FramedEntry<'_>,
        to: Destination,
        timestamp: i64,
        chunk: &mut Chunk,
    ) {
        let frames = (self.topics.get_mut(to.topic.0)).expect("the topic was added with its index");
        let index = usize::try_from(to.partition).expect("a partition is not negative");
        let frame = (frames.partitions.get_mut(index)).expect("the topic has the partition");
        let bytes = DOCUMENT_HEADER_BYTES + framed.entry.as_bytes().len();
        if !frame.is_empty() && frame.len() + bytes > frames.most_bytes {
            self.bytes = self.bytes.saturating_sub(frame.len() - HEADER_BYTES);
            close_frame(frame, &self.source, to, timestamp, chunk);
        }
        frame.push(framed.id, framed.entry, framed.built);
        self.bytes += bytes;
    }

    /// Closes all open frames.
    pub(crate) fn close(&mut self, timestamp: i64, chunk: &mut Chunk) {
        let keeps_too_much = self.kept > KEPT_BYTES;
        self.kept = 0;
        for (topic, frames) in self.topics.iter_mut().enumerate() {
            for (partition, frame) in (0..).zip(&mut frames.partitions) {
                let filled = frame.len();
                if filled > 0 {
                    let to = Destination {
                        topic: TopicIndex(topic),
                        partition,
                    };
                    close_frame(frame, &self.source, to, timestamp, chunk);
                }
                if keeps_too_much && frame.capacity() / 2 > filled {
                    *frame = Frame::default();
                }
                self.kept += frame.capacity();
            }
        }
        self.bytes = 0;
    }

    /// Returns the number of bytes of the buffers of all frames.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        let frames = self.topics.iter().flat_map(|topic| &topic.partitions);
        frames.map(Frame::capacity).sum()
    }
}

fn close_frame(
    frame: &mut Frame,
    source: &str,
    to: Destination,
    timestamp: i64,
    chunk: &mut Chunk,
) {
    let Written { header, value } = write_frame(frame, source, &mut chunk.arena);
    chunk.records.push(EncodedRecord {
        topic: to.topic,
        partition: to.partition,
        timestamp,
        key: None,
        header,
        router_headers: 0..0,
        value,
    });
}
