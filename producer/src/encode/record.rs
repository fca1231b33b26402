//! Encoding of an entry as the header and the value of a record.

use std::ops::Range;

use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::format::avro::{write_avro_event, write_avro_reader_event};
use oplog_relay_core::format::debezium::write_debezium;
use oplog_relay_core::format::json::{write_change_event, write_reader_event};
use oplog_relay_core::format::latest_state::write_latest_state;
use oplog_relay_core::format::oplog::write_oplog_entry;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::format::raw::Frame;
use oplog_relay_core::format::{Format, ID_HEADER, RANGE_HEADER};
use oplog_relay_core::position::EntryId;

use crate::encode::chunk::RecordHeader;

/// The header and the value of a record, as ranges of the buffer that they were appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The header, if the format has one.
    pub header: Option<RecordHeader>,
    /// The value.
    pub value: Range<usize>,
}

impl Written {
    /// Returns the ranges of a header that starts at `start`, and of a value that starts at `value` and
    /// ends at `end`.
    const fn with_header(name: &'static str, start: usize, value: usize, end: usize) -> Self {
        let header = RecordHeader {
            name,
            value: start..value,
        };
        Self {
            header: Some(header),
            value: value..end,
        }
    }
}

/// Appends an entry as a separate record: in `raw` that is a frame of one entry.
///
/// # Errors
/// [`EntryError`] if the entry is damaged.
pub fn write_single(
    format: Format,
    entry: &Entry<'_>,
    id: EntryId,
    built: bool,
    origin: &Origin<'_>,
    out: &mut Vec<u8>,
) -> Result<Written, EntryError> {
    if format == Format::Raw {
        let mut frame = Frame::default();
        frame.push(id, entry.raw, built);
        return Ok(write_frame(&mut frame, origin.source, out));
    }
    write_entry(format, entry, id, origin, out)
}

/// Appends an entry in a format that has one entry per record.
///
/// # Errors
/// [`EntryError`] if the entry is damaged.
#[inline]
pub fn write_entry(
    format: Format,
    entry: &Entry<'_>,
    id: EntryId,
    origin: &Origin<'_>,
    out: &mut Vec<u8>,
) -> Result<Written, EntryError> {
    let (start, source) = (out.len(), origin.source);
    match format {
        Format::Json(mode) => write_change_event(entry, source, id.ord, mode, out)?,
        Format::ReaderJson(mode) => write_reader_event(entry, source, id.ord, mode, out)?,
        Format::Debezium(form) => write_debezium(entry, id, form, origin, out)?,
        Format::Avro(mode) => {
            write_avro_event(entry, id, source, mode, origin.schemas.value, out)?;
        }
        Format::ReaderAvro(mode) => {
            write_avro_reader_event(entry, id, source, mode, origin.schemas.value, out)?;
        }
        Format::Oplog(mode) => {
            id.write_header(source, out);
            let value = out.len();
            write_oplog_entry(entry.raw, mode, out)?;
            return Ok(Written::with_header(ID_HEADER, start, value, out.len()));
        }
        Format::Snapshot(mode) => {
            id.write_header(source, out);
            let value = out.len();
            write_latest_state(entry, mode, out)?;
            return Ok(Written::with_header(ID_HEADER, start, value, out.len()));
        }
        Format::Raw | Format::Bson => {
            id.write_header(source, out);
            let value = out.len();
            out.extend_from_slice(entry.raw.as_bytes());
            return Ok(Written::with_header(ID_HEADER, start, value, out.len()));
        }
    }
    Ok(Written {
        header: None,
        value: start..out.len(),
    })
}

/// Closes a frame and appends it.
pub fn write_frame(frame: &mut Frame, source: &str, out: &mut Vec<u8>) -> Written {
    let (first, last, count) = (frame.first(), frame.last(), frame.count());
    let start = out.len();
    out.extend_from_slice(format!("{source}/{first}/{last}/{count}").as_bytes());
    let value = out.len();
    frame.finish(out);
    Written::with_header(RANGE_HEADER, start, value, out.len())
}
