//! Keys match the golden vectors, and equal `_id`s have equal keys.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a test: a panic is the failure report"
)]

mod bson_values;

use std::cmp::Ordering;

use bson_values::{Kind, Value, decimal_of, document_of, string_of};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, Element};
use oplog_relay_core::key::{partition_for, write_id_identity, write_key};
use proptest::prelude::{
    ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde::de::IgnoredAny;

fn element(value: &Value) -> Element<'_> {
    Element {
        name: b"_id",
        kind: value.0,
        value: &value.1,
    }
}

fn key(value: &Value) -> String {
    let mut out = b"before".to_vec();
    write_key(element(value), &mut out).unwrap();
    String::from_utf8(out)
        .unwrap()
        .strip_prefix("before")
        .unwrap()
        .to_owned()
}

fn identity(value: &Value) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write_id_identity(element(value), &mut out).unwrap();
    assert!(out.starts_with(b"before"));
    out.split_off(6)
}

/// Returns the number `coefficient * 2^twos` in each of the four types that can hold it exactly.
fn forms(coefficient: i64, twos: i32) -> Vec<Value> {
    let mut forms = Vec::new();
    // A dyadic fraction has as many decimal places as binary ones.
    let exact = if twos >= 0 {
        i128::from(coefficient)
            .checked_mul(1_i128 << twos)
            .map(|value| (value, 0))
    } else {
        let fives = 5_i128.checked_pow(twos.unsigned_abs());
        fives
            .and_then(|fives| i128::from(coefficient).checked_mul(fives))
            .map(|v| (v, twos))
    };
    if let Some((value, 0)) = exact {
        forms.extend(i32::try_from(value).map(|value| (0x10, value.to_le_bytes().to_vec())));
        forms.extend(i64::try_from(value).map(|value| (0x12, value.to_le_bytes().to_vec())));
    }
    if coefficient.unsigned_abs() < 1 << 53 {
        let double = coefficient as f64 * 2_f64.powi(twos);
        forms.push((0x01, double.to_le_bytes().to_vec()));
        if coefficient == 0 {
            forms.push((0x01, (-0.0_f64).to_le_bytes().to_vec()));
        }
    }
    if let Some((value, mut exponent)) = exact {
        let mut magnitude = value.unsigned_abs();
        // The decimal is added with every number of trailing zeros that fits into 34 digits.
        while magnitude < 10_u128.pow(34) && exponent > -60 {
            forms.push((0x13, decimal_of(value < 0, magnitude, exponent).to_vec()));
            magnitude *= 10;
            exponent -= 1;
        }
    }
    forms
}

/// Returns numbers of all types that are close to each other.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-20..20_i32).prop_map(|value| (0x10, value.to_le_bytes().to_vec())),
        (-20..20_i64).prop_map(|value| (0x12, value.to_le_bytes().to_vec())),
        (-80..80_i32).prop_map(|value| (0x01, (f64::from(value) / 8.0).to_le_bytes().to_vec())),
        (-80..80_i32).prop_map(|value| (0x01, (f64::from(value) / 10.0).to_le_bytes().to_vec())),
        (any::<bool>(), 0..200_u128, -3..3).prop_map(|(negative, coefficient, exponent)| {
            (0x13, decimal_of(negative, coefficient, exponent).to_vec())
        }),
        bson_values::double(Kind::Any).prop_map(|bytes| (0x01, bytes.to_vec())),
        bson_values::decimal(Kind::Any).prop_map(|bytes| (0x13, bytes.to_vec())),
    ]
}

