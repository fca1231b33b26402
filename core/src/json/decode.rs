//! The parser from text to raw BSON.

use std::fmt;

use super::text::plain_length;
use super::{number, wrapper};
use crate::document::{Document, MAX_DEPTH, kind};

/// The nesting limit of text. Text may be nested deeper than the document that it represents,
/// because of type wrappers and of the event around the document.
const MAX_TEXT_DEPTH: usize = MAX_DEPTH + 16;

/// The reason why text is not an Extended JSON document, and the place of the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {position}")]
pub struct JsonError {
    /// The offset in bytes from the start of the text.
    pub position: usize,
    /// The fault at that place.
    pub fault: JsonFault,
}

/// A fault in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonFault {
    /// The text ends too early.
    End,
    /// The text is not UTF-8.
    NotUtf8,
    /// The text has something else in place of the named token.
    Expected(&'static str),
    /// A string contains an unescaped control character.
    ControlCharacter,
    /// An escape that JSON does not define, or half a surrogate pair.
    Escape,
    /// A field name contains a zero byte, which BSON does not allow.
    ZeroInName,
    /// A number outside the range of a double.
    NumberTooLarge,
    /// The text exceeds the nesting limit.
    TooDeep,
    /// The document exceeds the 2 GiB of a BSON length.
    TooLarge,
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("unexpected end of JSON"),
            Self::NotUtf8 => f.write_str("invalid UTF-8"),
            Self::Expected(what) => write!(f, "expected {what}"),
            Self::ControlCharacter => f.write_str("unescaped control character"),
            Self::Escape => f.write_str("invalid escape"),
            Self::ZeroInName => f.write_str("NUL character in a field name"),
            Self::NumberTooLarge => f.write_str("number too large for a double"),
            Self::TooDeep => f.write_str("nested too deeply"),
            Self::TooLarge => f.write_str("document too large"),
        }
    }
}

/// Reads one Extended JSON object, canonical or relaxed, and appends it to `out` as BSON.
///
/// The order of names and duplicate names are kept. A number without a fraction or exponent becomes
/// an int32 if it fits, otherwise an int64, otherwise a double. Other numbers become doubles. The
/// outermost object is always a document, whatever its names.
///
/// # Errors
/// [`JsonError`] if the text is invalid. `out` is then unchanged.
pub fn parse_document(text: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
    parse(text, Dialect::Current, out)
}

/// Reads one Extended JSON object like [`parse_document`], and also what MongoDB's Java driver
/// writes in its `STRICT` mode, which is Extended JSON v1: `{"$binary": "…", "$type": "00"}`,
/// `{"$regex": "…", "$options": "…"}`, and the numbers `NaN`, `Infinity` and `-Infinity` without
/// quotation marks.
///
/// # Errors
/// [`JsonError`] if the text is invalid. `out` is then unchanged.
pub fn parse_old_document(text: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
    parse(text, Dialect::WithOld, out)
}

/// The wrappers that the parser reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Those of Extended JSON v2.
    Current,
    /// Those of Extended JSON v2 and v1.
    WithOld,
}

fn parse(text: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> Result<(), JsonError> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err(JsonError {
            position: error.valid_up_to(),
            fault: JsonFault::NotUtf8,
        });
    }
    let start = out.len();
    let mut parser = Parser {
        text,
        rest: text,
        dialect,
        out,
        typed: Vec::new(),
    };
    let outcome = parser.whole();
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome
}

struct Parser<'t, 'o> {
    text: &'t [u8],
    /// The text that has not been read yet.
    rest: &'t [u8],
    dialect: Dialect,
    out: &'o mut Vec<u8>,
    /// The buffer for a typed value before it is copied to `out`.
    typed: Vec<u8>,
}

