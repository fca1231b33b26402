//! The formats of records: encoding entries into values, and decoding them.
//!
//! [`decode`] turns records into entries in the oplog's own shape, so that the code after it
//! handles a single kind of input.
//!
//! | format | value | identity of the entry |
//! | --- | --- | --- |
//! | `raw` | frame of untouched entries of one partition ([`raw`]) | in the frame; header `oplog-range` = `<source>/<first ts>/<last ts>/<count>` |
//! | `bson` | one entry's BSON, untouched | header `oplog-id` = `<source>/<seconds>:<increment>/<ord>` |
//! | `json` | one change event ([`json`]) | the event's `_id` |
//! | `json`, envelope `oplog` | one entry ([`oplog`]) | header `oplog-id` |
//! | `json`, envelope `debezium` | one event of Debezium ([`debezium`]), for readers only | the event's `source.sequence` |
//! | `avro` | one change event as an Avro record ([`avro`]) | the event's `_id` |
//! | `json`, topic mode `snapshot` | one document ([`latest_state`]), for readers only | header `oplog-id` |
//!
//! A record that is too large for its topic is stored as [`fragment`]s.
//!
//! # Modules
//!
//! - `raw` is the raw frame: a batch of unchanged entries
//! - `json` is the change event; `description` writes its `updateDescription`, and `envelope`
//!   selects the shape of JSON values
//! - `oplog` is the envelope with the fields of the entry itself
//! - `debezium` is Debezium's envelope
//! - `avro` is the change event as an Avro record
//! - `latest_state` is the record of a topic with the latest state of each document
//! - `looked_up` has the documents that were looked up for an entry
//! - `fragment` splits records that are larger than their topic allows
//! - `origin` describes the place and time at which a record is written

pub mod avro;
pub mod debezium;
mod description;
pub mod envelope;
pub mod fragment;
pub mod json;
pub mod latest_state;
pub mod looked_up;
pub mod oplog;
pub mod origin;
pub mod raw;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::command::is_command;
use crate::document::{Document, Malformed};
use crate::entry::{Entry, EntryError, Operation};
use crate::json::{JsonError, Mode};
use crate::position::{EntryId, PositionError};
use crate::topic::is_temporary;

use debezium::Debezium;
use fragment::Fragment;

/// The version of the formats in this crate. A reader accepts every version up to its own.
pub const FORMAT_VERSION: u32 = 1;
/// The name of the header that identifies the entry of a record whose value does not: `bson`, the
/// envelope `oplog`, and the topic mode `snapshot`.
pub const ID_HEADER: &str = "oplog-id";
/// The name of the header with the range of entries in a `raw` record.
pub const RANGE_HEADER: &str = "oplog-range";

/// The name of the header with the source's time at the lookup of an update's document, for formats
/// whose value has no field for it.
pub const LOOKUP_HEADER: &str = "oplog-lookup";

/// The size of a parsed text above which a decoder reserves the room for its entry at once.
const LARGE_TEXT: usize = 1 << 20;

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
    /// One change event of a document, without what only a replay needs.
    ReaderJson(Mode),
    /// The fields of one entry as Extended JSON.
    Oplog(Mode),
    /// One event in Debezium's envelope.
    Debezium(Debezium),
    /// One change event as an Avro record, with documents as Extended JSON.
    Avro(Mode),
    /// One change event of a document as an Avro record, without what only a replay needs.
    ReaderAvro(Mode),
    /// One document, the latest state of its key, or a tombstone.
    Snapshot(Mode),
}

