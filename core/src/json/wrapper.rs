//! Type wrappers: objects that represent a typed value, such as `{"$oid": "…"}`.

use super::decimal::Decimal;
use super::decode::Dialect;
use super::text::{hex_value, parse_base64, parse_hex};
use super::{date, number};
use crate::document::{Document, Element, kind};

/// The binary subtype 2, whose bytes start with a second length.
pub(super) const OLD_BINARY: u8 = 2;
const UUID_BINARY: u8 = 4;

/// Returns the bytes of a subtype 2 after the inner length, or `None` if that length is wrong.
pub(super) fn inner_binary(bytes: &[u8]) -> Option<&[u8]> {
    let (length, inner) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_le_bytes(*length)).ok()?;
    (length == inner.len()).then_some(inner)
}

/// Returns true if a document has exactly the names of a type wrapper, so that a reader may take
/// its text for one.
pub(super) fn has_wrapper_names(document: Document<'_>) -> bool {
    match fields(document) {
        Some((only, None)) => matches!(
            only.name,
            b"$oid"
                | b"$numberInt"
                | b"$numberLong"
                | b"$numberDouble"
                | b"$numberDecimal"
                | b"$binary"
                | b"$uuid"
                | b"$date"
                | b"$timestamp"
                | b"$regularExpression"
                | b"$symbol"
                | b"$code"
                | b"$dbPointer"
                | b"$undefined"
                | b"$minKey"
                | b"$maxKey"
        ),
        Some((one, Some(two))) => in_order(one, two, b"$code", b"$scope").is_some(),
        None => false,
    }
}

/// Appends the value that a document represents to `out` and returns its type. Returns `None`, and
/// appends nothing, if it is a plain document.
///
/// The reader has already converted the values inside: in `{"$date": {"$numberLong": "0"}}` the
/// inner object is an int64.
pub(super) fn read(document: Document<'_>, dialect: Dialect, out: &mut Vec<u8>) -> Option<u8> {
    let start = out.len();
    let kind = match fields(document)? {
        (only, None) => read_single(only, out),
        (one, Some(two)) if dialect == Dialect::WithOld && one.name != b"$code" => {
            read_old_pair(one, two, out)
        }
        (one, Some(two)) => code_with_scope(one, two, out),
    };
    if kind.is_none() {
        out.truncate(start);
    }
    kind
}

/// Returns the fields of a document that has one or two.
fn fields(document: Document<'_>) -> Option<(Element<'_>, Option<Element<'_>>)> {
    let mut elements = document.elements();
    let first = elements.next()?.ok()?;
    let second = elements.next().transpose().ok()?;
    elements.next().is_none().then_some((first, second))
}

fn in_order<'e>(
    one: Element<'e>,
    two: Element<'e>,
    first: &[u8],
    second: &[u8],
) -> Option<(Element<'e>, Element<'e>)> {
    if one.name == first && two.name == second {
        Some((one, two))
    } else if one.name == second && two.name == first {
        Some((two, one))
    } else {
        None
    }
}

/// Returns the two fields of an embedded document that has exactly these two, in either order.
fn pair<'e>(
    element: Element<'e>,
    first: &[u8],
    second: &[u8],
) -> Option<(Element<'e>, Element<'e>)> {
    match fields(embedded(element)?)? {
        (one, Some(two)) => in_order(one, two, first, second),
        _ => None,
    }
}

