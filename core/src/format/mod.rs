//! What stands in a record: encoding entries into values, and back.
//!
//! Every format decodes to the same thing, an entry in the oplog's own shape, so that whoever
//! reads the topics has one kind of input.
//!
//! | format | value | identity of the entry |
//! | --- | --- | --- |
//! | `raw` | frame of untouched entries of one partition ([`raw`]) | in the frame; header `oplog-range` = `<source>/<first ts>/<last ts>/<count>` |
//! | `bson` | one entry's BSON, untouched | header `oplog-id` = `<source>/<seconds>:<increment>/<ord>` |
//! | `json` | one change event ([`json`]) | the event's `_id` |
//!
//! A record that its topic does not take may stand there in [`fragment`]s.

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

/// Version of the formats in this crate. A reader takes every version up to its own.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the header that says which entry a `bson` record is.
pub const ID_HEADER: &str = "oplog-id";
/// Name of the header that says which entries a `raw` record spans.
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
    /// Whether replay restores every byte of every document.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        !matches!(self, Self::Json(Mode::Relaxed))
    }

    /// Whether a record may be of this format, as its first bytes and its [`ID_HEADER`] say. No
    /// record looks like one of another format, but for the two modes of `json`.
    #[must_use]
    pub fn fits(self, value: &[u8], has_id: bool) -> bool {
        match self {
            Self::Raw => !has_id && value.starts_with(&raw::MAGIC),
            Self::Bson => has_id,
            Self::Json(_) => !has_id && value.starts_with(b"{"),
        }
    }

    /// The name on the command line: `raw`, `bson` or `json`.
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

/// [`Format`] as it stands in the state topic.
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

/// Why a record's value cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The header that names the entry is missing.
    #[error("the record has no {0} header")]
    NoHeader(&'static str),
    /// The header that names the entry has another form.
    #[error("the record's {ID_HEADER} header cannot be read")]
    Header(#[source] PositionError),
    /// The header is not UTF-8.
    #[error("the record's {0} header is no text")]
    HeaderText(&'static str),
    /// The value is no frame of a version that is known here.
    #[error("the value is no raw frame: {0}")]
    Frame(&'static str),
    /// The value is no Extended JSON.
    #[error("the value is no Extended JSON")]
    Json(#[from] JsonError),
    /// The value is no BSON document.
    #[error("the value is no BSON document")]
    Malformed(#[from] Malformed),
    /// The JSON is no change event.
    #[error("the value is no change event: {0}")]
    Event(&'static str),
    /// A fragment of a record whose other fragments are not there.
    #[error("the record is a fragment: {0}")]
    Fragment(&'static str),
    /// A fragment that is not the first one, where reading begins.
    #[error("the record is fragment {0} of an entry that begins before it")]
    Headless(Fragment),
    /// The entry inside is damaged.
    #[error("the entry in the value is damaged")]
    Entry(#[from] EntryError),
    /// The entry inside is damaged below its header fields.
    #[error("the entry {id} of {ns:?} in the value is damaged")]
    Inside {
        /// Which entry.
        id: EntryId,
        /// Its namespace.
        ns: String,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
}

/// An entry found in a record: its identity and where in the arena its bytes stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Which entry it is.
    pub id: EntryId,
    /// The bytes of the entry, in the arena that was given to [`decode`].
    pub range: Range<usize>,
}

impl Decoded {
    /// The entry's bytes.
    ///
    /// # Errors
    /// [`Malformed::Length`] if `arena` is not the one that it was decoded from.
    pub fn document<'a>(&self, arena: &'a [u8]) -> Result<Document<'a>, Malformed> {
        Document::new(arena.get(self.range.clone()).unwrap_or_default())
    }
}

/// The first entry of a record of `raw` or `bson`, from what every fragment (the header) or the
/// first one has (the beginning of the value).
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

/// Decodes the value of one record that lies in `arena` at `value`. Entries of `raw` and `bson`
/// stay where they are; those of `json` are appended to the arena. `oplog_id` is the value of the
/// [`ID_HEADER`].
///
/// # Errors
/// [`FormatError`]; then `found` may have got some entries of the record.
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
