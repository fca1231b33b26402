//! Reads a dump of an oplog: `oplog.bson` or `.bson.gz` as mongodump writes it, a folder of such
//! segments, or standard input.
//!
//! A dump is read once, from its beginning. Entries before the start are sent apart from the others
//! where transactions may be open among them: the encoder keeps the parts of those.
//!
//! Segments of a folder are taken in the order of their first entries; where one begins before
//! the last one ended, the entries they share are sent once.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::runtime::shutdown::Shutdown;
use tokio::sync::mpsc::Sender;

use crate::error::{Gap, PositionLost, ProducerError};
use crate::source::{Batch, SourceEvent, StartAt};

/// Bytes of a batch; a larger document makes a batch of its own.
const BATCH_BYTES: usize = 4 << 20;
/// An oplog entry has at most 16 MiB and 16 KiB; the rest is margin for hand-made ones.
const MAX_ENTRY: usize = 64 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A dump: its segments in order.
#[derive(Debug)]
pub struct Dump {
    segments: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    File(PathBuf),
    /// Once it was read, it is gone.
    StandardInput(AtomicBool),
}

impl Dump {
    /// Finds the segments of a path, `-` for standard input.
    ///
    /// # Errors
    /// [`ProducerError::Dump`] if a file cannot be read, [`ProducerError::Usage`] if there is none.
    pub fn open(path: &str) -> Result<Self, ProducerError> {
        if path == "-" {
            return Ok(Self {
                segments: vec![Segment::StandardInput(AtomicBool::new(false))],
            });
        }
        let path = Path::new(path);
        let metadata = std::fs::metadata(path).map_err(|error| cannot_read(path, error))?;
        if metadata.is_file() {
            return Ok(Self {
                segments: vec![Segment::File(path.to_owned())],
            });
        }
        for name in ["oplog.bson", "oplog.bson.gz"] {
            if path.join(name).is_file() {
                return Ok(Self {
                    segments: vec![Segment::File(path.join(name))],
                });
            }
        }
        Self::folder(path)
    }

