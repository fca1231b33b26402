//! Documents that are reported as exact survive a round trip through Extended JSON, and no input
//! causes a panic.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a test: a panic is the failure report"
)]

mod bson_values;

use bson_values::{Kind, code_with_scope_of, document, document_of, leaf, string_of, text};
use oplog_relay_core::document::{Document, MAX_DEPTH, Malformed};
use oplog_relay_core::json::{Exactness, Mode, parse_document, write_document, write_string};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};
use serde::de::IgnoredAny;

fn write(bytes: &[u8], mode: Mode) -> (Vec<u8>, Exactness) {
    let mut out = b"before".to_vec();
    let document = Document::new(bytes).unwrap();
    let exactness = write_document(document, mode, &mut out).unwrap();
    assert!(out.starts_with(b"before"));
    (out.split_off(6), exactness)
}

fn parse(text: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    parse_document(text, &mut out).unwrap();
    assert!(out.starts_with(b"before"));
    out.split_off(6)
}

/// Asserts that the parser either fails or returns bytes with the structure of BSON.
fn assert_bson_or_error(text: &[u8]) {
    let mut out = Vec::new();
    if parse_document(text, &mut out).is_ok() {
        Document::new(&out).unwrap().validate().unwrap();
    }
}

/// Asserts that the text is JSON. serde_json limits the depth of values that it builds, but not of
/// those that it ignores.
fn assert_json(text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap();
    serde_json::from_str::<IgnoredAny>(text).unwrap();
}

