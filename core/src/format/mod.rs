//! The formats of records: encoding entries into values, and decoding them.
//!
//! Every format decodes to an entry in the oplog's own shape, so that readers of the topics handle
//! a single kind of input.
//!
//! | format | value | identity of the entry |
//! | --- | --- | --- |
//! | `raw` | frame of untouched entries of one partition ([`raw`]) | in the frame; header `oplog-range` = `<source>/<first ts>/<last ts>/<count>` |
//! | `bson` | one entry's BSON, untouched | header `oplog-id` = `<source>/<seconds>:<increment>/<ord>` |
//! | `json` | one change event ([`json`]) | the event's `_id` |
//!
//! A record that is too large for its topic is stored as [`fragment`]s.

mod description;
pub mod fragment;
pub mod json;
pub mod raw;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::document::{Document, Malformed};
use crate::entry::EntryError;
use crate::json::{JsonError, Mode};
use crate::position::{EntryId, PositionError};

use fragment::Fragment;

/// The version of the formats in this crate. A reader accepts every version up to its own.
pub const FORMAT_VERSION: u32 = 1;
/// The name of the header that identifies the entry of a `bson` record.
pub const ID_HEADER: &str = "oplog-id";
/// The name of the header with the range of entries in a `raw` record.
pub const RANGE_HEADER: &str = "oplog-range";

/// The format of a topic's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FormatFields", into = "FormatFields")]
pub enum Format {
    /// Frames of untouched entries.
    Raw,
    /// One untouched entry.
    Bson,
    /// One change event as Extended JSON.
    Json(Mode),
}

impl Format {
    /// Returns true if replay restores every byte of every document.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        !matches!(self, Self::Json(Mode::Relaxed))
    }

    /// Returns true if a record may be of this format, judged by its first bytes and its
    /// [`ID_HEADER`]. No record fits two formats, except that the two modes of `json` cannot be
    /// distinguished.
    #[must_use]
    pub fn fits(self, value: &[u8], has_id: bool) -> bool {
        match self {
            Self::Raw => !has_id && value.starts_with(&raw::MAGIC),
            Self::Bson => has_id,
            Self::Json(_) => !has_id && value.starts_with(b"{"),
        }
    }

    /// Returns the name on the command line: `raw`, `bson` or `json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Bson => "bson",
            Self::Json(_) => "json",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Bson => "bson",
            Self::Json(Mode::Relaxed) => "json (relaxed)",
            Self::Json(Mode::Canonical) => "json (canonical)",
        })
    }
}

/// A [`Format`] as it is saved in the state topic.
#[derive(Serialize, Deserialize)]
struct FormatFields {
    format: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    json: Option<String>,
}

impl From<Format> for FormatFields {
    fn from(format: Format) -> Self {
        let json = match format {
            Format::Raw | Format::Bson => None,
            Format::Json(Mode::Relaxed) => Some("relaxed".to_owned()),
            Format::Json(Mode::Canonical) => Some("canonical".to_owned()),
        };
        Self {
            format: format.name().to_owned(),
            json,
        }
    }
}

impl TryFrom<FormatFields> for Format {
    type Error = String;

    fn try_from(fields: FormatFields) -> Result<Self, String> {
        match (fields.format.as_str(), fields.json.as_deref()) {
            ("raw", None) => Ok(Self::Raw),
            ("bson", None) => Ok(Self::Bson),
            ("json", None | Some("relaxed")) => Ok(Self::Json(Mode::Relaxed)),
            ("json", Some("canonical")) => Ok(Self::Json(Mode::Canonical)),
            (format, json) => Err(format!("unknown format {format:?} with json {json:?}")),
        }
    }
}

/// The reason why a record's value cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The header that identifies the entry is missing.
    #[error("the record has no {0} header")]
    NoHeader(&'static str),
    /// The header that identifies the entry has another form.
    #[error("the record's {ID_HEADER} header cannot be read")]
    Header(#[source] PositionError),
    /// The header is not UTF-8.
    #[error("the record's {0} header is not UTF-8")]
    HeaderText(&'static str),
    /// The value is not a frame of a known version.
    #[error("the value is not a raw frame: {0}")]
    Frame(&'static str),
    /// The value is not Extended JSON.
    #[error("the value is not Extended JSON")]
    Json(#[from] JsonError),
    /// The value is not a BSON document.
    #[error("the value is not a BSON document")]
    Malformed(#[from] Malformed),
    /// The JSON is not a change event.
    #[error("the value is not a change event: {0}")]
    Event(&'static str),
    /// A fragment without the other fragments of its record.
    #[error("the record is a fragment: {0}")]
    Fragment(&'static str),
    /// The first record read is a fragment, but not the first one of its record.
    #[error("the record is fragment {0} of an entry that begins before it")]
    Headless(Fragment),
    /// The entry in the value is damaged.
    #[error("the entry in the value is damaged")]
    Entry(#[from] EntryError),
    /// The entry in the value is damaged below its header fields.
    #[error("the entry {id} of {ns:?} in the value is damaged")]
    Inside {
        /// The identity of the entry.
        id: EntryId,
        /// Its namespace.
        ns: String,
        /// The fault.
        #[source]
        source: EntryError,
    },
}

/// An entry found in a record: its identity and the place of its bytes in the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The identity of the entry.
    pub id: EntryId,
    /// The range of the entry's bytes in the arena that was passed to [`decode`].
    pub range: Range<usize>,
}

impl Decoded {
    /// Returns the entry's bytes.
    ///
    /// # Errors
    /// [`Malformed::Length`] if `arena` is not the arena in which it was decoded.
    pub fn document<'a>(&self, arena: &'a [u8]) -> Result<Document<'a>, Malformed> {
        Document::new(arena.get(self.range.clone()).unwrap_or_default())
    }
}

/// Returns the first entry of a `raw` or `bson` record. It is read from the header, which every
/// fragment has, or from the start of the value, which only the first fragment has.
#[must_use]
pub fn first_entry(value: &[u8], oplog_id: Option<&[u8]>) -> Option<EntryId> {
    match oplog_id {
        Some(header) => {
            let text = std::str::from_utf8(header).ok()?;
            Some(EntryId::parse_header(text).ok()?.1)
        }
        None => raw::first_ts(value).map(|ts| EntryId { ts, ord: 0 }),
    }
}

/// Decodes the value of a record, which is at `value` in `arena`. Entries of `raw` and `bson` stay
/// in place; those of `json` are appended to the arena. `oplog_id` is the value of the
/// [`ID_HEADER`].
///
/// # Errors
/// [`FormatError`] if the record cannot be decoded. `found` may then hold some of its entries.
pub fn decode(
    format: Format,
    value: Range<usize>,
    oplog_id: Option<&[u8]>,
    arena: &mut Vec<u8>,
    found: &mut Vec<Decoded>,
) -> Result<(), FormatError> {
    match format {
        Format::Raw => raw::decode(value, arena, found),
        Format::Bson => {
            let header = oplog_id.ok_or(FormatError::NoHeader(ID_HEADER))?;
            let text =
                std::str::from_utf8(header).map_err(|_| FormatError::HeaderText(ID_HEADER))?;
            let (_, id) = EntryId::parse_header(text).map_err(FormatError::Header)?;
            Document::new(arena.get(value.clone()).unwrap_or_default())?;
            found.push(Decoded { id, range: value });
            Ok(())
        }
        Format::Json(_) => {
            let (id, range) = json::decode(value, arena)?;
            found.push(Decoded { id, range });
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