    fn folder(path: &Path) -> Result<Self, ProducerError> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(path).map_err(|error| cannot_read(path, error))? {
            let file = file.map_err(|error| cannot_read(path, error))?.path();
            let name = file
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if !(name.ends_with(".bson") || name.ends_with(".bson.gz")) {
                continue;
            }
            let mut reader = SegmentReader::open(&Segment::File(file.clone()))?;
            let mut bytes = Vec::new();
            if reader.read_document(&mut bytes)? {
                let document = Document::new(&bytes).map_err(ProducerError::undecodable)?;
                found.push((Entry::parse(document)?.ts, file));
            }
        }
        if found.is_empty() {
            let path = path.display();
            return Err(ProducerError::Usage(format!(
                "{path} has no oplog.bson, oplog.bson.gz or other .bson segments"
            )));
        }
        found.sort();
        Ok(Self {
            segments: found
                .into_iter()
                .map(|(_, file)| Segment::File(file))
                .collect(),
        })
    }

    /// Time of the first entry; `None` for standard input, which can be read only once.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        let segment = self.segments.first()?;
        if matches!(segment, Segment::StandardInput(_)) {
            return None;
        }
        let mut bytes = Vec::new();
        SegmentReader::open(segment)
            .ok()?
            .read_document(&mut bytes)
            .ok()?;
        Some(Entry::parse(Document::new(&bytes).ok()?).ok()?.ts)
    }

    /// Sends the entries from the start on, then [`SourceEvent::End`]. Ahead of them those before
    /// the start that may be of open transactions: from `open` on after a saved position (commands
    /// from the beginning on where it is not known), all of them before a time. Blocks.
    ///
    /// # Errors
    /// [`ProducerError::PositionLost`] if the dump does not have the saved position or begins
    /// after `open`, [`ProducerError::Dump`] and [`ProducerError::Undecodable`].
    pub fn run(
        &self,
        start: StartAt,
        open: Option<Timestamp>,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
    ) -> Result<(), ProducerError> {
        let mut cut = Cut::new(start, open);
        for segment in &self.segments {
            let mut reader = SegmentReader::open(segment)?;
            let mut batch = Filling::new();
            loop {
                if shutdown.triggered() {
                    return Ok(());
                }
                let begin = batch.bytes.len();
                let part = match cut.next(&mut reader, &mut batch.bytes) {
                    Ok(Some(part)) => part,
                    Ok(None) => break,
                    Err(error) => {
                        // The stream stops before it, and not earlier.
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
            cut.next_segment();
        }
        if let StartAt::After(saved) = start
            && !cut.found
        {
            tracing::warn!(
                position = %saved,
                newest = cut.last.map(|last| last.to_string()),
                "the dump ends before the saved position: nothing of it is new"
            );
        }
        // A closed queue means that nobody waits for the end.
        drop(events.blocking_send(SourceEvent::End));
        Ok(())
    }
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

    /// Says where the document that begins there belongs, and sends what is full. `false` if
    /// nobody takes it any more.
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

/// The parts of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What is not needed.
    Done,
    /// Before the start, but transactions may be open there.
    Earlier,
    /// What is to be sent.
    Wanted,
}

/// Tells the parts of a dump apart.
struct Cut {
    start: StartAt,
    open: Option<Timestamp>,
    /// Seen the saved position's entry, or need none.
    found: bool,
    last: Option<Timestamp>,
    /// Entries up to here were in an earlier segment.
    before: Option<Timestamp>,
}

impl Cut {
    const fn new(start: StartAt, open: Option<Timestamp>) -> Self {
        let found = !matches!(start, StartAt::After(_));
        Self {
            start,
            open,
            found,
            last: None,
            before: None,
        }
    }

    const fn next_segment(&mut self) {
        self.before = self.last;
    }

    /// Appends the next document and says where it belongs; `None` at the segment's end.
    fn next(
        &mut self,
        reader: &mut SegmentReader,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Part>, ProducerError> {
        let begin = bytes.len();
        if !reader.read_document(bytes)? {
            return Ok(None);
        }
        self.part(bytes.get(begin..).unwrap_or_default()).map(Some)
    }

    fn part(&mut self, bytes: &[u8]) -> Result<Part, ProducerError> {
        let document = Document::new(bytes).map_err(ProducerError::undecodable)?;
        let entry = Entry::parse(document)?;
        if self.before.is_some_and(|before| entry.ts <= before) {
            return Ok(Part::Done);
        }
        let first = self.last.is_none();
        self.last = Some(entry.ts);
        match self.start {
            StartAt::Oldest => Ok(Part::Wanted),
            StartAt::At(ts) if entry.ts < ts => Ok(Part::Earlier),
            StartAt::At(_) => Ok(Part::Wanted),
            StartAt::Now => Ok(Part::Done),
            StartAt::After(saved) => {
                if let Some(open) = self.open.filter(|open| first && entry.ts > *open) {
                    return Err(rolled_over(saved, open, entry.ts));
                }
                self.after(saved, &entry)
            }
        }
    }

    fn after(&mut self, saved: Position, entry: &Entry<'_>) -> Result<Part, ProducerError> {
        let earlier = match self.open {
            Some(open) if entry.ts >= open => Part::Earlier,
            // A live source, which a dump may go on from, does not say what is open.
            None if entry.operation == Operation::Command => Part::Earlier,
            _ => Part::Done,
        };
        if self.found {
            let wanted = entry.ts > saved.ts;
            return Ok(if wanted { Part::Wanted } else { earlier });
        }
        if entry.ts < saved.ts {
            return Ok(earlier);
        }
        self.found = true;
        if (entry.ts, entry.term) == (saved.ts, saved.term) {
            // With an ordinal a part of its operations is still to be sent.
            let wanted = saved.ord > 0;
            return Ok(if wanted { Part::Wanted } else { earlier });
        }
        let found = Position {
            ts: entry.ts,
            term: entry.term,
            ord: 0,
        };
        if entry.ts > saved.ts {
            return Err(rolled_over(saved, saved.ts, found.ts));
        }
        let lost = PositionLost::RolledBack {
            checkpoint: saved,
            found,
            oldest: found.ts,
        };
        Err(Box::new(lost).into())
    }
}

/// For a dump that begins later than it would have to.
fn rolled_over(checkpoint: Position, needed: Timestamp, oldest: Timestamp) -> ProducerError {
    let lost = PositionLost::RolledOver {
        checkpoint,
        oldest,
        gap: Gap::between(needed, oldest),
    };
    Box::new(lost).into()
}

struct SegmentReader {
    name: String,
    input: Box<dyn BufRead>,
}

impl SegmentReader {
    fn open(segment: &Segment) -> Result<Self, ProducerError> {
        let (name, input): (String, Box<dyn Read>) = match segment {
            Segment::File(path) => {
                let file = File::open(path).map_err(|error| cannot_read(path, error))?;
                (path.display().to_string(), Box::new(file))
            }
            Segment::StandardInput(read) => {
                let name = "standard input".to_owned();
                if read.swap(true, Ordering::Relaxed) {
                    let again = "it was read already; pipe it again, from its beginning";
                    let source = io::Error::other(again);
                    return Err(ProducerError::Dump { path: name, source });
                }
                (name, Box::new(io::stdin()))
            }
        };
        let mut input = BufReader::with_capacity(1 << 20, input);
        let start = input.fill_buf().map_err(|source| ProducerError::Dump {
            path: name.clone(),
            source,
        })?;
        let input: Box<dyn BufRead> = if start.starts_with(&GZIP_MAGIC) {
            Box::new(BufReader::with_capacity(
                1 << 20,
                MultiGzDecoder::new(input),
            ))
        } else {
            Box::new(input)
        };
        Ok(Self { name, input })
    }

    /// Appends the next document; `false` at the end.
    fn read_document(&mut self, out: &mut Vec<u8>) -> Result<bool, ProducerError> {
        match self.input.fill_buf().map(<[u8]>::is_empty) {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(error) => return Err(self.failed(error)),
        }
        let mut prefix = [0; 4];
        self.input
            .read_exact(&mut prefix)
            .map_err(|source| self.failed(source))?;
        let length = usize::try_from(i32::from_le_bytes(prefix)).unwrap_or(0);
        if !(5..=MAX_ENTRY).contains(&length) {
            return Err(ProducerError::Undecodable(format!(
                "{} has a document of {} bytes where 5 to {MAX_ENTRY} are possible",
                self.name,
                i32::from_le_bytes(prefix)
            )));
        }
        let start = out.len();
        out.extend_from_slice(&prefix);
        out.resize(start + length, 0);
        let rest = out.get_mut(start + 4..).unwrap_or_default();
        self.input
            .read_exact(rest)
            .map_err(|source| self.failed(source))?;
        Ok(true)
    }

    fn failed(&self, source: io::Error) -> ProducerError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return ProducerError::Undecodable(format!("{} ends inside a document", self.name));
        }
        ProducerError::Dump {
            path: self.name.clone(),
            source,
        }
    }
}

fn cannot_read(path: &Path, source: io::Error) -> ProducerError {
    ProducerError::Dump {
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests;
