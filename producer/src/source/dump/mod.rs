//! Reads a dump of an oplog: `oplog.bson` or `.bson.gz` as mongodump writes it, a folder of such
//! segments, or standard input.
//!
//! A dump is read once, from its start. If transactions may be open among the entries before the start,
//! these entries are sent separately: the encoder stores the parts of those transactions.
//!
//! | file | contents |
//! | --- | --- |
//! | `segment` | one file: plain or gzip, its documents |
//! | `merge` | the entries of all files in order, each once, without those that were rolled back |
//! | `cut` | the start of the stream within the dump, and the check of the saved position |
//! | `error` | the reasons why a dump cannot be a source |

mod cut;
pub mod error;
mod merge;
mod segment;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc::Sender;

use crate::error::ProducerError;
use crate::source::dump::error::DumpError;
use crate::source::{Batch, SourceEvent, StartAt};
use cut::{Cut, Part};
use merge::{Merge, Waiting};
use segment::{Segment, SegmentReader, cannot_read};

/// Size in bytes at which a batch is sent. Its last document may extend beyond this size.
const BATCH_BYTES: usize = 4 << 20;
/// File name suffixes of segments.
const SEGMENTS: [&str; 2] = [".bson", ".bson.gz"];

/// A dump: its segments in order.
#[derive(Debug)]
pub struct Dump {
    segments: Vec<DumpSegment>,
}

#[derive(Debug)]
struct DumpSegment {
    segment: Segment,
    /// Time of its first entry, if that was read.
    first: Option<Timestamp>,
}

impl Dump {
    /// Finds the segments of a path; `-` is standard input.
    ///
    /// # Errors
    /// [`ProducerError::File`] if a file cannot be read, [`DumpError`] if no segment exists
    /// or one of them is not a segment of an oplog, [`ProducerError::Undecodable`] if the first
    /// document of a segment is incomplete or has an impossible length.
    pub fn open(path: &str) -> Result<Self, ProducerError> {
        if path == "-" {
            return Ok(Self::of(Segment::StandardInput(AtomicBool::new(false))));
        }
        let path = Path::new(path);
        let metadata = std::fs::metadata(path).map_err(|error| cannot_read(path, error))?;
        if metadata.is_file() {
            return Ok(Self::of(Segment::File(path.to_owned())));
        }
        Self::folder(path)
    }

    fn of(segment: Segment) -> Self {
        let first = None;
        Self {
            segments: vec![DumpSegment { segment, first }],
        }
    }

    fn folder(path: &Path) -> Result<Self, ProducerError> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(path).map_err(|error| cannot_read(path, error))? {
            let file = file.map_err(|error| cannot_read(path, error))?.path();
            if !is_segment(&file)? {
                continue;
            }
            match first_of(&file)? {
                Some(first) => found.push((first, file)),
                None => {
                    tracing::warn!(segment = %file.display(), "the segment has no entries");
                }
            }
        }
        if found.is_empty() {
            let folder = path.display().to_string();
            return Err(DumpError::NoSegments { folder }.into());
        }
        found.sort();
        let segments = found.into_iter().map(|(first, file)| DumpSegment {
            segment: Segment::File(file),
            first: Some(first),
        });
        Ok(Self {
            segments: segments.collect(),
        })
    }

    /// Returns the time of the first entry; `None` for standard input, which can be read only once,
    /// and for a file that cannot be read.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        let DumpSegment { segment, first } = self.segments.first()?;
        match segment {
            Segment::StandardInput(_) => None,
            Segment::File(_) if first.is_some() => *first,
            Segment::File(path) => first_of(path).ok().flatten(),
        }
    }

    /// Sends the entries from the start on, then [`SourceEvent::End`]. Entries before the start that may
    /// belong to open transactions are sent first: all of them if `start` is a time; with a saved
    /// position those from `open` on, or only commands if `open` is `None`. Blocks.
    ///
    /// # Errors
    /// [`ProducerError::PositionLost`] if the dump does not contain the saved position,
    /// [`DumpError`] if it is not an oplog or its segments cannot be merged,
    /// [`ProducerError::File`] and [`ProducerError::Undecodable`].
    pub fn run(
        &self,
        start: StartAt,
        open: Option<Timestamp>,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
    ) -> Result<(), ProducerError> {
        let segments = self.segments.iter();
        let mut merge = Merge::new(segments.map(|found| Waiting {
            segment: &found.segment,
            first: found.first,
        }));
        let mut cut = Cut::new(start, open);
        let mut batch = Filling::new();
        loop {
            if shutdown.triggered() {
                return Ok(());
            }
            let begin = batch.bytes.len();
            let taken = merge.next(&mut batch.bytes);
            let part = taken.and_then(|taken| taken.map(|taken| cut.part(taken)).transpose());
            let part = match part {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    // Entries before the damaged one are still sent.
                    batch.bytes.truncate(begin);
                    batch.send(events);
                    return Err(error);
                }
            };
            if !batch.sort(begin, part, events) {
                return Ok(());
            }
        }
        if !batch.send(events) {
            return Ok(());
        }
        cut.report(merge.overlap());
        // Sending fails only if the receiver is gone, which then does not need the end.
        drop(events.blocking_send(SourceEvent::End));
        Ok(())
    }
}

/// Returns true if a file of a folder is a segment. A file that may be a segment but cannot be read is
/// refused: without it entries would be missing.
fn is_segment(file: &Path) -> Result<bool, ProducerError> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    if SEGMENTS.iter().any(|end| name.ends_with(end)) {
        return Ok(true);
    }
    if name.contains(".bson") {
        let file = file.display().to_string();
        return Err(DumpError::OtherFile { file }.into());
    }
    Ok(false)
}

/// Reads the time of the first entry of a file.
fn first_of(file: &Path) -> Result<Option<Timestamp>, ProducerError> {
    let mut reader = SegmentReader::open(&Segment::File(file.to_owned()))?;
    let mut bytes = Vec::new();
    if !reader.read_document(&mut bytes)? {
        return Ok(None);
    }
    Ok(Some(reader.entry(&bytes)?.ts))
}

/// A batch that is being filled, with entries of one part only.
struct Filling {
    bytes: Vec<u8>,
    part: Part,
}

impl Filling {
    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(BATCH_BYTES),
            part: Part::Wanted,
        }
    }

    /// Assigns the document that starts at `begin` to a part, and sends a full batch. Returns `false`
    /// if the receiver is gone.
    fn sort(&mut self, begin: usize, part: Part, events: &Sender<SourceEvent>) -> bool {
        if part == Part::Done {
            self.bytes.truncate(begin);
        } else if part != self.part {
            let document = self.bytes.split_off(begin);
            if !self.send(events) {
                return false;
            }
            self.bytes.extend_from_slice(&document);
            self.part = part;
        }
        self.bytes.len() < BATCH_BYTES || self.send(events)
    }

    fn send(&mut self, events: &Sender<SourceEvent>) -> bool {
        if self.bytes.is_empty() {
            return true;
        }
        let full = std::mem::replace(&mut self.bytes, Vec::with_capacity(BATCH_BYTES));
        let batch = Batch::Bytes(full);
        let event = match self.part {
            Part::Earlier => SourceEvent::Earlier(batch),
            Part::Wanted | Part::Done => SourceEvent::Batch(batch),
        };
        events.blocking_send(event).is_ok()
    }
}

#[cfg(test)]
mod tests;
