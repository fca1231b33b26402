//! MongoShake's frames (`tunnel.message = raw`): big-endian numbers of 32 bits, and entries.
//!
//! ```text
//! checksum   XOR of the CRC32 (IEEE) of the entries as they are in the frame
//! tag        flags of the transport
//! shard      number of the MongoShake worker
//! compress   0 none, 1 gzip, 2 snappy, 3 zlib, 4 deflate; entries are compressed separately
//! count      number of entries
//! count ×    length, entry
//! ```
//!
//! With `snappy`, MongoShake writes uncompressed entries.
//!
//! MongoShake 2.4.20 and later write a frame once for each of its entries, each time with the
//! entries up to that one, so a frame may have fewer entries than it declares. Only the last entry
//! of such a frame is new. The frame with all entries is read as a whole: it is harmless to apply
//! entries again, and older versions write only this frame.

use std::io::Read as _;
use std::ops::Range;

use flate2::Crc;
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};

use crate::foreign::entry::Output;
use crate::foreign::{ForeignError, mongoshake};

/// The maximum size of a decompressed entry. The largest entries of a server are slightly larger
/// than 16 MiB.
const MAX_ENTRY: u64 = 64 << 20;
/// The maximum size of all entries of a frame after decompression. MongoShake closes a frame when
/// its entries take 16 MiB before compression.
const MAX_INFLATED: usize = 256 << 20;

/// The compression of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zlib,
    Deflate,
}

/// A frame: the places of its entries.
#[derive(Debug)]
struct Frame {
    checksum: u32,
    compression: Compression,
    entries: Vec<Range<usize>>,
    /// True if the frame has as many entries as it declares.
    is_whole: bool,
}

impl Frame {
    /// Reads the frame at `value` in the arena.
    fn read(arena: &[u8], value: Range<usize>) -> Result<Self, ForeignError> {
        let end = value.end;
        let bytes = arena.get(..end).unwrap_or_default();
        let mut at = value.start;
        let mut number = || -> Option<u32> {
            let number = bytes.get(at..)?.first_chunk::<4>()?;
            at += 4;
            Some(u32::from_be_bytes(*number))
        };
        let short = ForeignError::Frame("it is shorter than its header");
        let header = [number(), number(), number(), number(), number()];
        let [
            Some(checksum),
            Some(_),
            Some(_),
            Some(compress),
            Some(count),
        ] = header
        else {
            return Err(short);
        };
        let compression = match compress {
            0 | 2 => Compression::None,
            1 => Compression::Gzip,
            3 => Compression::Zlib,
            4 => Compression::Deflate,
            _ => return Err(ForeignError::Frame("its compression is unknown")),
        };
        let mut entries = Vec::new();
        while at < end {
            let length = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
            let length = length.map(|length| u32::from_be_bytes(*length));
            let length = length.and_then(|length| usize::try_from(length).ok());
            let entry = length.map(|length| at + 4..(at + 4).saturating_add(length));
            let Some(entry) = entry.filter(|entry| entry.end <= end) else {
                return Err(ForeignError::Frame("an entry ends after the frame"));
            };
            at = entry.end;
            entries.push(entry);
        }
        let declared = usize::try_from(count).unwrap_or(usize::MAX);
        if entries.len() > declared {
            return Err(ForeignError::Frame("it has more entries than it declares"));
        }
        Ok(Self {
            checksum,
            compression,
            is_whole: entries.len() == declared,
            entries,
        })
    }

    fn check(&self, arena: &[u8]) -> Result<(), ForeignError> {
        let sums = self.entries.iter().map(|entry| {
            let mut crc = Crc::new();
            crc.update(arena.get(entry.clone()).unwrap_or_default());
            crc.sum()
        });
        match sums.fold(0, |all, sum| all ^ sum) {
            sum if sum == self.checksum => Ok(()),
            _ => Err(ForeignError::Frame(
                "its checksum does not match its entries",
            )),
        }
    }
}

/// Returns true if the bytes can be a frame.
pub(super) fn is_frame(bytes: &[u8]) -> bool {
    Frame::read(bytes, 0..bytes.len()).is_ok_and(|frame| !frame.entries.is_empty())
}

/// Decodes the entries of a frame.
pub(super) fn decode(value: Range<usize>, output: &mut Output<'_>) -> Result<(), ForeignError> {
    let frame = Frame::read(output.arena, value)?;
    let entries = if frame.is_whole {
        frame.check(output.arena)?;
        &frame.entries[..]
    } else {
        let last = frame.entries.len().saturating_sub(1);
        frame.entries.get(last..).unwrap_or_default()
    };
    if entries.len() > 1 {
        output.start_frame();
    }
    let mut inflated = 0;
    for entry in entries {
        let entry = match frame.compression {
            Compression::None => entry.clone(),
            compression => inflate(entry.clone(), compression, output.arena)?,
        };
        inflated += entry.len();
        if inflated > MAX_INFLATED {
            return Err(ForeignError::Frame(
                "its entries take more than 256 MiB when they are decompressed",
            ));
        }
        mongoshake::decode_bson(entry, output)?;
    }
    Ok(())
}

/// Appends the decompressed entry to the arena.
fn inflate(
    entry: Range<usize>,
    compression: Compression,
    arena: &mut Vec<u8>,
) -> Result<Range<usize>, ForeignError> {
    let bytes = arena.get(entry).unwrap_or_default();
    let mut plain = Vec::new();
    let read = match compression {
        Compression::None => return Err(ForeignError::Frame("it is not compressed")),
        Compression::Gzip => GzDecoder::new(bytes)
            .take(MAX_ENTRY)
            .read_to_end(&mut plain),
        Compression::Zlib => ZlibDecoder::new(bytes)
            .take(MAX_ENTRY)
            .read_to_end(&mut plain),
        Compression::Deflate => DeflateDecoder::new(bytes)
            .take(MAX_ENTRY)
            .read_to_end(&mut plain),
    };
    read.map_err(|_| ForeignError::Frame("an entry cannot be decompressed"))?;
    let start = arena.len();
    arena.append(&mut plain);
    Ok(start..arena.len())
}
