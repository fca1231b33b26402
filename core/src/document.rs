//! Raw BSON, read without decoding.
//!
//! The project carries documents byte for byte, including those that typed BSON libraries refuse:
//! strings that are not UTF-8, duplicate field names, deprecated types, arrays with unusual keys.
//! It therefore reads the bytes itself. A [`Document`] is a slice, an [`Element`] consists of a
//! type byte and two slices of the document, and a value is decoded only on request. Lengths are
//! checked while elements are read. The contents of an embedded document are checked when it is
//! read in turn.
//!
//! # Modules
//!
//! - `builder` builds documents
//! - `search` searches a document for a type
//! - `values` has the types of values that consist of two parts
//! - `whole` validates a document at every level
//! - `kind` names the types

mod builder;
mod search;
mod values;
mod whole;

use std::fmt;

pub use builder::DocumentBuilder;
pub use values::{Binary, CodeWithScope, DbPointer, Regex};

use search::may_have;
use whole::{is_whole, is_whole_element};

use crate::position::Timestamp;

/// The reason why bytes are not a valid document: damaged BSON, or a field that is missing or not
/// allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The document's length prefix differs from the number of its bytes, or its final zero is
    /// missing.
    #[error(
        "document declares a length of {declared} bytes, but {actual} bytes are present, or its \
         final zero byte is missing"
    )]
    Length {
        /// The length that the prefix declares; -1 if the prefix is incomplete.
        declared: i64,
        /// The number of bytes present.
        actual: usize,
    },
    /// An element extends beyond the end of its document, or its value does not have the length
    /// or the final zero of its type.
    #[error("element {name:?} of type 0x{kind:02x} is truncated or has a wrong length")]
    Truncated {
        /// The element's name; bytes that are not UTF-8 are replaced.
        name: String,
        /// The BSON type byte.
        kind: u8,
    },
    /// A type byte is not defined by BSON.
    #[error("element {name:?} has the unknown type 0x{kind:02x}")]
    UnknownType {
        /// The element's name; bytes that are not UTF-8 are replaced.
        name: String,
        /// The BSON type byte.
        kind: u8,
    },
    /// The type or the value of a field is not what the format requires.
    #[error(
        "field {name:?} of type 0x{kind:02x}: the type or the value is not allowed for this field"
    )]
    WrongType {
        /// The name of the field.
        name: String,
        /// The BSON type byte that was found.
        kind: u8,
    },
    /// A field that the format requires is missing.
    #[error("field {0:?} is missing")]
    Missing(&'static str),
    /// Documents are nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// The number of nesting levels that recursive code accepts. Servers accept 180 to 200; the margin
/// is for entries that wrap a document (`applyOps` in `applyOps`).
pub const MAX_DEPTH: usize = 512;

/// BSON type bytes.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the BSON specification")]
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0a;
    pub const REGEX: u8 = 0x0b;
    pub const DB_POINTER: u8 = 0x0c;
    pub const CODE: u8 = 0x0d;
    pub const SYMBOL: u8 = 0x0e;
    pub const CODE_WITH_SCOPE: u8 = 0x0f;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL128: u8 = 0x13;
    pub const MAX_KEY: u8 = 0x7f;
    pub const MIN_KEY: u8 = 0xff;
}

/// A BSON document (or array) as bytes: length prefix, elements, a zero byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Document<'a>(&'a [u8]);

impl<'a> Document<'a> {
    /// The empty document.
    pub const EMPTY: Document<'static> = Document(&[5, 0, 0, 0, 0]);

