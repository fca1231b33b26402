//! The identity of an `_id`: bytes that are the same for equal `_id`s and differ for others.

use crate::document::{CodeWithScope, Document, Element, MAX_DEPTH, Malformed, kind};
use crate::json::number::{BsonNumber, Number};

/// Appends a type byte and a BSON value to `out`. Two `_id`s have the same bytes if and only if
/// MongoDB regards them as equal under the simple collation.
///
/// The following are equal: numbers of the same value, whatever their type (including all NaNs); a
/// symbol and a string of the same bytes; documents with equal fields in the same order; arrays
/// with equal values, because an index ignores their names.
///
/// # Errors
/// [`Malformed`] if the value is damaged or nested too deeply. `out` is then unchanged.
pub fn write_id_identity(id: Element<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    out.push(0);
    let outcome = write_value(id, 0, out).map(|kind| set_byte(start, kind, out));
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome
}

/// Appends the value's normal form and returns its type.
fn write_value(element: Element<'_>, depth: usize, out: &mut Vec<u8>) -> Result<u8, Malformed> {
    if let Some(number) = Number::of(element)? {
        let BsonNumber { kind, value } = number.to_bson();
        out.extend_from_slice(value.as_ref());
        return Ok(kind);
    }
    match element.kind {
        kind::DOCUMENT => write_document(element.document()?, depth + 1, out)?,
        kind::ARRAY => write_array(element.document()?, depth + 1, out)?,
        kind::CODE_WITH_SCOPE => {
            let CodeWithScope { code, scope } = element.code_with_scope()?;
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&length(code.len() + 1));
            out.extend_from_slice(code);
            out.push(0);
            // Two levels, as in the text of the key, so both accept the same nesting.
            write_document(scope, depth + 2, out)?;
            set_length(start, out);
        }
        kind::STRING | kind::SYMBOL => {
            element.string_bytes()?;
            out.extend_from_slice(element.value);
            return Ok(kind::STRING);
        }
        kind::BOOLEAN => out.push(element.boolean()?.into()),
        _ => out.extend_from_slice(element.value),
    }
    Ok(element.kind)
}

fn write_document(
    document: Document<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let start = open(depth, out)?;
    for element in document.elements() {
        let element = element?;
        write_field(element.name, element, depth, out)?;
    }
    out.push(0);
    set_length(start, out);
    Ok(())
}

fn write_array(document: Document<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = open(depth, out)?;
    for (index, element) in document.elements().enumerate() {
        let name = itoa::Buffer::new().format(index).to_owned();
        write_field(name.as_bytes(), element?, depth, out)?;
    }
    out.push(0);
    set_length(start, out);
    Ok(())
}

fn open(depth: usize, out: &mut Vec<u8>) -> Result<usize, Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    Ok(start)
}

fn write_field(
    name: &[u8],
    element: Element<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let start = out.len();
    out.push(0);
    out.extend_from_slice(name);
    out.push(0);
    let kind = write_value(element, depth, out)?;
    set_byte(start, kind, out);
    Ok(())
}

fn set_byte(at: usize, byte: u8, out: &mut [u8]) {
    if let Some(place) = out.get_mut(at) {
        *place = byte;
    }
}

fn set_length(start: usize, out: &mut [u8]) {
    let length = length(out.len() - start);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length);
    }
}

/// Encodes a BSON length. An `_id` is far below 2 GiB, so the conversion cannot fail.
fn length(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(-1).to_le_bytes()
}