/// Returns values, many of which are equal but not identical.
fn id() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ab]{0,2}".prop_map(String::into_bytes),
        proptest::strategy::Just(vec![0xff])
    ];
    let small = prop_oneof![
        4 => number(),
        1 => (proptest::sample::select(vec![0x02, 0x0e, 0x0d]), text)
            .prop_map(|(kind, text)| (kind, string_of(&text))),
        1 => bson_values::leaf(Kind::Any),
    ];
    small.prop_recursive(2, 8, 3, |inner| {
        let names = proptest::sample::select(vec![b"a".to_vec(), b"0".to_vec(), vec![0xff]]);
        let fields = proptest::collection::vec((names, inner), 0..3);
        (proptest::sample::select(vec![0x03, 0x04]), fields)
            .prop_map(|(kind, fields)| (kind, document_of(&fields)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn equal_numbers_of_different_types_have_one_key(
        coefficient in prop_oneof![any::<i64>(), -1000..1000_i64, (0..63_u32).prop_map(|bit| 1 << bit)],
        twos in -60..70_i32,
    ) {
        let forms = forms(coefficient, twos);
        for form in &forms {
            prop_assert_eq!(key(form), key(&forms[0]));
            prop_assert_eq!(identity(form), identity(&forms[0]));
            prop_assert!(compare_values(element(form), element(&forms[0])).is_eq());
            // The same must hold inside a document, even if other bytes are not UTF-8.
            let nested = |form: &Value, text: &[u8]| {
                let text = (b"s".to_vec(), (0x02, string_of(text)));
                (0x03, document_of(&[text, (b"n".to_vec(), form.clone())]))
            };
            prop_assert_eq!(key(&nested(form, b"ok")), key(&nested(&forms[0], b"ok")));
            prop_assert_eq!(key(&nested(form, b"\xff")), key(&nested(&forms[0], b"\xff")));
        }
    }

    #[test]
    fn equal_ids_have_equal_keys_and_identities_and_others_do_not(one in id(), other in id()) {
        let equal = compare_values(element(&one), element(&other)).is_eq();
        prop_assert_eq!(identity(&one) == identity(&other), equal);
        if equal {
            prop_assert_eq!(key(&one), key(&other));
        }
    }

    #[test]
    fn compare_values_is_a_total_order(one in id(), two in id(), three in id()) {
        let compare = |left, right| compare_values(element(left), element(right));
        prop_assert!(compare(&one, &one).is_eq());
        prop_assert_eq!(compare(&one, &two), compare(&two, &one).reverse());
        if compare(&one, &two).is_le() && compare(&two, &three).is_le() {
            prop_assert!(compare(&one, &three).is_le());
        }
    }

    #[test]
    fn integers_and_doubles_compare_exactly(integer in prop_oneof![any::<i64>(), -1000..1000_i64], near in -2..=2_i32) {
        let double = (integer as f64) * (1.0 + f64::from(near) * f64::EPSILON);
        let floor = double.floor();
        let expected = i128::from(integer).cmp(&(floor as i128));
        // A fraction puts the double above its floor.
        let expected = if double > floor { expected.then(Ordering::Less) } else { expected };
        let integer = (0x12, integer.to_le_bytes().to_vec());
        let double = (0x01, double.to_le_bytes().to_vec());
        prop_assert_eq!(compare_values(element(&integer), element(&double)), expected);
    }

    #[test]
    fn keys_are_json_and_partitions_are_in_range(
        id in bson_values::value(Kind::Any),
        partitions in 1..10_000_u32,
    ) {
        let key = key(&id);
        let shape = key.starts_with(r#"{"_id":"#) && key.ends_with('}');
        prop_assert!(shape, "{}", key);
        serde_json::from_str::<IgnoredAny>(&key).unwrap();
        prop_assert!(partition_for(key.as_bytes(), partitions) < partitions);
    }

    #[test]
    fn damaged_ids_are_errors_and_never_panics(
        id in bson_values::value(Kind::Any),
        other in bson_values::value(Kind::Any),
        place in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut id = id;
        if !id.1.is_empty() {
            let place = place.index(id.1.len());
            id.1[place] = byte;
        }
        let mut out = b"before".to_vec();
        if write_key(element(&id), &mut out).is_err() {
            prop_assert_eq!(&out, b"before");
        }
        let mut out = b"before".to_vec();
        if write_id_identity(element(&id), &mut out).is_err() {
            prop_assert_eq!(&out, b"before");
        }
        let order = compare_values(element(&id), element(&other));
        prop_assert_eq!(order, compare_values(element(&other), element(&id)).reverse());
    }
}

#[test]
fn shared_keys_have_different_identities() {
    let double = (0x01, 0.1_f64.to_le_bytes().to_vec());
    let decimal = (0x13, decimal_of(false, 1, -1).to_vec());
    let id = (0x07, vec![0xab; 12]);
    let document = document_of(&[(
        b"$oid".to_vec(),
        (0x02, string_of(&[b'a', b'b'].repeat(12))),
    )]);
    let document = (0x03, document);
    for (one, other) in [(double, decimal), (id, document)] {
        assert_eq!(key(&one), key(&other));
        assert_ne!(identity(&one), identity(&other));
        assert!(compare_values(element(&one), element(&other)).is_ne());
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| digit.to_digit(16).unwrap().try_into().unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

#[test]
fn golden_keys_and_partitions() {
    let mut count = 0;
    let golden = include_str!("golden/keys.txt");
    for line in golden
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let [hex, expected, of_4, of_16, of_64] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not five columns: {line}");
        };
        let bytes = from_hex(hex);
        let id = Document::new(&bytes).unwrap().get("_id").unwrap().unwrap();
        let mut key = Vec::new();
        write_key(id, &mut key).unwrap();
        assert_eq!(std::str::from_utf8(&key), Ok(expected), "{line}");
        for (partitions, expected) in [(4, of_4), (16, of_16), (64, of_64)] {
            assert_eq!(
                partition_for(&key, partitions).to_string(),
                expected,
                "{line}"
            );
        }
        count += 1;
    }
    assert!(count >= 60);
}
