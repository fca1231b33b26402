//! The `oplog` envelope: the fields of the entry itself as Extended JSON, in their own order.
//!
//! The identity of the entry is in the [`ID_HEADER`](super::ID_HEADER), as in `bson`. If the
//! canonical text would not parse back to the same bytes, the last field `rawEntry` contains the
//! entry's BSON as base64, and a replay prefers it. MongoDB's entries have no field of that name.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::document::{Document, Malformed};
use crate::format::json::append_base64;
use crate::format::{FormatError, LARGE_TEXT};
use crate::json::{self, Mode};

/// Appends the text of an entry.
///
/// # Errors
/// [`Malformed`] if the entry is damaged. `out` is then unchanged.
pub fn write_oplog_entry(
    entry: Document<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let exactness = json::write_document(entry, mode, out)?;
    if !exactness.is_exact() {
        out.pop();
        let separator = if entry.is_empty() { "" } else { "," };
        out.extend_from_slice(separator.as_bytes());
        out.extend_from_slice(b"\"rawEntry\":\"");
        append_base64(entry.as_bytes(), out);
        out.extend_from_slice(b"\"}");
    }
    Ok(())
}

/// Decodes the text of an entry and appends the entry to the arena.
pub(super) fn decode(
    value: Range<usize>,
    arena: &mut Vec<u8>,
) -> Result<Range<usize>, FormatError> {
    let mut parsed = Vec::new();
    json::parse_document(arena.get(value).unwrap_or_default(), &mut parsed)?;
    let raw = Document::new(&parsed)?.get("rawEntry")?;
    let start = arena.len();
    if parsed.len() > LARGE_TEXT {
        // The arena already holds the text, and a growing buffer doubles its capacity.
        arena.reserve_exact(parsed.len());
    }
    match raw {
        Some(raw) => STANDARD
            .decode_vec(raw.string_bytes()?, arena)
            .map_err(|_| FormatError::Event("rawEntry is not base64"))?,
        None => arena.extend_from_slice(&parsed),
    }
    let range = start..arena.len();
    Document::new(arena.get(range.clone()).unwrap_or_default())?;
    Ok(range)
}