    /// Reads a document that fills all of `bytes`.
    ///
    /// # Errors
    /// [`Malformed::Length`] if the prefix and the slice differ or the final zero is missing.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (document, rest) = Self::split(bytes)?;
        if rest.is_empty() {
            Ok(document)
        } else {
            Err(length_error(bytes))
        }
    }

    /// Reads the document at the start of `bytes` and returns it with the bytes after it.
    ///
    /// # Errors
    /// [`Malformed::Length`] as in [`Document::new`].
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let length = bytes
            .first_chunk::<4>()
            .and_then(|prefix| usize::try_from(i32::from_le_bytes(*prefix)).ok());
        let (document, rest) = length
            .filter(|length| *length >= 5)
            .and_then(|length| bytes.split_at_checked(length))
            .ok_or_else(|| length_error(bytes))?;
        if document.last() == Some(&0) {
            Ok((Document(document), rest))
        } else {
            Err(length_error(bytes))
        }
    }

    /// Returns the document's bytes.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns true if the document has no elements.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.len() == 5
    }

    /// Returns an iterator over the elements, in order.
    #[must_use]
    pub fn elements(self) -> Elements<'a> {
        let end = self.0.len().saturating_sub(1);
        Elements {
            rest: self.0.get(4..end).unwrap_or_default(),
        }
    }

    /// Returns the first element with this name.
    ///
    /// # Errors
    /// [`Malformed`] if an element before it is damaged.
    pub fn get(self, name: &str) -> Result<Option<Element<'a>>, Malformed> {
        for element in self.elements() {
            let element = element?;
            if element.name == name.as_bytes() {
                return Ok(Some(element));
            }
        }
        Ok(None)
    }

    /// Returns the first element.
    ///
    /// # Errors
    /// [`Malformed`] if the element is damaged.
    pub fn first(self) -> Result<Option<Element<'a>>, Malformed> {
        self.elements().next().transpose()
    }

    /// Returns true if a field at the top level has this type ([`kind`]), or if damage ends the
    /// search. The search costs less than reading the elements.
    #[must_use]
    pub fn may_have(self, kind: u8) -> bool {
        may_have(self.0, kind)
    }

    /// Checks every level, so that later reads cannot fail.
    ///
    /// # Errors
    /// [`Malformed`] for the first damaged place.
    pub fn validate(self) -> Result<(), Malformed> {
        if is_whole(self.0, 0) {
            return Ok(());
        }
        self.find_fault(0)
    }

    fn find_fault(self, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        for element in self.elements() {
            element?.find_fault(depth)?;
        }
        Ok(())
    }
}

fn length_error(bytes: &[u8]) -> Malformed {
    let declared = bytes
        .first_chunk::<4>()
        .map_or(-1, |prefix| i32::from_le_bytes(*prefix).into());
    Malformed::Length {
        declared,
        actual: bytes.len(),
    }
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.0.len())
    }
}

/// An iterator over the elements of a [`Document`], in order. It ends after an error.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    fn fail(&mut self, error: Malformed) -> Option<Result<Element<'a>, Malformed>> {
        self.rest = &[];
        Some(Err(error))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.rest.split_first()?;
        let Some(end) = zero_in(rest) else {
            return self.fail(Malformed::Truncated {
                name: lossy(rest),
                kind,
            });
        };
        let (name, rest) = rest.split_at(end);
        let rest = rest.get(1..).unwrap_or_default();
        match value_length(kind, rest) {
            ValueLength::Known(length) => {
                if let Some((value, rest)) = rest.split_at_checked(length) {
                    self.rest = rest;
                    Some(Ok(Element { name, kind, value }))
                } else {
                    self.fail(Malformed::Truncated {
                        name: lossy(name),
                        kind,
                    })
                }
            }
            ValueLength::Truncated => self.fail(Malformed::Truncated {
                name: lossy(name),
                kind,
            }),
            ValueLength::UnknownType => self.fail(Malformed::UnknownType {
                name: lossy(name),
                kind,
            }),
        }
    }
}

/// Returns the position of the first zero byte. Most names end within the first eight bytes, which
/// are therefore examined together.
#[inline]
fn zero_in(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let Some((first, rest)) = bytes.split_first_chunk::<8>() else {
        return bytes.iter().position(|byte| *byte == 0);
    };
    let word = u64::from_le_bytes(*first);
    // The lowest set bit belongs to the first zero byte. Borrows can make the bits above it wrong.
    let zeros = word.wrapping_sub(ONES) & !word & HIGHS;
    if zeros != 0 {
        return usize::try_from(zeros.trailing_zeros() / 8).ok();
    }
    let after = rest.iter().position(|byte| *byte == 0)?;
    Some(first.len() + after)
}

enum ValueLength {
    Known(usize),
    Truncated,
    UnknownType,
}

