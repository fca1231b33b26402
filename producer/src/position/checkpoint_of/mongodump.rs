//! The end of a dump.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::Imported;
use crate::source::oplog::position_of;

/// Maximum length of an entry in bytes. MongoDB's entries are a little longer than 16 MiB at most, so a
/// greater length is damage.
const LONGEST: u64 = 64 << 20;

/// Reads the last entry of an `oplog.bson`.
///
/// # Errors
/// The error of the operating system. The inner result is the reason why the file cannot be used, as a
/// clause.
pub(in crate::position) fn last_entry(path: &Path) -> io::Result<Result<Imported, String>> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut entries = BufReader::new(file);
    let (mut next, mut last) = (0, None);
    while next < size {
        let mut length = [0; 4];
        if size - next < 5 {
            return Ok(Err(damaged(next)));
        }
        entries.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if !(5..=LONGEST.min(size - next)).contains(&length) {
            return Ok(Err(damaged(next)));
        }
        last = Some((next, length));
        next += length;
        // A short entry is skipped within the buffer.
        entries.seek_relative(i64::try_from(length - 4).unwrap_or(i64::MAX))?;
    }
    let Some((begin, length)) = last else {
        return Ok(Err("it has no entry".to_owned()));
    };
    let mut entry = vec![0; usize::try_from(length).unwrap_or_default()];
    entries.seek(SeekFrom::Start(begin))?;
    entries.read_exact(&mut entry)?;
    let position = position_of(&entry);
    Ok(position
        .map(|position| Imported {
            through: position.ts,
            term: Some(position.term),
            is_entry: true,
        })
        .map_err(|error| error.to_string()))
}

fn damaged(offset: u64) -> String {
    format!("it is not a complete oplog.bson: byte {offset} does not begin an entry")
}