impl Format {
    /// Returns true if replay restores every byte of every document.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        match self {
            Self::Raw | Self::Bson => true,
            Self::Json(mode) | Self::Oplog(mode) | Self::Avro(mode) => {
                matches!(mode, Mode::Canonical)
            }
            Self::ReaderJson(_) | Self::Debezium(_) | Self::ReaderAvro(_) | Self::Snapshot(_) => {
                false
            }
        }
    }

    /// Returns true if a topic has barriers and commands, so that its entries can be replayed.
    /// Otherwise it is for readers only.
    #[must_use]
    pub const fn is_replayable(self) -> bool {
        !matches!(
            self,
            Self::ReaderJson(_) | Self::Debezium(_) | Self::ReaderAvro(_) | Self::Snapshot(_)
        )
    }

    /// Returns true if the schemas of the records are in a registry.
    #[must_use]
    pub const fn has_schemas(self) -> bool {
        matches!(self, Self::Avro(_) | Self::ReaderAvro(_))
    }

    /// Returns true if a topic may change between the two formats. A topic must not lose or gain
    /// barriers, each document must stay in its partition, and a topic of latest states is
    /// compacted, which would delete changes. The partition is determined by Debezium's key in
    /// Debezium's envelope, and by the document's own key in all other formats.
    #[must_use]
    pub fn may_become(self, other: Self) -> bool {
        let keys = |format| match format {
            Self::Debezium(form) => Some(form.with_schema),
            _ => None,
        };
        self.is_replayable() == other.is_replayable()
            && keys(self) == keys(other)
            && self.is_latest_state() == other.is_latest_state()
    }

    /// Returns true if a record replaces the earlier ones of its key, so that the topic is
    /// compacted.
    #[must_use]
    pub const fn is_latest_state(self) -> bool {
        matches!(self, Self::Snapshot(_))
    }

    /// Returns true if [`decode`] can read the entries of a record.
    #[must_use]
    pub const fn is_decodable(self) -> bool {
        !matches!(self, Self::Debezium(_) | Self::Snapshot(_))
    }

    /// Returns true if a record may be in this format, judging by its first bytes and its
    /// [`ID_HEADER`]. No record fits two formats that one topic may have, unless they differ only
    /// in their [`Mode`].
    #[must_use]
    pub fn fits(self, value: &[u8], has_id: bool) -> bool {
        match self {
            Self::Raw => !has_id && value.starts_with(&raw::MAGIC),
            Self::Bson => has_id && !is_text_of_entry(value),
            Self::Json(_) | Self::ReaderJson(_) => {
                !has_id && value.starts_with(b"{") && !is_of_debezium(value)
            }
            Self::Oplog(_) => has_id && is_text_of_entry(value),
            Self::Debezium(_) => !has_id && is_of_debezium(value),
            Self::Avro(_) | Self::ReaderAvro(_) => !has_id && avro::schema_id(value).is_some(),
            // A topic of latest states has records of this format only, and they are never decoded.
            Self::Snapshot(_) => has_id && value.starts_with(b"{"),
        }
    }
}

/// Returns true for the text of an entry, false for its BSON. BSON begins with its length. Read as
/// a length, the first four bytes of a text mean at least 512 MiB, many times the largest entry.
fn is_text_of_entry(value: &[u8]) -> bool {
    matches!(value, [b'{', b'"', _, 0x20..=0xff, ..])
}

fn is_of_debezium(value: &[u8]) -> bool {
    value.starts_with(b"{\"before\":") || value.starts_with(b"{\"schema\":")
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Raw => f.write_str("raw"),
            Self::Bson => f.write_str("bson"),
            Self::Json(mode) => write!(f, "json ({})", mode.name()),
            Self::ReaderJson(mode) => write!(f, "json (for readers, {})", mode.name()),
            Self::Oplog(mode) => write!(f, "json (oplog, {})", mode.name()),
            Self::Snapshot(mode) => write!(f, "json (latest documents, {})", mode.name()),
            Self::Debezium(Debezium { mode, with_schema }) => {
                let schema = if *with_schema { ", with schema" } else { "" };
                write!(f, "json (debezium, {}{schema})", mode.name())
            }
            Self::Avro(mode) => write!(f, "avro ({})", mode.name()),
            Self::ReaderAvro(mode) => write!(f, "avro (for readers, {})", mode.name()),
        }
    }
}

/// A [`Format`] as it is saved in the state topic. Each envelope has its own value of `format`, so
/// that a program that does not know the envelope reports an unknown format.
#[derive(Default, Serialize, Deserialize)]
struct FormatFields {
    format: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    json: Option<String>,
    /// True if each record of Debezium's envelope has its schema beside it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    schema: bool,
}

impl FormatFields {
    fn text(format: &str, mode: Mode) -> Self {
        Self {
            format: format.to_owned(),
            json: Some(mode.name().to_owned()),
            schema: false,
        }
    }
}

impl From<Format> for FormatFields {
    fn from(format: Format) -> Self {
        let binary = |format: &str| Self {
            format: format.to_owned(),
            ..Self::default()
        };
        match format {
            Format::Raw => binary("raw"),
            Format::Bson => binary("bson"),
            Format::Json(mode) => Self::text("json", mode),
            Format::ReaderJson(mode) => Self::text("reader-json", mode),
            Format::Oplog(mode) => Self::text("oplog-json", mode),
            Format::Snapshot(mode) => Self::text("snapshot-json", mode),
            Format::Debezium(Debezium { mode, with_schema }) => Self {
                schema: with_schema,
                ..Self::text("debezium-json", mode)
            },
            Format::Avro(mode) => Self::text("avro", mode),
            Format::ReaderAvro(mode) => Self::text("reader-avro", mode),
        }
    }
}

/// The fields of a saved format do not name one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {format:?} with json {json:?}")]
pub struct UnknownFormat {
    format: String,
    json: Option<String>,
}

impl TryFrom<FormatFields> for Format {
    type Error = UnknownFormat;