#[inline]
fn value_length(kind: u8, bytes: &[u8]) -> ValueLength {
    let prefixed = |extra: usize, least: usize| match bytes.first_chunk::<4>() {
        Some(prefix) => match usize::try_from(i32::from_le_bytes(*prefix)) {
            Ok(length) if length >= least => ValueLength::Known(length.saturating_add(extra)),
            _ => ValueLength::Truncated,
        },
        None => ValueLength::Truncated,
    };
    match kind {
        kind::DOUBLE | kind::DATE | kind::TIMESTAMP | kind::INT64 => ValueLength::Known(8),
        kind::STRING | kind::CODE | kind::SYMBOL => prefixed(4, 1),
        kind::DOCUMENT | kind::ARRAY | kind::CODE_WITH_SCOPE => prefixed(0, 5),
        kind::BINARY => prefixed(5, 0),
        kind::UNDEFINED | kind::NULL | kind::MIN_KEY | kind::MAX_KEY => ValueLength::Known(0),
        kind::OBJECT_ID => ValueLength::Known(12),
        kind::BOOLEAN => ValueLength::Known(1),
        kind::REGEX => {
            let mut zeros = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0);
            match zeros.nth(1) {
                Some((end, _)) => ValueLength::Known(end + 1),
                None => ValueLength::Truncated,
            }
        }
        kind::DB_POINTER => prefixed(4 + 12, 1),
        kind::INT32 => ValueLength::Known(4),
        kind::DECIMAL128 => ValueLength::Known(16),
        _ => ValueLength::UnknownType,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An element of a document: name, type and the bytes of the value (without type and name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// The field name, without its final zero. It need not be UTF-8.
    pub name: &'a [u8],
    /// The BSON type byte, one of [`kind`].
    pub kind: u8,
    /// The value's bytes, unchanged.
    pub value: &'a [u8],
}

impl<'a> Element<'a> {
    /// Checks every level of the value, so that later reads cannot fail.
    ///
    /// # Errors
    /// [`Malformed`] for the first damaged place.
    #[inline]
    pub fn validate(self) -> Result<(), Malformed> {
        if is_whole_element(self, 0) {
            return Ok(());
        }
        self.find_fault(0)
    }

    /// Finds the first damaged place. `depth` is the nesting level of the document that has this
    /// element.
    fn find_fault(self, depth: usize) -> Result<(), Malformed> {
        match self.kind {
            kind::DOCUMENT | kind::ARRAY => self.document()?.find_fault(depth + 1),
            kind::CODE_WITH_SCOPE => self.code_with_scope()?.scope.find_fault(depth + 1),
            kind::STRING | kind::CODE | kind::SYMBOL => self.string_bytes().map(drop),
            kind::BINARY => self.binary().map(drop),
            kind::DB_POINTER => self.db_pointer().map(drop),
            _ => Ok(()),
        }
    }

    /// Returns the embedded document or array.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is neither, [`Malformed::Length`] if it is damaged.
    pub fn document(self) -> Result<Document<'a>, Malformed> {
        match self.kind {
            kind::DOCUMENT | kind::ARRAY => Document::new(self.value),
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns the bytes of a string, symbol or code, without the length and the final zero.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is none of these, [`Malformed::Truncated`] if the
    /// final zero is missing.
    pub fn string_bytes(self) -> Result<&'a [u8], Malformed> {
        match (self.kind, self.value) {
            (kind::STRING | kind::CODE | kind::SYMBOL, [_, _, _, _, text @ .., 0]) => Ok(text),
            (kind::STRING | kind::CODE | kind::SYMBOL, _) => Err(self.truncated()),
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns a string as UTF-8 text.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not a string or not UTF-8, [`Malformed::Truncated`]
    /// if the final zero is missing.
    pub fn str(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string_bytes()?).map_err(|_| self.wrong_type())
    }

    /// Returns the value of a binary.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not binary, [`Malformed::Truncated`] if it is
    /// damaged.
    pub fn binary(self) -> Result<Binary<'a>, Malformed> {
        match (self.kind, self.value) {
            (kind::BINARY, [_, _, _, _, subtype, bytes @ ..]) => Ok(Binary {
                subtype: *subtype,
                bytes,
            }),
            (kind::BINARY, _) => Err(self.truncated()),
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns the value of a regular expression.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not a regular expression, [`Malformed::Truncated`]
    /// if a final zero is missing.
    pub fn regex(self) -> Result<Regex<'a>, Malformed> {
        if self.kind != kind::REGEX {
            return Err(self.wrong_type());
        }
        let end = self
            .value
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| self.truncated())?;
        let (pattern, rest) = self.value.split_at(end);
        match rest {
            [0, options @ .., 0] => Ok(Regex { pattern, options }),
            _ => Err(self.truncated()),
        }
    }

    /// Returns the value of a DBPointer.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not a DBPointer, [`Malformed::Truncated`] if it is
    /// damaged.
    pub fn db_pointer(self) -> Result<DbPointer<'a>, Malformed> {
        if self.kind != kind::DB_POINTER {
            return Err(self.wrong_type());
        }
        match self.value.split_last_chunk::<12>() {
            Some(([_, _, _, _, ns @ .., 0], id)) => Ok(DbPointer { ns, id: *id }),
            _ => Err(self.truncated()),
        }
    }

    /// Returns the code and its scope.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not code with a scope, [`Malformed::Truncated`] or
    /// [`Malformed::Length`] if it is damaged.
    pub fn code_with_scope(self) -> Result<CodeWithScope<'a>, Malformed> {
        if self.kind != kind::CODE_WITH_SCOPE {
            return Err(self.wrong_type());
        }
        let rest = self.value.get(4..).ok_or_else(|| self.truncated())?;
        let prefix = rest.first_chunk::<4>().ok_or_else(|| self.truncated())?;
        let length = usize::try_from(i32::from_le_bytes(*prefix)).map_err(|_| self.truncated())?;
        let text = rest.get(4..).and_then(|rest| rest.split_at_checked(length));
        match text {
            Some(([code @ .., 0], scope)) => Ok(CodeWithScope {
                code,
                scope: Document::new(scope)?,
            }),
            _ => Err(self.truncated()),
        }
    }

    /// Returns the value as an integer: int32, int64, or a double without a fraction, which old
    /// servers and shells write instead of an integer.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not such a number.
    pub fn integer(self) -> Result<i64, Malformed> {
        match self.kind {
            kind::INT32 => Ok(i32::from_le_bytes(self.fixed()?).into()),
            kind::INT64 => Ok(i64::from_le_bytes(self.fixed()?)),
            kind::DOUBLE => {
                exact_integer(f64::from_le_bytes(self.fixed()?)).ok_or_else(|| self.wrong_type())
            }
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns the value as a boolean.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not a boolean.
    pub fn boolean(self) -> Result<bool, Malformed> {
        match (self.kind, self.value) {
            (kind::BOOLEAN, [byte]) => Ok(*byte != 0),
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns a date as milliseconds since 1970.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not a date.
    pub fn date(self) -> Result<i64, Malformed> {
        match self.kind {
            kind::DATE => Ok(i64::from_le_bytes(self.fixed()?)),
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns the value as a timestamp.
    ///
    /// # Errors
    /// [`Malformed::WrongType`] if the value is not a timestamp.
    pub fn timestamp(self) -> Result<Timestamp, Malformed> {
        match self.kind {
            kind::TIMESTAMP => Ok(Timestamp::from_le_bytes(self.fixed()?)),
            _ => Err(self.wrong_type()),
        }
    }

    /// Returns the value's bytes as an array of a known size, whatever the type.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the value has another size.
    pub fn fixed<const N: usize>(self) -> Result<[u8; N], Malformed> {
        self.value.try_into().map_err(|_| self.truncated())
    }

    /// Returns the error for a type or a value that is not allowed for its field.
    #[must_use]
    pub fn wrong_type(self) -> Malformed {
        Malformed::WrongType {
            name: lossy(self.name),
            kind: self.kind,
        }
    }

    fn truncated(self) -> Malformed {
        Malformed::Truncated {
            name: lossy(self.name),
            kind: self.kind,
        }
    }
}

/// Returns the integer that a double represents, if it is integral and fits into an `i64`.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked first"
)]
pub fn exact_integer(double: f64) -> Option<i64> {
    // 2^63 itself is the first double above the range; -2^63 is within it.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let integral = double.fract() == 0.0 && (-LIMIT..LIMIT).contains(&double);
    integral.then_some(double as i64)
}

#[cfg(test)]
mod tests;
