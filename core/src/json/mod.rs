//! Conversion of raw BSON to MongoDB Extended JSON v2 and back, without intermediate values.
//!
//! [`write_document`] reads the bytes of a document and writes text into a buffer that the caller
//! reuses. [`parse_document`] reads text and writes bytes. Both keep what typed libraries drop: the
//! order of fields, duplicate names, deprecated types, and the options of a regular expression as
//! written.
//!
//! Some documents have no text that reads back as the same bytes. The writer detects them while it
//! writes: [`Exactness::Exact`] is a guarantee about the canonical text, whatever the [`Mode`].
//! These values are lossy:
//!
//! | value | text |
//! | --- | --- |
//! | a string, name, pattern, … that is not UTF-8 | U+FFFD |
//! | a document with the same name twice | both fields, of which most readers keep one |
//! | a document with the field names of a type wrapper (`{"$oid": …}`, `{"$code": …, "$scope": …}`) | the document, which a reader may take for the typed value |
//! | a NaN other than the positive quiet NaN without a payload | `NaN` |
//! | a Decimal128 that is not canonical: coefficient over 34 digits, extra bits in an infinity or a NaN | its value |
//! | an array whose names are not `0`, `1`, … | the values in order |
//! | a boolean byte other than 0 and 1 | `true` |
//! | a binary of subtype 2 whose inner length is wrong | all its bytes |
//!
//! DBRefs (`{"$ref": …, "$id": …}`) and query operators (`$regex`, `$type`, …) are plain documents
//! in both directions, and so are the wrappers of Extended JSON v1
//! (`{"$binary": "…", "$type": "00"}`), except for [`parse_old_document`].
//!
//! The reader is more lenient than the specification. A bare integer in `$date` counts as
//! milliseconds. An object that has the name of a type wrapper but not its form (`{"$oid": 42}`) is
//! a plain document: the specification requires an error, but documents with such names exist. An
//! event with such a document must remain readable, because it also contains the original bytes of
//! the entry.
//!
//! # Modules
//!
//! - `encode` writes raw BSON as text; `decode` parses text
//! - `wrapper` reads the objects that represent a typed value
//! - `number` reads and writes numbers; `decimal` is Decimal128, and `order` compares numbers of
//!   all types
//! - `date` reads and writes dates
//! - `text` writes strings, and reads and writes hex and base64
//! - `names` detects names that occur twice in an object

mod date;
pub(crate) mod decimal;
mod decode;
mod encode;
pub(crate) mod names;
pub(crate) mod number;
mod order;
pub(crate) mod text;
mod wrapper;

use std::str::FromStr;

pub use decode::{JsonError, JsonFault, parse_document, parse_old_document};
pub(crate) use encode::write_key_value;
pub use encode::{write_document, write_value};
pub use text::write_string;

/// Appends milliseconds since 1970 as an RFC 3339 time in UTC, such as `2012-12-24T12:15:30.501Z`.
/// Returns false, and appends nothing, outside the years 1970 to 9999.
pub fn write_time(millis: i64, out: &mut Vec<u8>) -> bool {
    date::write(millis, out)
}

/// The form of Extended JSON v2 to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Relaxed: numbers and dates in a readable form; integers lose their width.
    Relaxed,
    /// Canonical: every type is kept.
    Canonical,
}

impl Mode {
    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Canonical => "canonical",
        }
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::Relaxed, Self::Canonical];
        let found = all.into_iter().find(|mode| mode.name() == name);
        found.ok_or("must be relaxed or canonical")
    }
}

/// The guarantee that canonical text reads back as the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Exactness {
    /// [`parse_document`] restores the same bytes from the canonical text, and so does any reader
    /// that keeps types and the order of fields.
    Exact,
    /// A reader may restore different bytes. If the original bytes matter, they must accompany the
    /// text.
    Lossy,
}

impl Exactness {
    /// Returns true for [`Exactness::Exact`].
    #[must_use]
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::Exact)
    }

    /// Returns `Exact` if both are.
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Exact, Self::Exact) => Self::Exact,
            _ => Self::Lossy,
        }
    }
}