impl<'t> Parser<'t, '_> {
    fn whole(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.expect(b'{', "an object")?;
        self.object(1)?;
        self.skip_space();
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.error(JsonFault::Expected("the end of the text")))
        }
    }

    fn error(&self, fault: JsonFault) -> JsonError {
        JsonError {
            position: self.text.len() - self.rest.len(),
            fault,
        }
    }

    /// Returns the error for a place where `what` is expected.
    fn expected(&self, what: &'static str) -> JsonError {
        let fault = if self.rest.is_empty() {
            JsonFault::End
        } else {
            JsonFault::Expected(what)
        };
        self.error(fault)
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Consumes the next byte if it is `byte`.
    fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.expected(what))
        }
    }

    /// Reads the rest of an object after its brace, as a document.
    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        let start = self.open(depth)?;
        self.skip_space();
        if self.take(b'}') {
            return self.close(start);
        }
        loop {
            let kind_at = self.out.len();
            self.out.push(0);
            self.name()?;
            self.skip_space();
            self.expect(b':', "a colon")?;
            self.value(kind_at, depth)?;
            self.skip_space();
            if self.take(b'}') {
                return self.close(start);
            }
            self.expect(b',', "a comma or a closing brace")?;
            self.skip_space();
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        let start = self.open(depth)?;
        self.skip_space();
        if self.take(b']') {
            return self.close(start);
        }
        let mut index = 0_u64;
        loop {
            let kind_at = self.out.len();
            self.out.push(0);
            number::write_integer(index, self.out);
            self.out.push(0);
            self.value(kind_at, depth)?;
            self.skip_space();
            if self.take(b']') {
                return self.close(start);
            }
            self.expect(b',', "a comma or a closing bracket")?;
            index += 1;
        }
    }

    fn open(&mut self, depth: usize) -> Result<usize, JsonError> {
        if depth > MAX_TEXT_DEPTH {
            return Err(self.error(JsonFault::TooDeep));
        }
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        Ok(start)
    }

    fn close(&mut self, start: usize) -> Result<(), JsonError> {
        self.out.push(0);
        self.set_length(start, self.out.len() - start)
    }

    fn set_length(&mut self, at: usize, length: usize) -> Result<(), JsonError> {
        let prefix = i32::try_from(length).map_err(|_| self.error(JsonFault::TooLarge))?;
        if let Some(space) = self.out.get_mut(at..at + 4) {
            space.copy_from_slice(&prefix.to_le_bytes());
        }
        Ok(())
    }

    /// Reads a value and sets the type byte at `kind_at`, before its name.
    fn value(&mut self, kind_at: usize, depth: usize) -> Result<(), JsonError> {
        self.skip_space();
        let kind = match self.rest.first() {
            Some(b'"') => self.string()?,
            Some(b'{') => {
                self.take(b'{');
                let start = self.out.len();
                self.object(depth + 1)?;
                self.unwrap_typed(start)
            }
            Some(b'[') => {
                self.take(b'[');
                self.array(depth + 1)?;
                kind::ARRAY
            }
            Some(b'-' | b'0'..=b'9') if !self.rest.starts_with(b"-I") => self.number()?,
            _ => self.literal()?,
        };
        if let Some(byte) = self.out.get_mut(kind_at) {
            *byte = kind;
        }
        Ok(())
    }

    /// Replaces the document that starts at `start` with the value that it represents, if it is a
    /// type wrapper. This happens after the whole object has been read, because its names may be in
    /// any order and the values inside may be wrappers themselves.
    #[inline(never)]
    fn unwrap_typed(&mut self, start: usize) -> u8 {
        let document = self.out.get(start..).unwrap_or_default();
        if document.get(5) != Some(&b'$') {
            return kind::DOCUMENT;
        }
        let Ok(document) = Document::new(document) else {
            return kind::DOCUMENT;
        };
        self.typed.clear();
        let Some(kind) = wrapper::read(document, self.dialect, &mut self.typed) else {
            return kind::DOCUMENT;
        };
        self.out.truncate(start);
        self.out.extend_from_slice(&self.typed);
        kind
    }

    fn literal(&mut self) -> Result<u8, JsonError> {
        let (rest, kind, value): (_, _, &[u8]) = match self.rest {
            [b't', b'r', b'u', b'e', rest @ ..] => (rest, kind::BOOLEAN, &[1]),
            [b'f', b'a', b'l', b's', b'e', rest @ ..] => (rest, kind::BOOLEAN, &[0]),
            [b'n', b'u', b'l', b'l', rest @ ..] => (rest, kind::NULL, &[]),
            _ if self.dialect == Dialect::WithOld => return self.special_number(),
            _ => return Err(self.expected("a value")),
        };
        self.rest = rest;
        self.out.extend_from_slice(value);
        Ok(kind)
    }

    /// Reads a double for which JSON has no number.
    fn special_number(&mut self) -> Result<u8, JsonError> {
        let specials = [
            (&b"NaN"[..], f64::NAN),
            (b"Infinity", f64::INFINITY),
            (b"-Infinity", f64::NEG_INFINITY),
        ];
        let mut found = specials.into_iter();
        let found = found.find_map(|(name, value)| Some((self.rest.strip_prefix(name)?, value)));
        let (rest, value) = found.ok_or_else(|| self.expected("a value"))?;
        self.rest = rest;
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(kind::DOUBLE)
    }

    fn name(&mut self) -> Result<(), JsonError> {
        let position = self.text.len() - self.rest.len();
        let start = self.out.len();
        self.unescaped("a field name")?;
        if self.out.get(start..).unwrap_or_default().contains(&0) {
            return Err(JsonError {
                position,
                fault: JsonFault::ZeroInName,
            });
        }
        self.out.push(0);
        Ok(())
    }

    fn string(&mut self) -> Result<u8, JsonError> {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        self.unescaped("a string")?;
        self.out.push(0);
        self.set_length(start, self.out.len() - start - 4)?;
        Ok(kind::STRING)
    }

    /// Appends the characters of a string without its quotes.
    #[inline(never)]
    fn unescaped(&mut self, what: &'static str) -> Result<(), JsonError> {
        self.expect(b'"', what)?;
        loop {
            let plain = plain_length::<false>(self.rest);
            let (run, rest) = self
                .rest
                .split_at_checked(plain)
                .unwrap_or((self.rest, &[]));
            self.out.extend_from_slice(run);
            self.rest = rest;
            match rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(());
                }
                [b'\\', rest @ ..] => self.escape(rest)?,
                [] => return Err(self.error(JsonFault::End)),
                _ => return Err(self.error(JsonFault::ControlCharacter)),
            }
        }
    }

    /// Reads the rest of an escape after the backslash.
    fn escape(&mut self, after: &'t [u8]) -> Result<(), JsonError> {
        let (letter, rest) = after
            .split_first()
            .ok_or_else(|| self.error(JsonFault::Escape))?;
        let (character, rest) = match letter {
            b'"' | b'\\' | b'/' => (char::from(*letter), rest),
            b'b' => ('\u{8}', rest),
            b'f' => ('\u{c}', rest),
            b'n' => ('\n', rest),
            b'r' => ('\r', rest),
            b't' => ('\t', rest),
            b'u' => unicode_escape(rest).ok_or_else(|| self.error(JsonFault::Escape))?,
            _ => return Err(self.error(JsonFault::Escape)),
        };
        self.rest = rest;
        self.out
            .extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    #[inline(never)]
    fn number(&mut self) -> Result<u8, JsonError> {
        let (text, rest, integral) =
            split_number(self.rest).ok_or_else(|| self.error(JsonFault::Expected("a number")))?;
        let text = std::str::from_utf8(text).unwrap_or_default();
        let integer = if integral {
            text.parse::<i64>().ok()
        } else {
            None
        };
        let kind = if let Some(integer) = integer {
            if let Ok(small) = i32::try_from(integer) {
                self.out.extend_from_slice(&small.to_le_bytes());
                kind::INT32
            } else {
                self.out.extend_from_slice(&integer.to_le_bytes());
                kind::INT64
            }
        } else {
            let double = text.parse::<f64>().ok().filter(|double| double.is_finite());
            let double = double.ok_or_else(|| self.error(JsonFault::NumberTooLarge))?;
            self.out.extend_from_slice(&double.to_le_bytes());
            kind::DOUBLE
        };
        self.rest = rest;
        Ok(kind)
    }
}