/// Returns a value inside at most this number of nested documents, arrays and scopes.
fn nested(levels: usize) -> impl Strategy<Value = Vec<u8>> {
    let level = (0..3_u8, text(Kind::Sane));
    (leaf(Kind::Sane), vec(level, 0..=levels)).prop_map(|((mut kind, mut value), levels)| {
        for (level, code) in levels {
            let document = document_of(&[(b"0".to_vec(), (kind, value))]);
            (kind, value) = match level {
                0 => (0x03, document),
                1 => (0x04, document),
                _ => (0x0f, code_with_scope_of(&code, &document)),
            };
        }
        document_of(&[(b"top".to_vec(), (kind, value))])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn exact_text_reads_back_as_the_same_bytes(bytes in document(Kind::Any)) {
        let (canonical, exactness) = write(&bytes, Mode::Canonical);
        assert_json(&canonical);
        let back = parse(&canonical);
        if exactness.is_exact() {
            prop_assert_eq!(back, bytes);
        }
    }

    #[test]
    fn sane_documents_are_exact(bytes in document(Kind::Sane)) {
        let (canonical, exactness) = write(&bytes, Mode::Canonical);
        prop_assert_eq!(exactness, Exactness::Exact);
        prop_assert_eq!(parse(&canonical), bytes);
    }

    #[test]
    fn both_modes_report_the_same_exactness(bytes in document(Kind::Any)) {
        prop_assert_eq!(write(&bytes, Mode::Canonical).1, write(&bytes, Mode::Relaxed).1);
    }

    #[test]
    fn relaxed_text_is_stable_once_read(bytes in document(Kind::Any)) {
        let (first, exactness) = write(&bytes, Mode::Relaxed);
        assert_json(&first);
        let (second, _) = write(&parse(&first), Mode::Relaxed);
        if exactness.is_exact() {
            prop_assert_eq!(std::str::from_utf8(&first), std::str::from_utf8(&second));
        }
        let (third, _) = write(&parse(&second), Mode::Relaxed);
        prop_assert_eq!(std::str::from_utf8(&second), std::str::from_utf8(&third));
    }

    #[test]
    fn deeply_nested_documents_are_exact(bytes in nested(100)) {
        let (canonical, exactness) = write(&bytes, Mode::Canonical);
        prop_assert_eq!(exactness, Exactness::Exact);
        prop_assert_eq!(parse(&canonical), bytes);
    }

    #[test]
    fn damaged_documents_are_errors_and_never_panics(
        bytes in document(Kind::Any),
        place in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = bytes;
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(document) = Document::new(&bytes) {
            let mut out = b"before".to_vec();
            if write_document(document, Mode::Relaxed, &mut out).is_err() {
                prop_assert_eq!(out, b"before");
            } else {
                assert_json(&out[6..]);
            }
        }
    }

    #[test]
    fn random_bytes_are_errors_and_never_panics(bytes in vec(any::<u8>(), 0..64)) {
        let mut bytes = bytes;
        let length = i32::try_from(bytes.len()).unwrap();
        bytes.splice(..bytes.len().min(4), length.to_le_bytes());
        bytes.push(0);
        if let Ok(document) = Document::new(&bytes) {
            drop(write_document(document, Mode::Canonical, &mut Vec::new()));
        }
    }

    #[test]
    fn random_text_is_an_error_with_its_place(
        text in "[\\{\\}\\[\\]:,\" \\\\a$0-9.eE+u-]{0,40}|\\PC{0,40}",
    ) {
        let mut out = b"before".to_vec();
        if let Err(error) = parse_document(text.as_bytes(), &mut out) {
            prop_assert!(error.position <= text.len());
            prop_assert_eq!(out, b"before");
        }
        assert_bson_or_error(format!("{{\"a\":{text}}}").as_bytes());
    }

    #[test]
    fn damaged_text_never_panics(
        bytes in document(Kind::Any),
        place in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let (mut text, _) = write(&bytes, Mode::Canonical);
        let place = place.index(text.len());
        text[place] = byte;
        assert_bson_or_error(&text);
    }

    #[test]
    fn strings_match_serde_json(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
        let mut out = Vec::new();
        prop_assert!(write_string(text.as_bytes(), &mut out));
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn numbers_match_the_standard_library(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?") {
        let bytes = parse(format!("{{\"a\":{text}}}").as_bytes());
        let element = Document::new(&bytes).unwrap().first().unwrap().unwrap();
        match element.kind {
            0x10 | 0x12 => prop_assert_eq!(element.integer().unwrap(), text.parse::<i64>().unwrap()),
            _ => {
                let double = f64::from_le_bytes(element.fixed().unwrap());
                prop_assert_eq!(double, text.parse::<f64>().unwrap());
            }
        }
    }
}

fn nested_documents(levels: usize, kind: u8) -> Vec<u8> {
    let mut value = document_of(&[(b"0".to_vec(), (0x02, string_of(b"x")))]);
    for _ in 0..levels {
        let inner = if kind == 0x0f {
            code_with_scope_of(b"c", &value)
        } else {
            value
        };
        value = document_of(&[(b"0".to_vec(), (kind, inner))]);
    }
    value
}

#[test]
fn the_deepest_documents_fit_a_threads_stack() {
    let test = || {
        for (kind, levels) in [(0x03, MAX_DEPTH), (0x04, MAX_DEPTH), (0x0f, MAX_DEPTH / 2)] {
            let bytes = nested_documents(levels, kind);
            let (canonical, exactness) = write(&bytes, Mode::Canonical);
            assert!(exactness.is_exact());
            assert_eq!(parse(&canonical), bytes);
            let bytes = nested_documents(levels + 1, kind);
            let document = Document::new(&bytes).unwrap();
            let error = write_document(document, Mode::Relaxed, &mut Vec::new()).unwrap_err();
            assert_eq!(error, Malformed::TooDeep);
        }
        let endless = "[".repeat(100_000);
        let error = parse_document(format!("{{\"a\":{endless}").as_bytes(), &mut Vec::new());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("nested too deeply at byte ")
        );
    };
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

/// Each row has an object and the type that it becomes; 0x03 is a plain document.
#[test]
fn only_the_exact_form_of_a_wrapper_is_typed() {
    let kind_of = |value: &str| {
        let bytes = parse(format!("{{\"a\":{value}}}").as_bytes());
        bytes[4]
    };
    for (value, kind) in [
        (r#"{"$oid":"56e1fc72e0c917e9c4714161"}"#, 0x07),
        (r#"{"$oid":42}"#, 0x03),
        (r#"{"$oid":"56e1fc72e0c917e9c471416"}"#, 0x03),
        (r#"{"$oid":"56e1fc72e0c917e9c4714161","x":1}"#, 0x03),
        (
            r#"{"$oid":"56e1fc72e0c917e9c4714161","$oid":"56e1fc72e0c917e9c4714161"}"#,
            0x03,
        ),
        (r#"{"$numberInt":"2147483648"}"#, 0x03),
        (r#"{"$numberDouble":"inf"}"#, 0x03),
        (r#"{"$date":"2012-12-24T12:15:30.501Z"}"#, 0x09),
        (r#"{"$date":"tomorrow"}"#, 0x03),
        (r#"{"$date":5}"#, 0x09),
        (r#"{"$timestamp":{"i":42,"t":1}}"#, 0x11),
        (r#"{"$timestamp":{"i":-1,"t":1}}"#, 0x03),
        (r#"{"$binary":{"subType":"0","base64":"AA=="}}"#, 0x05),
        (r#"{"$binary":"AA==","$type":"00"}"#, 0x03),
        (r#"{"$binary":{"subType":"00","base64":"A"}}"#, 0x03),
        (r#"{"$uuid":"73ffd264-44b3-4c69-90e8-e7d1dfc035d4"}"#, 0x05),
        (r#"{"$uuid":"73ffd26444b34c6990e8e7d1dfc035d4"}"#, 0x03),
        (
            r#"{"$regularExpression":{"options":"","pattern":"a\u0000"}}"#,
            0x03,
        ),
        (r#"{"$regex":"a","$options":"i"}"#, 0x03),
        (r#"{"$scope":{},"$code":"c"}"#, 0x0f),
        (r#"{"$scope":1,"$code":"c"}"#, 0x03),
        (
            r#"{"$dbPointer":{"$id":{"$oid":"56e1fc72e0c917e9c4714161"},"$ref":"b"}}"#,
            0x0c,
        ),
        (
            r#"{"$ref":"b","$id":{"$oid":"56e1fc72e0c917e9c4714161"}}"#,
            0x03,
        ),
        (r#"{"$undefined":false}"#, 0x03),
        (r#"{"$minKey":1}"#, 0xff),
        (r#"{"$maxKey":true}"#, 0x03),
    ] {
        assert_eq!(kind_of(value), kind, "{value}");
    }
    // The outermost object is a document whatever its names.
    assert_eq!(parse(br#"{"$minKey":1}"#)[4], 0x10);
}

#[test]
fn faults_report_their_position() {
    for (text, expected) in [
        ("", "unexpected end of JSON at byte 0"),
        ("[]", "expected an object at byte 0"),
        ("{} x", "expected the end of the text at byte 3"),
        (r#"{"a"}"#, "expected a colon at byte 4"),
        (r#"{"a":1,}"#, "expected a field name at byte 7"),
        (r#"{"a":01}"#, "expected a number at byte 5"),
        (r#"{"a":1.}"#, "expected a number at byte 5"),
        (r#"{"a":nul}"#, "expected a value at byte 5"),
        (
            r#"{"a":[1 2]}"#,
            "expected a comma or a closing bracket at byte 8",
        ),
        (r#"{"a":1e400}"#, "number too large for a double at byte 5"),
        (
            r#"{"a\u0000":1}"#,
            "NUL character in a field name at byte 1",
        ),
        (r#"{"a":"\ud800x"}"#, "invalid escape at byte 6"),
        (r#"{"a":"\x"}"#, "invalid escape at byte 6"),
        ("{\"a\":\"\n\"}", "unescaped control character at byte 6"),
        (r#"{"a":"#, "unexpected end of JSON at byte 5"),
        (r#"{"a":"b"#, "unexpected end of JSON at byte 7"),
    ] {
        let error = parse_document(text.as_bytes(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let error = parse_document(b"{\"\xff\":1}", &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "invalid UTF-8 at byte 2");
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
fn golden_text_of_every_type() {
    let golden = include_str!("golden/extended_json.txt");
    let mut kinds = std::collections::BTreeSet::new();
    for line in golden
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let [hex, canonical, relaxed] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("three columns: {line}");
        };
        let bytes = from_hex(hex);
        kinds.insert(bytes[4]);
        let (text, exactness) = write(&bytes, Mode::Canonical);
        assert_eq!(String::from_utf8(text).unwrap(), canonical);
        // Most readers keep one of two fields with the same name.
        let is_exact = canonical != r#"{"a":{"x":true,"x":false}}"#;
        assert_eq!(exactness.is_exact(), is_exact, "{line}");
        assert_eq!(
            String::from_utf8(write(&bytes, Mode::Relaxed).0).unwrap(),
            relaxed
        );
        assert_eq!(parse(canonical.as_bytes()), bytes, "{line}");
    }
    assert_eq!(kinds.len(), 21, "every type of BSON");
}
