//! The encoder from raw BSON to text.

use super::decimal::Decimal;
use super::names::Names;
use super::number::{self, CANONICAL_NAN, Number, write_integer};
use super::text::{hex_pair, write_base64, write_object_id, write_string};
use super::{Exactness, Mode, date, wrapper};
use crate::document::{
    Binary, CodeWithScope, DbPointer, Document, Element, MAX_DEPTH, Malformed, Regex, kind,
};

/// Appends a document's text to `out`, without spaces.
///
/// The returned exactness is the same in both modes, because it describes the canonical text. A
/// code with scope counts as two levels of nesting: its text is an object in an object.
///
/// # Errors
/// [`Malformed`] if the bytes are damaged or nested too deeply. `out` is then unchanged.
pub fn write_document(
    document: Document<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<Exactness, Malformed> {
    let outcome = write_whole(mode.into(), out, |writer| writer.document(document, 0))?;
    Ok(outcome.exactness)
}

/// Appends the text of one element's value to `out`.
///
/// # Errors
/// [`Malformed`] as in [`write_document`].
pub fn write_value(
    element: Element<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<Exactness, Malformed> {
    let outcome = write_whole(mode.into(), out, |writer| writer.value(element, 0))?;
    Ok(outcome.exactness)
}

/// Appends a value in the form of record keys: relaxed, with one form for equal numbers, and
/// symbols as strings. Returns true if all of it is UTF-8.
pub(crate) fn write_key_value(element: Element<'_>, out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let outcome = write_whole(Style::Key, out, |writer| writer.value(element, 0))?;
    Ok(outcome.utf8)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Relaxed,
    Canonical,
    Key,
}

impl From<Mode> for Style {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Relaxed => Self::Relaxed,
            Mode::Canonical => Self::Canonical,
        }
    }
}

struct Outcome {
    exactness: Exactness,
    utf8: bool,
}

fn write_whole(
    style: Style,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), Malformed>,
) -> Result<Outcome, Malformed> {
    let start = out.len();
    let mut writer = Writer {
        out,
        style,
        exact: true,
        utf8: true,
    };
    if let Err(error) = write(&mut writer) {
        writer.out.truncate(start);
        return Err(error);
    }
    let Writer { exact, utf8, .. } = writer;
    let exactness = if exact && utf8 {
        Exactness::Exact
    } else {
        Exactness::Lossy
    };
    Ok(Outcome { exactness, utf8 })
}

struct Writer<'o> {
    out: &'o mut Vec<u8>,
    style: Style,
    exact: bool,
    utf8: bool,
}

