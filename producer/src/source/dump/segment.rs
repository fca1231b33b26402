//! The files of a dump: plain BSON or gzip, read document by document.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;

use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::dump::error::DumpError;

/// Maximum size of an entry in bytes. The server's limit is 16 MiB plus 16 KiB; the rest is a margin
/// for handmade entries.
const MAX_ENTRY: usize = 64 << 20;
/// Magic number of gzip, and its only compression method.
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// Maximum length, in bytes, of the name of a first field by which BSON is recognized.
const FIRST_NAME: usize = 32;

/// A file of a dump, or standard input.
#[derive(Debug)]
pub(super) enum Segment {
    File(PathBuf),
    /// Standard input, which can be read only once; true after it was opened.
    StandardInput(AtomicBool),
}

/// A reader of the documents of a segment.
pub(super) struct SegmentReader {
    name: String,
    input: Box<dyn BufRead>,
    documents: u64,
}

impl SegmentReader {
    pub(super) fn open(segment: &Segment) -> Result<Self, ProducerError> {
        let (name, input): (String, Box<dyn Read>) = match segment {
            Segment::File(path) => {
                let file = File::open(path).map_err(|error| cannot_read(path, error))?;
                (path.display().to_string(), Box::new(file))
            }
            Segment::StandardInput(read) => {
                let name = "standard input".to_owned();
                if read.swap(true, Ordering::Relaxed) {
                    let again = "it was already read; pipe it again from the start";
                    let source = io::Error::other(again);
                    return Err(ProducerError::File { path: name, source });
                }
                (name, Box::new(io::stdin()))
            }
        };
        let mut input = BufReader::with_capacity(1 << 20, input);
        let start = input.fill_buf().map_err(|source| ProducerError::File {
            path: name.clone(),
            source,
        })?;
        let input: Box<dyn BufRead> = if is_gzip(start) {
            Box::new(BufReader::with_capacity(
                1 << 20,
                MultiGzDecoder::new(input),
            ))
        } else {
            Box::new(input)
        };
        Ok(Self {
            name,
            input,
            documents: 0,
        })
    }

    /// Returns the name of the segment in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends the next document to `out`; returns false at the end of the segment.
    pub(super) fn read_document(&mut self, out: &mut Vec<u8>) -> Result<bool, ProducerError> {
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
            return Err(EntryFault::DumpLength {
                file: self.name.clone(),
                bytes: i32::from_le_bytes(prefix),
                most: MAX_ENTRY,
            }
            .into());
        }
        let start = out.len();
        out.extend_from_slice(&prefix);
        out.resize(start + length, 0);
        let rest = out
            .get_mut(start + 4..)
            .expect("a length of at least 5 bytes was reserved");
        self.input
            .read_exact(rest)
            .map_err(|source| self.failed(source))?;
        self.documents += 1;
        Ok(true)
    }

    /// Reads a document of this segment as an entry.
    pub(super) fn entry<'b>(&self, bytes: &'b [u8]) -> Result<Entry<'b>, ProducerError> {
        let parsed = Document::new(bytes)
            .map_err(|source| EntryFault::Malformed { source })
            .and_then(|document| {
                Entry::parse_any_operation(document)
                    .map_err(|error| EntryFault::unreadable(document, &error))
            });
        parsed.map_err(|fault| {
            let (file, fault) = (self.name.clone(), Box::new(fault));
            match self.documents {
                1 => DumpError::NotADump { file, fault }.into(),
                document => EntryFault::InDump {
                    file,
                    document,
                    fault,
                }
                .into(),
            }
        })
    }

    fn failed(&self, source: io::Error) -> ProducerError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            let file = self.name.clone();
            return EntryFault::DumpTruncated { file }.into();
        }
        ProducerError::File {
            path: self.name.clone(),
            source,
        }
    }
}

/// Returns true if the input is gzip. A BSON document of certain lengths starts with the same
/// bytes, so later bytes are examined too: in BSON the name of the first field, in gzip the
/// modification time of the compressed file. Three bytes of that time may look like a name of three
/// letters, which no first field of an entry has. Most gzip headers have flags, which would make the length
/// of a document too large.
fn is_gzip(start: &[u8]) -> bool {
    let first_field = start.get(5..).unwrap_or_default();
    let name = first_field.iter().take(FIRST_NAME);
    let length = name.take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let is_name = length > 0 && length != 3 && first_field.get(length) == Some(&0);
    let is_length = start
        .first_chunk()
        .is_some_and(|length| u32::from_le_bytes(*length) as usize <= MAX_ENTRY);
    let is_bson = is_length && is_name;
    start.starts_with(&GZIP_MAGIC) && !is_bson
}

pub(super) fn cannot_read(path: &Path, source: io::Error) -> ProducerError {
    ProducerError::File {
        path: path.display().to_string(),
        source,
    }
}
