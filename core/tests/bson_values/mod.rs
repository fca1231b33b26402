//! Arbitrary BSON for property tests, as bytes instead of values, so that it can include damaged
//! text.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::sample::select;

/// A type byte and the bytes of a value.
pub(crate) type Value = (u8, Vec<u8>);

/// The content that generated documents may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only values that text represents exactly.
    Sane,
    /// Everything that has the structure of BSON.
    Any,
}

pub(crate) fn document_of(fields: &[(Vec<u8>, Value)]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for (name, (kind, value)) in fields {
        bytes.push(*kind);
        bytes.extend(name);
        bytes.push(0);
        bytes.extend(value);
    }
    bytes.push(0);
    let length = i32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

pub(crate) fn string_of(text: &[u8]) -> Vec<u8> {
    let length = i32::try_from(text.len() + 1).unwrap();
    [&length.to_le_bytes(), text, &[0]].concat()
}

pub(crate) fn binary_of(subtype: u8, bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).unwrap();
    [&length.to_le_bytes(), &[subtype][..], bytes].concat()
}

pub(crate) fn code_with_scope_of(code: &[u8], scope: &[u8]) -> Vec<u8> {
    let code = string_of(code);
    let length = i32::try_from(4 + code.len() + scope.len()).unwrap();
    [&length.to_le_bytes(), &code[..], scope].concat()
}

pub(crate) fn decimal_of(negative: bool, coefficient: u128, exponent: i32) -> [u8; 16] {
    let biased = u128::try_from(exponent + 6176).unwrap();
    (u128::from(negative) << 127 | biased << 113 | coefficient).to_le_bytes()
}

/// Returns documents of up to five levels.
pub(crate) fn document(kind: Kind) -> impl Strategy<Value = Vec<u8>> {
    vec((name(kind), value(kind)), 0..6).prop_map(move |fields| document_of(&allowed(kind, fields)))
}

/// Returns the fields. For [`Kind::Sane`], fields with a duplicate name are removed.
fn allowed(kind: Kind, mut fields: Vec<(Vec<u8>, Value)>) -> Vec<(Vec<u8>, Value)> {
    let mut names = BTreeSet::new();
    fields.retain(|(name, _)| names.insert(name.clone()) || kind == Kind::Any);
    fields
}

/// Returns values of any type.
pub(crate) fn value(kind: Kind) -> BoxedStrategy<Value> {
    leaf(kind)
        .prop_recursive(4, 40, 5, move |inner| {
            let fields = vec((name(kind), inner.clone()), 0..5)
                .prop_map(move |fields| document_of(&allowed(kind, fields)));
            let array = vec(inner, 0..5).prop_map(|values| {
                let names = (0..).map(|index: usize| index.to_string().into_bytes());
                document_of(&names.zip(values).collect::<Vec<_>>())
            });
            let array = match kind {
                Kind::Sane => array.boxed(),
                Kind::Any => prop_oneof![4 => array, 1 => fields.clone()].boxed(),
            };
            prop_oneof![
                4 => fields.clone().prop_map(|bytes| (0x03, bytes)),
                2 => array.prop_map(|bytes| (0x04, bytes)),
                1 => (text(kind), fields)
                    .prop_map(|(code, scope)| (0x0f, code_with_scope_of(&code, &scope))),
            ]
        })
        .boxed()
}