/// Returns the character of a `\u` escape, or of the two escapes of a surrogate pair.
fn unicode_escape(rest: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = code_unit(rest)?;
    if let Some(character) = char::from_u32(high.into()) {
        return Some((character, rest));
    }
    let (low, rest) = code_unit(rest.strip_prefix(b"\\u")?)?;
    let character = char::decode_utf16([high, low]).next()?.ok()?;
    Some((character, rest))
}

fn code_unit(rest: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = rest.split_first_chunk::<4>()?;
    Some((
        u16::from_be_bytes(super::text::parse_hex::<2>(digits)?),
        rest,
    ))
}

/// Splits off a number in JSON's grammar. Returns it, the rest of the text, and true if it has
/// neither a fraction nor an exponent.
fn split_number(text: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let digits = |rest: &[u8]| rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = usize::from(text.first() == Some(&b'-'));
    let whole = digits(text.get(end..)?);
    if whole == 0 || (whole > 1 && text.get(end) == Some(&b'0')) {
        return None;
    }
    end += whole;
    let integral_end = end;
    if text.get(end) == Some(&b'.') {
        let fraction = digits(text.get(end + 1..)?);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(text.get(end + 1 + sign..)?);
        if exponent == 0 {
            return None;
        }
        end += 1 + sign + exponent;
    }
    let (number, rest) = text.split_at_checked(end)?;
    Some((number, rest, end == integral_end))
}
