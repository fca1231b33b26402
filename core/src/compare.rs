//! The order in which MongoDB compares values.

use std::cmp::Ordering;

use crate::document::{Document, Element, MAX_DEPTH, kind};
use crate::json::number::Number;

/// Compares two values as MongoDB does under the simple collation. The names of the two elements
/// are ignored.
///
/// Types are compared first, in this order: MinKey, undefined, null, numbers, strings and symbols,
/// documents, arrays, binary, ObjectId, boolean, date, timestamp, regular expression, DBPointer,
/// code, code with scope, MaxKey. Numbers compare by their exact value across types, and NaN is
/// below all others. Documents compare field by field: type, then name, then value; a document is
/// below another one that has the same fields and further ones after them. Arrays compare in the
/// same way without names. Binary compares by length, then subtype, then bytes.
///
/// Two values are equal if and only if [`crate::key::write_id_identity`] writes the same bytes for
/// both. Values that are damaged or nested too deeply compare by their bytes.
#[must_use]
pub fn compare_values(left: Element<'_>, right: Element<'_>) -> Ordering {
    compare_at(left, right, 0)
}

/// Returns true if a flag of an index or a collection is set, as servers read it: `false`, zero,
/// null and undefined are false, and all other values are true. Servers up to 4.4 store the value
/// as the user specified it, for example `unique: 1`.
#[must_use]
pub fn is_truthy(flag: Element<'_>) -> bool {
    const ZERO: Element<'static> = Element {
        name: b"",
        kind: kind::INT32,
        value: &[0; 4],
    };
    match flag.kind {
        kind::BOOLEAN => flag.boolean() == Ok(true),
        kind::NULL | kind::UNDEFINED => false,
        kind::INT32 | kind::INT64 | kind::DOUBLE | kind::DECIMAL128 => {
            compare_values(flag, ZERO).is_ne()
        }
        _ => true,
    }
}

fn compare_at(left: Element<'_>, right: Element<'_>, depth: usize) -> Ordering {
    bracket(left.kind)
        .cmp(&bracket(right.kind))
        .then_with(|| compare_within(left, right, depth))
}

/// Returns true if the two types are in the same type bracket. A comparison such as `$gt` finds
/// only values in the bracket of its bound.
#[must_use]
pub fn same_bracket(left: u8, right: u8) -> bool {
    bracket(left) == bracket(right)
}

/// Returns the type bracket, in the order of the server's `canonicalizeBSONType`.
fn bracket(kind: u8) -> u8 {
    match kind {
        kind::MIN_KEY => 0,
        kind::UNDEFINED => 1,
        kind::NULL => 5,
        kind::DOUBLE | kind::INT32 | kind::INT64 | kind::DECIMAL128 => 10,
        kind::STRING | kind::SYMBOL => 15,
        kind::DOCUMENT => 20,
        kind::ARRAY => 25,
        kind::BINARY => 30,
        kind::OBJECT_ID => 35,
        kind::BOOLEAN => 40,
        kind::DATE => 45,
        kind::TIMESTAMP => 47,
        kind::REGEX => 50,
        kind::DB_POINTER => 55,
        kind::CODE => 60,
        kind::CODE_WITH_SCOPE => 65,
        _ => u8::MAX,
    }
}

/// Compares two values of the same bracket.
fn compare_within(left: Element<'_>, right: Element<'_>, depth: usize) -> Ordering {
    let compared = match left.kind {
        kind::DOUBLE | kind::INT32 | kind::INT64 | kind::DECIMAL128 => {
            both(left, right, |element| Number::of(element).ok().flatten())
                .map(|(left, right)| left.cmp(&right))
        }
        kind::STRING | kind::SYMBOL | kind::CODE => {
            both(left, right, |element| element.string_bytes().ok())
                .map(|(left, right)| left.cmp(right))
        }
        kind::DOCUMENT | kind::ARRAY if depth < MAX_DEPTH => both(left, right, |element| {
            element.document().ok()
        })
        .map(|(one, other)| compare_fields(one, other, left.kind == kind::DOCUMENT, depth + 1)),
        kind::CODE_WITH_SCOPE if depth < MAX_DEPTH => {
            both(left, right, |element| element.code_with_scope().ok()).map(|(left, right)| {
                left.code
                    .cmp(right.code)
                    .then_with(|| compare_fields(left.scope, right.scope, true, depth + 1))
            })
        }
        kind::BINARY => both(left, right, |element| element.binary().ok()).map(|(left, right)| {
            left.bytes
                .len()
                .cmp(&right.bytes.len())
                .then_with(|| left.cmp(&right))
        }),
        kind::BOOLEAN => both(left, right, |element| element.boolean().ok())
            .map(|(left, right)| left.cmp(&right)),
        kind::DATE => {
            both(left, right, |element| element.date().ok()).map(|(left, right)| left.cmp(&right))
        }
        kind::TIMESTAMP => both(left, right, |element| {
            element.fixed().ok().map(u64::from_le_bytes)
        })
        .map(|(left, right)| left.cmp(&right)),
        kind::REGEX => {
            both(left, right, |element| element.regex().ok()).map(|(left, right)| left.cmp(&right))
        }
        kind::DB_POINTER => Some(
            left.value
                .len()
                .cmp(&right.value.len())
                .then_with(|| left.value.cmp(right.value)),
        ),
        _ => None,
    };
    compared.unwrap_or_else(|| left.value.cmp(right.value))
}