impl Writer<'_> {
    fn document(&mut self, document: Document<'_>, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        let mut first = true;
        let mut names = Names::default();
        self.out.push(b'{');
        for element in document.elements() {
            let element = element?;
            self.exact &= !names.repeats(element, document);
            if first {
                first = false;
                if element.name.first() == Some(&b'$') && wrapper::has_wrapper_names(document) {
                    self.exact = false;
                }
            } else {
                self.out.push(b',');
            }
            self.string(element.name);
            self.out.push(b':');
            self.value(element, depth)?;
        }
        self.exact &= !names.any_repeated(document);
        self.out.push(b'}');
        Ok(())
    }

    fn array(&mut self, document: Document<'_>, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        self.out.push(b'[');
        for (index, element) in document.elements().enumerate() {
            let element = element?;
            if index > 0 {
                self.out.push(b',');
            }
            self.exact &= itoa::Buffer::new().format(index).as_bytes() == element.name;
            self.value(element, depth)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn value(&mut self, element: Element<'_>, depth: usize) -> Result<(), Malformed> {
        match element.kind {
            kind::STRING => self.string(element.string_bytes()?),
            kind::INT32 | kind::INT64 | kind::DOUBLE | kind::DECIMAL128 => self.number(element)?,
            kind::OBJECT_ID => {
                self.put(br#"{"$oid":""#);
                write_object_id(&element.fixed()?, self.out);
                self.put(br#""}"#);
            }
            kind::DOCUMENT => self.document(element.document()?, depth + 1)?,
            kind::ARRAY => self.array(element.document()?, depth + 1)?,
            kind::DATE => self.date(element.date()?),
            kind::BOOLEAN => self.boolean(element)?,
            kind::NULL => self.put(b"null"),
            kind::CODE_WITH_SCOPE => {
                let CodeWithScope { code, scope } = element.code_with_scope()?;
                self.put(br#"{"$code":"#);
                self.string(code);
                self.put(br#","$scope":"#);
                self.document(scope, depth + 2)?;
                self.put(b"}");
            }
            _ => self.rare(element)?,
        }
        Ok(())
    }

    /// Writes the values of rare types that contain no other values. A separate function keeps the
    /// stack frame of each nesting level small.
    #[inline(never)]
    fn rare(&mut self, element: Element<'_>) -> Result<(), Malformed> {
        match element.kind {
            kind::BINARY => self.binary(element)?,
            kind::TIMESTAMP => {
                let [i1, i2, i3, i4, t1, t2, t3, t4] = element.fixed()?;
                self.put(br#"{"$timestamp":{"t":"#);
                write_integer(u32::from_le_bytes([t1, t2, t3, t4]), self.out);
                self.put(br#","i":"#);
                write_integer(u32::from_le_bytes([i1, i2, i3, i4]), self.out);
                self.put(b"}}");
            }
            kind::REGEX => {
                let Regex { pattern, options } = element.regex()?;
                self.put(br#"{"$regularExpression":{"pattern":"#);
                self.string(pattern);
                self.put(br#","options":"#);
                self.string(options);
                self.put(b"}}");
            }
            kind::SYMBOL if self.style == Style::Key => self.string(element.string_bytes()?),
            kind::SYMBOL => self.wrapped_string(br#"{"$symbol":"#, element)?,
            kind::CODE => self.wrapped_string(br#"{"$code":"#, element)?,
            kind::DB_POINTER => {
                let DbPointer { ns, id } = element.db_pointer()?;
                self.put(br#"{"$dbPointer":{"$ref":"#);
                self.string(ns);
                self.put(br#","$id":{"$oid":""#);
                write_object_id(&id, self.out);
                self.put(br#""}}}"#);
            }
            kind::UNDEFINED => self.put(br#"{"$undefined":true}"#),
            kind::MIN_KEY => self.put(br#"{"$minKey":1}"#),
            kind::MAX_KEY => self.put(br#"{"$maxKey":1}"#),
            _ => return Err(element.wrong_type()),
        }
        Ok(())
    }

    #[inline]
    fn put(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
    }

    #[inline]
    fn string(&mut self, bytes: &[u8]) {
        self.utf8 &= write_string(bytes, self.out);
    }

    fn wrapped_string(&mut self, open: &[u8], element: Element<'_>) -> Result<(), Malformed> {
        self.put(open);
        self.string(element.string_bytes()?);
        self.put(b"}");
        Ok(())
    }

    fn boolean(&mut self, element: Element<'_>) -> Result<(), Malformed> {
        self.exact &= matches!(element.value, [0 | 1]);
        self.put(if element.boolean()? {
            b"true"
        } else {
            b"false"
        });
        Ok(())
    }

    #[inline(never)]
    fn number(&mut self, element: Element<'_>) -> Result<(), Malformed> {
        if self.style == Style::Key {
            if let Some(number) = Number::of(element)? {
                number.write(self.out);
            }
            return Ok(());
        }
        let canonical = self.style == Style::Canonical;
        match element.kind {
            kind::INT32 => {
                let value = i32::from_le_bytes(element.fixed()?);
                self.quoted(canonical, br#"{"$numberInt":""#, |out| {
                    write_integer(value, out);
                });
            }
            kind::INT64 => {
                let value = i64::from_le_bytes(element.fixed()?);
                self.quoted(canonical, br#"{"$numberLong":""#, |out| {
                    write_integer(value, out);
                });
            }
            kind::DOUBLE => {
                let value = f64::from_le_bytes(element.fixed()?);
                self.exact &= !value.is_nan() || value.to_bits() == CANONICAL_NAN;
                let quoted = canonical || !value.is_finite();
                self.quoted(quoted, br#"{"$numberDouble":""#, |out| {
                    number::write_double(value, out);
                });
            }
            _ => {
                let bytes = element.fixed()?;
                let decimal = Decimal::from_bytes(bytes);
                self.exact &= decimal.to_bytes() == bytes;
                self.quoted(true, br#"{"$numberDecimal":""#, |out| decimal.write(out));
            }
        }
        Ok(())
    }

    #[inline]
    fn quoted(&mut self, quoted: bool, open: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        if quoted {
            self.put(open);
            write(self.out);
            self.put(br#""}"#);
        } else {
            write(self.out);
        }
    }

    #[inline(never)]
    fn date(&mut self, millis: i64) {
        self.put(br#"{"$date":"#);
        let start = self.out.len();
        self.put(b"\"");
        if self.style != Style::Canonical && date::write(millis, self.out) {
            self.put(br#""}"#);
        } else {
            self.out.truncate(start);
            self.put(br#"{"$numberLong":""#);
            write_integer(millis, self.out);
            self.put(br#""}}"#);
        }
    }

    fn binary(&mut self, element: Element<'_>) -> Result<(), Malformed> {
        let Binary { subtype, mut bytes } = element.binary()?;
        if subtype == wrapper::OLD_BINARY {
            // Subtype 2 repeats the length inside the value. The text omits it.
            match wrapper::inner_binary(bytes) {
                Some(inner) => bytes = inner,
                None => self.exact = false,
            }
        }
        self.put(br#"{"$binary":{"base64":""#);
        write_base64(bytes, self.out);
        self.put(br#"","subType":""#);
        self.put(&hex_pair(subtype));
        self.put(br#""}}"#);
        Ok(())
    }
}