fn embedded(element: Element<'_>) -> Option<Document<'_>> {
    (element.kind == kind::DOCUMENT)
        .then(|| element.document().ok())
        .flatten()
}

fn string(element: Element<'_>) -> Option<&[u8]> {
    (element.kind == kind::STRING)
        .then(|| element.string_bytes().ok())
        .flatten()
}

fn integer(element: Element<'_>) -> Option<i64> {
    matches!(element.kind, kind::INT32 | kind::INT64)
        .then(|| element.integer().ok())
        .flatten()
}

fn read_single(element: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    match element.name {
        b"$oid" => {
            out.extend_from_slice(&parse_hex::<12>(string(element)?)?);
            Some(kind::OBJECT_ID)
        }
        b"$numberInt" => {
            out.extend_from_slice(&parse_integer::<i32>(element)?.to_le_bytes());
            Some(kind::INT32)
        }
        b"$numberLong" => {
            out.extend_from_slice(&parse_integer::<i64>(element)?.to_le_bytes());
            Some(kind::INT64)
        }
        b"$numberDouble" => {
            out.extend_from_slice(&number::parse_double(string(element)?)?.to_le_bytes());
            Some(kind::DOUBLE)
        }
        b"$numberDecimal" => {
            out.extend_from_slice(&Decimal::parse(string(element)?)?.to_bytes());
            Some(kind::DECIMAL128)
        }
        b"$binary" => binary(element, out),
        b"$uuid" => uuid(element, out),
        b"$date" => {
            let millis = integer(element).or_else(|| date::parse(string(element)?))?;
            out.extend_from_slice(&millis.to_le_bytes());
            Some(kind::DATE)
        }
        b"$timestamp" => timestamp(element, out),
        b"$regularExpression" => regex(element, out),
        b"$symbol" => text(element, kind::SYMBOL, out),
        b"$code" => text(element, kind::CODE, out),
        b"$dbPointer" => db_pointer(element, out),
        b"$undefined" => {
            (element.kind == kind::BOOLEAN && element.value == [1]).then_some(kind::UNDEFINED)
        }
        b"$minKey" => (integer(element)? == 1).then_some(kind::MIN_KEY),
        b"$maxKey" => (integer(element)? == 1).then_some(kind::MAX_KEY),
        _ => None,
    }
}

fn parse_integer<T: std::str::FromStr>(element: Element<'_>) -> Option<T> {
    std::str::from_utf8(string(element)?).ok()?.parse().ok()
}

/// Appends a string under another type, which has the same value bytes.
fn text(element: Element<'_>, kind: u8, out: &mut Vec<u8>) -> Option<u8> {
    string(element)?;
    out.extend_from_slice(element.value);
    Some(kind)
}

fn binary(element: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let (base64, subtype) = pair(element, b"base64", b"subType")?;
    binary_of(base64, subtype, out)
}

/// Appends the value of a wrapper with two fields, of Extended JSON v1 or v2.
fn read_old_pair(one: Element<'_>, two: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    if let Some((base64, subtype)) = in_order(one, two, b"$binary", b"$type") {
        return binary_of(base64, subtype, out);
    }
    if let Some((pattern, options)) = in_order(one, two, b"$regex", b"$options") {
        return regex_of(pattern, options, out);
    }
    code_with_scope(one, two, out)
}

fn binary_of(base64: Element<'_>, subtype: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let subtype = match string(subtype)? {
        [low] => hex_value(*low)?,
        // Old drivers write subtypes from 80 (hexadecimal) on as negative 32-bit numbers.
        [b'f', b'f', b'f', b'f', b'f', b'f', high, low] | [high, low] => {
            (hex_value(*high)? << 4) | hex_value(*low)?
        }
        _ => return None,
    };
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, subtype]);
    if subtype == OLD_BINARY {
        out.extend_from_slice(&[0; 4]);
    }
    let inner = out.len();
    parse_base64(string(base64)?, out)?;
    if subtype == OLD_BINARY {
        let length = i32::try_from(out.len() - inner).ok()?;
        out.get_mut(inner - 4..inner)?
            .copy_from_slice(&length.to_le_bytes());
    }
    let length = i32::try_from(out.len() - start - 5).ok()?;
    out.get_mut(start..start + 4)?
        .copy_from_slice(&length.to_le_bytes());
    Some(kind::BINARY)
}

/// Appends a UUID that is given as `8-4-4-4-12` hex digits.
fn uuid(element: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let text = string(element)?;
    let dashed = |(at, byte): (usize, &u8)| matches!(at, 8 | 13 | 18 | 23) == (*byte == b'-');
    if text.len() != 36 || !text.iter().enumerate().all(dashed) {
        return None;
    }
    let digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').collect();
    out.extend_from_slice(&[16, 0, 0, 0, UUID_BINARY]);
    out.extend_from_slice(&parse_hex::<16>(&digits)?);
    Some(kind::BINARY)
}

fn timestamp(element: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let (seconds, increment) = pair(element, b"t", b"i")?;
    let seconds = u32::try_from(integer(seconds)?).ok()?;
    let increment = u32::try_from(integer(increment)?).ok()?;
    out.extend_from_slice(&increment.to_le_bytes());
    out.extend_from_slice(&seconds.to_le_bytes());
    Some(kind::TIMESTAMP)
}

fn regex(element: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let (pattern, options) = pair(element, b"pattern", b"options")?;
    regex_of(pattern, options, out)
}

fn regex_of(pattern: Element<'_>, options: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    for part in [string(pattern)?, string(options)?] {
        if part.contains(&0) {
            return None;
        }
        out.extend_from_slice(part);
        out.push(0);
    }
    Some(kind::REGEX)
}

fn db_pointer(element: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let (namespace, id) = pair(element, b"$ref", b"$id")?;
    string(namespace)?;
    if id.kind != kind::OBJECT_ID {
        return None;
    }
    out.extend_from_slice(namespace.value);
    out.extend_from_slice(id.value);
    Some(kind::DB_POINTER)
}

fn code_with_scope(one: Element<'_>, two: Element<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let (code, scope) = in_order(one, two, b"$code", b"$scope")?;
    string(code)?;
    let scope = embedded(scope)?;
    let length = i32::try_from(4 + code.value.len() + scope.as_bytes().len()).ok()?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(code.value);
    out.extend_from_slice(scope.as_bytes());
    Some(kind::CODE_WITH_SCOPE)
}