fn both<'e, T>(
    left: Element<'e>,
    right: Element<'e>,
    read: impl Fn(Element<'e>) -> Option<T>,
) -> Option<(T, T)> {
    Some((read(left)?, read(right)?))
}

fn compare_fields(
    left: Document<'_>,
    right: Document<'_>,
    with_names: bool,
    depth: usize,
) -> Ordering {
    let mut lefts = left.elements().map_while(Result::ok);
    let mut rights = right.elements().map_while(Result::ok);
    loop {
        let order = match (lefts.next(), rights.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(left), Some(right)) => bracket(left.kind)
                .cmp(&bracket(right.kind))
                .then_with(|| {
                    if with_names {
                        left.name.cmp(right.name)
                    } else {
                        Ordering::Equal
                    }
                })
                .then_with(|| compare_within(left, right, depth)),
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::DocumentBuilder;
    use crate::json::parse_document;

    fn bson(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        parse_document(text.as_bytes(), &mut out).unwrap();
        out
    }

    fn first(bytes: &[u8]) -> Element<'_> {
        Document::new(bytes).unwrap().first().unwrap().unwrap()
    }

    fn compare(left: &str, right: &str) -> Ordering {
        let (left, right) = (
            bson(&format!("{{\"a\":{left}}}")),
            bson(&format!("{{\"b\":{right}}}")),
        );
        compare_values(first(&left), first(&right))
    }

    #[test]
    fn values_of_all_types_are_in_the_servers_order() {
        let ascending = [
            r#"{"$minKey":1}"#,
            r#"{"$undefined":true}"#,
            "null",
            r#"{"$numberDouble":"NaN"}"#,
            r#"{"$numberDouble":"-Infinity"}"#,
            "-1",
            r#"{"$numberDecimal":"0.1"}"#,
            "0.1",
            "1",
            r#"{"$numberLong":"9223372036854775807"}"#,
            "9223372036854775808.0",
            r#"{"$numberDecimal":"Infinity"}"#,
            r#""""#,
            r#""a""#,
            r#"{"$symbol":"a\u0000"}"#,
            r#""ab""#,
            r#""é""#,
            "{}",
            r#"{"b":1}"#,
            r#"{"b":1,"a":0}"#,
            r#"{"b":2}"#,
            r#"{"c":0}"#,
            r#"{"a":"x"}"#,
            "[]",
            "[1]",
            "[1,0]",
            "[2]",
            r#"{"$binary":{"base64":"//8=","subType":"00"}}"#,
            r#"{"$binary":{"base64":"AAA=","subType":"80"}}"#,
            r#"{"$binary":{"base64":"AAAA","subType":"00"}}"#,
            r#"{"$oid":"000000000000000000000001"}"#,
            r#"{"$oid":"ffffffffffffffffffffffff"}"#,
            "false",
            "true",
            r#"{"$date":{"$numberLong":"-1"}}"#,
            r#"{"$date":{"$numberLong":"1"}}"#,
            r#"{"$timestamp":{"t":1,"i":4294967295}}"#,
            r#"{"$timestamp":{"t":4294967295,"i":0}}"#,
            r#"{"$regularExpression":{"pattern":"a","options":"i"}}"#,
            r#"{"$regularExpression":{"pattern":"b","options":""}}"#,
            r#"{"$dbPointer":{"$ref":"b","$id":{"$oid":"000000000000000000000001"}}}"#,
            r#"{"$dbPointer":{"$ref":"aa","$id":{"$oid":"000000000000000000000001"}}}"#,
            r#"{"$code":"a"}"#,
            r#"{"$code":"b"}"#,
            r#"{"$code":"a","$scope":{"x":1}}"#,
            r#"{"$code":"b","$scope":{}}"#,
            r#"{"$maxKey":1}"#,
        ];
        for (left_at, left) in ascending.iter().enumerate() {
            for (right_at, right) in ascending.iter().enumerate() {
                assert_eq!(
                    compare(left, right),
                    left_at.cmp(&right_at),
                    "{left} {right}"
                );
            }
        }
    }

    #[test]
    fn equal_values_of_different_types_are_equal() {
        for (left, right) in [
            ("1", r#"{"$numberLong":"1"}"#),
            ("1", "1.0"),
            ("0", "-0.0"),
            ("0", r#"{"$numberDecimal":"-0E+10"}"#),
            ("1", r#"{"$numberDecimal":"1.000"}"#),
            ("0.5", r#"{"$numberDecimal":"0.5"}"#),
            ("1e300", "1e300"),
            (r#"{"$numberDouble":"NaN"}"#, r#"{"$numberDecimal":"NaN"}"#),
            (r#""a""#, r#"{"$symbol":"a"}"#),
            (
                r#"{"a":[1,{"b":2}]}"#,
                r#"{"a":[1.0,{"b":{"$numberDecimal":"2"}}]}"#,
            ),
        ] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let mut value = Vec::new();
        DocumentBuilder::start(&mut value).finish();
        for _ in 0..5000 {
            let mut outer = Vec::new();
            let mut builder = DocumentBuilder::start(&mut outer);
            builder.raw("a", kind::DOCUMENT, &value);
            builder.finish();
            value = outer;
        }
        assert_eq!(
            compare_values(first(&value), first(&value)),
            Ordering::Equal
        );
    }
}