    fn try_from(fields: FormatFields) -> Result<Self, UnknownFormat> {
        let FormatFields {
            format,
            json,
            schema: with_schema,
        } = fields;
        let unknown = || UnknownFormat {
            format: format.clone(),
            json: json.clone(),
        };
        let mode = json.as_deref().map(str::parse).transpose();
        let mode: Option<Mode> = mode.map_err(|_| unknown())?;
        match (format.as_str(), mode) {
            ("raw", None) => Ok(Self::Raw),
            ("bson", None) => Ok(Self::Bson),
            ("json", mode) => Ok(Self::Json(mode.unwrap_or(Mode::Relaxed))),
            ("reader-json", Some(mode)) => Ok(Self::ReaderJson(mode)),
            ("oplog-json", Some(mode)) => Ok(Self::Oplog(mode)),
            ("avro", Some(mode)) => Ok(Self::Avro(mode)),
            ("reader-avro", Some(mode)) => Ok(Self::ReaderAvro(mode)),
            ("snapshot-json", Some(mode)) => Ok(Self::Snapshot(mode)),
            ("debezium-json", Some(mode)) => Ok(Self::Debezium(Debezium { mode, with_schema })),
            _ => Err(unknown()),
        }
    }
}

/// Returns true if an entry changes a document that readers know. All others are for replays only:
/// commands, noops, documents of `system.` collections and of temporary collections, and buckets of
/// time series.
#[must_use]
pub fn is_for_readers(entry: &Entry<'_>) -> bool {
    let collection = entry.namespace().collection;
    !(is_command(entry)
        || entry.operation == Operation::Noop
        || entry.is_timeseries
        || collection.starts_with("system.")
        || is_temporary(collection))
}

/// The reason why a record's value cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The header that identifies the entry is missing.
    #[error("the record has no {0} header")]
    NoHeader(&'static str),
    /// The header that identifies the entry does not have the expected form.
    #[error("the record's {ID_HEADER} header cannot be read")]
    Header(#[source] PositionError),
    /// The header is not UTF-8.
    #[error("the record's {0} header is not UTF-8")]
    HeaderText(&'static str),
    /// The value is not a frame of a known version.
    #[error("the value is not a raw frame: {0}")]
    Frame(&'static str),
    /// The value, or a document in it, is not Extended JSON.
    #[error("the value is not Extended JSON")]
    Json(#[from] JsonError),
    /// The value is not a BSON document.
    #[error("the value is not a BSON document")]
    Malformed(#[from] Malformed),
    /// The fields of the value are not those of a change event.
    #[error("the value is not a change event: {0}")]
    Event(&'static str),
    /// The value is not an Avro record of the change event.
    #[error("the value is not an Avro record of a change event: {0}")]
    Avro(&'static str),
    /// The format is for readers only, and has no entries to decode.
    #[error("the record is in a format that is for readers only")]
    ForReaders,
    /// The header of a fragment cannot be read, or other fragments of its record are missing.
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

/// Returns the identity of the first entry of a record. It is read from the [`ID_HEADER`], which
/// every fragment has, or from the start of a raw frame, which only the first fragment has. A frame
/// yields the ordinal 0. Other records yield `None`.
#[must_use]
pub fn first_entry(value: &[u8], oplog_id: Option<&[u8]>) -> Option<EntryId> {
    match oplog_id {
        Some(header) => {
            let text = std::str::from_utf8(header).ok()?;
            Some(EntryId::parse_header(text).ok()?.id)
        }
        None => raw::first_ts(value).map(|ts| EntryId { ts, ord: 0 }),
    }
}

/// Decodes the value of a record, which is at `value` in `arena`. Entries of `raw` and `bson` stay
/// in place; those of `json` and `avro` are appended to the arena. `oplog_id` is the value of the
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
            let id = id_in_header(oplog_id)?;
            Document::new(arena.get(value.clone()).unwrap_or_default())?;
            found.push(Decoded { id, range: value });
            Ok(())
        }
        Format::Json(_) | Format::ReaderJson(_) => {
            found.push(json::decode(value, arena)?);
            Ok(())
        }
        Format::Oplog(_) => {
            let id = id_in_header(oplog_id)?;
            let range = oplog::decode(value, arena)?;
            found.push(Decoded { id, range });
            Ok(())
        }
        Format::Debezium(_) | Format::Snapshot(_) => Err(FormatError::ForReaders),
        Format::Avro(_) | Format::ReaderAvro(_) => {
            found.push(avro::decode(value, arena)?);
            Ok(())
        }
    }
}

fn id_in_header(oplog_id: Option<&[u8]>) -> Result<EntryId, FormatError> {
    let header = oplog_id.ok_or(FormatError::NoHeader(ID_HEADER))?;
    let text = std::str::from_utf8(header).map_err(|_| FormatError::HeaderText(ID_HEADER))?;
    Ok(EntryId::parse_header(text).map_err(FormatError::Header)?.id)
}

#[cfg(test)]
mod envelope_tests;
#[cfg(test)]
mod full_document_tests;
#[cfg(test)]
mod tests;