/// Returns bytes of strings. [`Kind::Any`] includes the contents of type wrappers, and bytes that
/// are not UTF-8.
pub(crate) fn text(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    let plain = prop_oneof![
        "[a-z]{0,12}".prop_map(String::into_bytes),
        "[ -~\\x00-\\x1f\u{7f}é☆😀\u{2028}]{0,40}".prop_map(String::into_bytes),
    ];
    match kind {
        Kind::Sane => plain.boxed(),
        Kind::Any => prop_oneof![
            4 => plain,
            2 => vec(any::<u8>(), 0..12),
            4 => select(vec![
                "56e1fc72e0c917e9c4714161", "56E1FC72E0C917E9C4714161", "5", "-7", "1e400",
                "NaN", "1.5", "1.50E+3", "1970-01-01T00:00:00.5Z", "AAEC", "00", "2",
                "73ffd264-44b3-4c69-90e8-e7d1dfc035d4", "i",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ]
        .boxed(),
    }
}

/// Returns bytes of names without a zero. [`Kind::Sane`] excludes the names of type wrappers.
pub(crate) fn name(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    let plain = prop_oneof![
        4 => "[a-d]{1,3}",
        1 => "[ -~é☆😀\u{1}]{0,10}",
        1 => "\\$(set|ref|id|db|regex|options|type|scope|)".prop_map(String::from),
    ]
    .prop_map(String::into_bytes);
    match kind {
        Kind::Sane => plain
            .prop_map(|name| {
                if is_wrapper(&name) {
                    b"plain".to_vec()
                } else {
                    name
                }
            })
            .boxed(),
        Kind::Any => prop_oneof![
            3 => plain,
            1 => vec(1_u8..=255, 0..6),
            3 => select(WRAPPERS.to_vec()).prop_map(|name| name.as_bytes().to_vec()),
            1 => select(vec!["t", "i", "base64", "subType", "pattern", "options", "$ref", "$id"])
                .prop_map(|name| name.as_bytes().to_vec()),
        ]
        .boxed(),
    }
}

const WRAPPERS: [&str; 17] = [
    "$oid",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$date",
    "$timestamp",
    "$regularExpression",
    "$symbol",
    "$code",
    "$scope",
    "$dbPointer",
    "$undefined",
    "$minKey",
    "$maxKey",
];

fn is_wrapper(name: &[u8]) -> bool {
    WRAPPERS.iter().any(|wrapper| wrapper.as_bytes() == name)
}

/// Returns parts of regular expressions without a zero.
fn pattern(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    text(kind)
        .prop_map(|text| text.into_iter().filter(|byte| *byte != 0).collect())
        .boxed()
}

/// Returns the bits of a double.
pub(crate) fn double(kind: Kind) -> BoxedStrategy<[u8; 8]> {
    let finite = prop_oneof![
        any::<f64>().prop_filter("a NaN has more than one form", |double| !double.is_nan()),
        select(vec![
            0.0,
            -0.0,
            0.1,
            1e300,
            5e-324,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY
        ]),
        any::<i32>().prop_map(f64::from),
        Just(f64::from_bits(0x7ff8_0000_0000_0000)),
    ]
    .prop_map(f64::to_le_bytes);
    match kind {
        Kind::Sane => finite.boxed(),
        Kind::Any => {
            let nan = (1..1_u64 << 52, any::<bool>()).prop_map(|(payload, negative)| {
                (u64::from(negative) << 63 | 0x7ff << 52 | payload).to_le_bytes()
            });
            prop_oneof![4 => finite, 2 => any::<[u8; 8]>(), 1 => nan].boxed()
        }
    }
}

/// Returns the bits of a decimal.
pub(crate) fn decimal(kind: Kind) -> BoxedStrategy<[u8; 16]> {
    let coefficient = prop_oneof![
        0..10_u128.pow(34),
        0..1000_u128,
        any::<u64>().prop_map(u128::from),
        Just(10_u128.pow(34) - 1),
    ];
    let canonical = prop_oneof![
        6 => (any::<bool>(), coefficient.clone(), -6176..=6111)
            .prop_map(|(negative, coefficient, exponent)| {
                decimal_of(negative, coefficient, exponent)
            }),
        6 => (any::<bool>(), coefficient, -40..40)
            .prop_map(|(negative, coefficient, exponent)| {
                decimal_of(negative, coefficient, exponent)
            }),
        1 => select(vec![0x7c_u8, 0x78, 0xf8]).prop_map(|top| {
            let mut bytes = [0; 16];
            bytes[15] = top;
            bytes
        }),
    ];
    match kind {
        Kind::Sane => canonical.boxed(),
        Kind::Any => prop_oneof![canonical, any::<[u8; 16]>()].boxed(),
    }
}

fn binary(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    let bytes = vec(any::<u8>(), 0..24);
    let sane = (any::<u8>(), bytes.clone()).prop_map(|(subtype, bytes)| {
        if subtype == 2 {
            old_binary_of(&bytes)
        } else {
            binary_of(subtype, &bytes)
        }
    });
    let old = bytes.clone().prop_map(|bytes| old_binary_of(&bytes));
    match kind {
        Kind::Sane => prop_oneof![4 => sane, 1 => old].boxed(),
        Kind::Any => {
            prop_oneof![4 => sane, 1 => old, 1 => bytes.prop_map(|bytes| binary_of(2, &bytes))]
                .boxed()
        }
    }
}

fn old_binary_of(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).unwrap();
    binary_of(2, &[&length.to_le_bytes(), bytes].concat())
}

/// Returns values that do not contain other values.
pub(crate) fn leaf(kind: Kind) -> BoxedStrategy<Value> {
    let boolean = match kind {
        Kind::Sane => (0..2_u8).boxed(),
        Kind::Any => prop_oneof![4 => 0..2_u8, 1 => any::<u8>()].boxed(),
    };
    prop_oneof![
        2 => double(kind).prop_map(|bytes| (0x01, bytes.to_vec())),
        4 => text(kind).prop_map(|text| (0x02, string_of(&text))),
        1 => binary(kind).prop_map(|bytes| (0x05, bytes)),
        1 => select(vec![0x06, 0x0a, 0x7f, 0xff]).prop_map(|kind| (kind, Vec::new())),
        1 => any::<[u8; 12]>().prop_map(|bytes| (0x07, bytes.to_vec())),
        1 => boolean.prop_map(|byte| (0x08, vec![byte])),
        1 => prop_oneof![any::<i64>(), -10_000..300_000_000_000_000_i64]
            .prop_map(|millis| (0x09, millis.to_le_bytes().to_vec())),
        1 => (pattern(kind), pattern(kind))
            .prop_map(|(pattern, options)| (0x0b, [&pattern[..], &[0], &options, &[0]].concat())),
        1 => (text(kind), any::<[u8; 12]>())
            .prop_map(|(text, id)| (0x0c, [&string_of(&text)[..], &id].concat())),
        1 => text(kind).prop_map(|text| (0x0d, string_of(&text))),
        1 => text(kind).prop_map(|text| (0x0e, string_of(&text))),
        2 => prop_oneof![any::<i32>(), Just(1)]
            .prop_map(|value| (0x10, value.to_le_bytes().to_vec())),
        1 => any::<[u8; 8]>().prop_map(|bytes| (0x11, bytes.to_vec())),
        1 => any::<i64>().prop_map(|value| (0x12, value.to_le_bytes().to_vec())),
        2 => decimal(kind).prop_map(|bytes| (0x13, bytes.to_vec())),
    ]
    .boxed()
}
