//! Raw BSON to MongoDB Extended JSON v2 and back, without values in between.
//!
//! [`write_document`] walks the bytes of a document and writes text into a buffer that the caller
//! reuses; [`parse_document`] reads text and writes bytes. Both keep what typed libraries drop:
//! the order of fields, duplicate names, deprecated types, the options of a regular expression as
//! they stand.
//!
//! Not every document has a text that reads back as the same bytes. The writer says so while it
//! writes: [`Exactness::Exact`] is a promise about the canonical text, whatever the [`Mode`].
//! Lossy are:
//!
//! | what | what the text says |
//! | --- | --- |
//! | a string, name, pattern, … that is no UTF-8 | U+FFFD |
//! | a document with the same name twice | both fields, of which most readers keep one |
//! | a document named like a type wrapper (`{"$oid": …}`, `{"$code": …, "$scope": …}`) | itself, which a reader may take for the typed value |
//! | a NaN other than the one positive quiet NaN without payload | `NaN` |
//! | a Decimal128 that is not canonical: coefficient over 34 digits, bits beside an infinity | what it stands for |
//! | an array whose names are not `0`, `1`, … | the values in order |
//! | a boolean byte other than 0 and 1 | `true` |
//! | a binary of subtype 2 whose inner length is wrong | all its bytes |
//!
//! DBRefs (`{"$ref": …, "$id": …}`) and query operators (`$regex`, `$type`, …) are plain
//! documents on both ways, as are the wrappers of Extended JSON v1 (`{"$binary": "…", "$type":
//! "00"}`).
//!
//! The reader is lenient in two points. A bare integer in `$date` counts as milliseconds. And an
//! object that has the name of a type wrapper but not its form (`{"$oid": 42}`) is a plain
//! document. The specification asks for an error, but documents with such names exist, and an
//! event that carries one must stay readable, if only to reach the entry's own bytes in it.

mod date;
pub(crate) mod decimal;
mod decode;
mod encode;
pub(crate) mod names;
pub(crate) mod number;
mod order;
pub(crate) mod text;
mod wrapper;

pub use decode::{JsonError, JsonFault, parse_document};
pub(crate) use encode::write_key_value;
pub use encode::{write_document, write_value};
pub use text::write_string;

/// Which of the two forms of Extended JSON v2 to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Numbers and dates as people expect them; integers lose their width.
    Relaxed,
    /// Every type kept.
    Canonical,
}

/// Whether canonical text reads back as the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Exactness {
    /// [`parse_document`] makes the same bytes of the canonical text, and so does any reader that
    /// keeps types and the order of fields.
    Exact,
    /// It may make others; who needs the bytes has to carry them beside the text.
    Lossy,
}

impl Exactness {
    /// Whether the text loses nothing.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::Exact)
    }

    /// Exact if both are.
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Exact, Self::Exact) => Self::Exact,
            _ => Self::Lossy,
        }
    }
}
