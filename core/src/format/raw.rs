//! The raw frame: a batch of unchanged entries of one partition in one record.
//!
//! Little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | magic `OPLR` |
//! | 1 | version, 1 |
//! | 1 | flags, 0 |
//! | 2 | reserved, 0 |
//! | 4 | count of documents |
//! | 8 | first `ts`, as in BSON (increment, seconds) |
//! | 8 | last `ts` |
//! | 4 | CRC32C of all following bytes |
//!
//! The documents follow, each as the `u32` length of the BSON, `u32` ord, `u8` flags (bit 0: the
//! producer built the entry, for example from an operation of a transaction), and the BSON. The
//! frame itself is not compressed, because Kafka compresses it.

use std::ops::Range;

use crate::document::{Document, Malformed};
use crate::format::{Decoded, FormatError};
use crate::position::{EntryId, Timestamp};

pub(super) const MAGIC: [u8; 4] = *b"OPLR";
const VERSION: u8 = 1;
/// The number of bytes of the frame's header.
pub const HEADER_BYTES: usize = 32;
/// The number of bytes before each document.
pub const DOCUMENT_HEADER_BYTES: usize = 9;
const BUILT: u8 = 1;

/// A frame that is being filled. Its buffer is reused.
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
    count: u32,
    first: Timestamp,
    last: Timestamp,
}

impl Frame {
    /// Adds an entry. `built` is true if the producer built the entry, for example from an
    /// operation of a transaction.
    pub fn push(&mut self, id: EntryId, document: Document<'_>, built: bool) {
        if self.count == 0 {
            self.bytes.clear();
            self.bytes.resize(HEADER_BYTES, 0);
            self.first = id.ts;
        }
        self.last = id.ts;
        self.count += 1;
        // The document's own length prefix has the same four bytes.
        self.bytes
            .extend_from_slice(document.as_bytes().get(..4).unwrap_or_default());
        self.bytes.extend_from_slice(&id.ord.to_le_bytes());
        self.bytes.push(if built { BUILT } else { 0 });
        self.bytes.extend_from_slice(document.as_bytes());
    }

    /// Returns the number of bytes in the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.count == 0 { 0 } else { self.bytes.len() }
    }

    /// Returns true if the frame has no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the capacity of the buffer, which is kept when the frame is finished.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns the timestamp of the first entry.
    #[must_use]
    pub const fn first(&self) -> Timestamp {
        self.first
    }

    /// Returns the timestamp of the last entry.
    #[must_use]
    pub const fn last(&self) -> Timestamp {
        self.last
    }

    /// Returns the number of entries.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Completes the header, appends the frame to `out` and empties it.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let checksum = crc32c::crc32c(self.bytes.get(HEADER_BYTES..).unwrap_or_default());
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&[VERSION, 0, 0, 0]);
        header.extend_from_slice(&self.count.to_le_bytes());
        header.extend_from_slice(&self.first.to_le_bytes());
        header.extend_from_slice(&self.last.to_le_bytes());
        header.extend_from_slice(&checksum.to_le_bytes());
        if let Some(start) = self.bytes.get_mut(..HEADER_BYTES) {
            start.copy_from_slice(&header);
        }
        out.extend_from_slice(&self.bytes);
        self.bytes.clear();
        self.count = 0;
    }
}

/// Returns the timestamp of a frame's first entry, read from the start of the frame.
pub(super) fn first_ts(frame: &[u8]) -> Option<Timestamp> {
    let ts = frame.strip_prefix(&MAGIC)?.get(8..16)?;
    Some(Timestamp::from_le_bytes(ts.try_into().ok()?))
}

/// Decodes a frame. The entries stay in place in the arena.
pub(super) fn decode(
    value: Range<usize>,
    arena: &[u8],
    found: &mut Vec<Decoded>,
) -> Result<(), FormatError> {
    let frame = arena.get(value.clone()).unwrap_or_default();
    let (header, body) = frame
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(FormatError::Frame("it is too short"))?;
    let count = check_header(header, body)?;
    let mut at = value.start + HEADER_BYTES;
    let mut rest = body;
    for _ in 0..count {
        let (ord, document, after) = split_document(rest)?;
        let start = at + DOCUMENT_HEADER_BYTES;
        at = start + document.as_bytes().len();
        let ts = time_of(document)?;
        found.push(Decoded {
            id: EntryId { ts, ord },
            range: start..at,
        });
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(FormatError::Frame("it has extra bytes after its documents"))
    }
}

/// Returns the timestamp of an entry. `ts` is among the first fields, so the search is short.
fn time_of(document: Document<'_>) -> Result<Timestamp, Malformed> {
    let ts = document.get("ts")?.ok_or(Malformed::Missing("ts"))?;
    ts.timestamp()
}

/// Checks the magic, version, flags and checksum. Returns the number of documents.
fn check_header(header: &[u8; HEADER_BYTES], body: &[u8]) -> Result<u32, FormatError> {
    let [
        m0,
        m1,
        m2,
        m3,
        version,
        flags,
        _,
        _,
        c0,
        c1,
        c2,
        c3,
        ..,
        k0,
        k1,
        k2,
        k3,
    ] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(FormatError::Frame("it does not start with OPLR"));
    }
    if version != VERSION || flags != 0 {
        return Err(FormatError::Frame(
            "it has a version or flags that are not supported",
        ));
    }
    if u32::from_le_bytes([k0, k1, k2, k3]) != crc32c::crc32c(body) {
        return Err(FormatError::Frame("its checksum is wrong"));
    }
    Ok(u32::from_le_bytes([c0, c1, c2, c3]))
}

/// Splits off one document with its ordinal.
fn split_document(rest: &[u8]) -> Result<(u32, Document<'_>, &[u8]), FormatError> {
    let cut = FormatError::Frame("it ends inside a document");
    let (head, documents) = rest
        .split_first_chunk::<DOCUMENT_HEADER_BYTES>()
        .ok_or(cut)?;
    let [l0, l1, l2, l3, o0, o1, o2, o3, _flags] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let (document, after) = Document::split(documents)?;
    if usize::try_from(length) != Ok(document.as_bytes().len()) {
        return Err(FormatError::Frame(
            "the length before a document differs from the document's own",
        ));
    }
    Ok((u32::from_le_bytes([o0, o1, o2, o3]), document, after))
}
