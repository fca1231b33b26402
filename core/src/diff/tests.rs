mod damage;
mod modifiers;

use super::*;
use crate::document::{DocumentBuilder, Malformed, kind};
use crate::json::{Mode, parse_document, write_document};

fn bson(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    parse_document(text.as_bytes(), &mut out).expect(text);
    out
}

fn text(document: &[u8]) -> String {
    let mut out = Vec::new();
    let document = Document::new(document).unwrap();
    assert!(
        write_document(document, Mode::Relaxed, &mut out)
            .unwrap()
            .is_exact()
    );
    String::from_utf8(out).unwrap()
}

fn applied(document: &str, diff: &str) -> String {
    let (document, diff) = (bson(document), bson(diff));
    let diff = Diff::parse(Document::new(&diff).unwrap()).unwrap();
    text(&diff.apply(Document::new(&document).unwrap()).unwrap())
}

/// Applies the diff to `{_id: 1, …before}` and expects `{_id: 1, …after}`.
fn check(before: &str, diff: &str, after: &str) {
    let whole = |fields: &str| match fields {
        "" => r#"{"_id":1}"#.to_owned(),
        fields => format!(r#"{{"_id":1,{fields}}}"#),
    };
    assert_eq!(applied(&whole(before), diff), whole(after), "{diff}");
}

/// Examples computed with a model of the server's applier: before, diff, after.
const WORKED_EXAMPLES: [[&str; 3]; 17] = [
    [
        r#""a":1,"b":2,"c":3"#,
        r#"{"d":{"b":false},"u":{"a":9},"i":{"z":0,"y":0}}"#,
        r#""a":9,"c":3,"z":0,"y":0"#,
    ],
    [r#""a":1,"b":2"#, r#"{"i":{"a":1}}"#, r#""b":2,"a":1"#],
    [r#""a":1"#, r#"{"u":{"b":5}}"#, r#""a":1,"b":5"#],
    [
        r#""o":{"x":1,"y":2}"#,
        r#"{"so":{"u":{"x":7},"i":{"z":3}}}"#,
        r#""o":{"x":7,"y":2,"z":3}"#,
    ],
    ["", r#"{"so":{"u":{"x":7}}}"#, ""],
    [
        r#""o":5,"p":1"#,
        r#"{"so":{"u":{"x":7}}}"#,
        r#""o":null,"p":1"#,
    ],
    [
        r#""r":[1,2,3]"#,
        r#"{"sr":{"a":true,"u1":9,"u3":4}}"#,
        r#""r":[1,9,3,4]"#,
    ],
    [
        r#""r":[1]"#,
        r#"{"sr":{"a":true,"u3":4}}"#,
        r#""r":[1,null,null,4]"#,
    ],
    [
        r#""r":[1,2,3,4],"k":1"#,
        r#"{"u":{"k":2},"sr":{"a":true,"l":2,"u0":8}}"#,
        r#""r":[8,2],"k":2"#,
    ],
    [
        r#""r":[1]"#,
        r#"{"sr":{"a":true,"l":3}}"#,
        r#""r":[1,null,null]"#,
    ],
    [
        r#""r":[[1,2],[3]]"#,
        r#"{"sr":{"a":true,"s0":{"a":true,"l":1},"s1":{"a":true,"u1":4}}}"#,
        r#""r":[[1],[3,4]]"#,
    ],
    [
        r#""r":[{"k":1},5]"#,
        r#"{"sr":{"a":true,"s0":{"u":{"k":2}},"s1":{"u":{"k":2}},"s3":{"u":{"k":2}}}}"#,
        r#""r":[{"k":2},null,null,null]"#,
    ],
    [
        r#""m":{"a.b":1,"$c":2,"0":3}"#,
        r#"{"sm":{"d":{"a.b":false},"u":{"$c":9,"0":4}}}"#,
        r#""m":{"$c":9,"0":4}"#,
    ],
    [
        r#""r":{"x":1}"#,
        r#"{"sr":{"a":true,"u0":1}}"#,
        r#""r":null"#,
    ],
    [
        r#""t":{"a":1,"b":2,"c":3}"#,
        r#"{"st":{"d":{"a":false},"i":{"b":2}}}"#,
        r#""t":{"c":3,"b":2}"#,
    ],
    [
        r#""sx":1"#,
        r#"{"u":{"sx":2},"ssy":{"u":{"q":1}}}"#,
        r#""sx":2"#,
    ],
    [
        r#""control":{"count":2,"max":{"t":1}},"data":{"temp":{"$binary":{"base64":"AAECAwQ=","subType":"07"}}}"#,
        r#"{"scontrol":{"u":{"count":3},"smax":{"u":{"t":2}}},"sdata":{"b":{"temp":{"o":3,"d":{"$binary":{"base64":"CQgH","subType":"00"}}}}}}"#,
        r#""control":{"count":3,"max":{"t":2}},"data":{"temp":{"$binary":{"base64":"AAECCQgH","subType":"07"}}}"#,
    ],
];

#[test]
fn worked_examples() {
    for [before, diff, after] in WORKED_EXAMPLES {
        check(before, diff, after);
    }
}

#[test]
fn diff_field_named_a_d_u_i_s_l_b() {
    let names = ["a", "d", "u", "i", "s", "l", "b"];
    let fields: Vec<String> = names.iter().map(|name| format!(r#""{name}":1"#)).collect();
    let updates: Vec<String> = names.iter().map(|name| format!(r#""{name}":2"#)).collect();
    check(
        &fields.join(","),
        &format!(r#"{{"u":{{{}}}}}"#, updates.join(",")),
        &updates.join(","),
    );
    for name in names {
        let diff = format!(r#"{{"s{name}":{{"d":{{"{name}":false}}}}}}"#);
        check(
            &format!(r#""{name}":{{"{name}":1}}"#),
            &diff,
            &format!(r#""{name}":{{}}"#),
        );
    }
}

#[test]
fn diff_empty_field_name() {
    check(r#""":1"#, r#"{"u":{"":2}}"#, r#""":2"#);
    check(r#""":{"x":1}"#, r#"{"s":{"u":{"x":2}}}"#, r#""":{"x":2}"#);
}

#[test]
fn diff_field_with_dot() {
    check(
        r#""a":{"b":1},"a.b":{"c":1}"#,
        r#"{"sa.b":{"u":{"c":2}}}"#,
        r#""a":{"b":1},"a.b":{"c":2}"#,
    );
}

#[test]
fn diff_field_with_dollar() {
    check(
        r#""$z":{"c":1}"#,
        r#"{"i":{"$set":1},"s$z":{"u":{"c":2}}}"#,
        r#""$z":{"c":2},"$set":1"#,
    );
}

#[test]
fn diff_numeric_field_in_document() {
    check(
        r#""0":1,"m":{"1":1}"#,
        r#"{"u":{"0":2},"sm":{"u":{"1":2}}}"#,
        r#""0":2,"m":{"1":2}"#,
    );
}

#[test]
fn diff_i_moves_field_to_end() {
    check(
        r#""a":1,"b":1,"c":1"#,
        r#"{"i":{"b":2,"a":2}}"#,
        r#""c":1,"b":2,"a":2"#,
    );
}

/// A server logs a pipeline that moves the fields before `_id` in this way.
#[test]
fn diff_i_moves_the_same_id() {
    let diff = r#"{"d":{"a":false},"i":{"_id":1,"pad":0}}"#;
    assert_eq!(
        applied(r#"{"_id":1,"a":1,"pad":0,"z":1}"#, diff),
        r#"{"z":1,"_id":1,"pad":0}"#
    );
    let again = r#"{"z":1,"_id":1,"pad":0}"#;
    assert_eq!(applied(again, diff), again);
}

#[test]
fn diff_i_order_z_before_a() {
    check("", r#"{"i":{"z":1,"a":1}}"#, r#""z":1,"a":1"#);
}

#[test]
fn diff_u_missing_field_appends() {
    check(
        r#""k":1"#,
        r#"{"u":{"z":1,"k":2,"a":1},"i":{"b":1}}"#,
        r#""k":2,"z":1,"a":1,"b":1"#,
    );
}

#[test]
fn diff_d_missing_field() {
    check(r#""k":1"#, r#"{"d":{"x":false}}"#, r#""k":1"#);
}

#[test]
fn diff_subdiff_on_scalar_gives_null() {
    check(r#""o":"text""#, r#"{"so":{"i":{"x":1}}}"#, r#""o":null"#);
}

#[test]
fn diff_subdiff_on_missing_is_noop() {
    check("", r#"{"so":{"i":{"x":1}}}"#, "");
    check(
        r#""o":{}"#,
        r#"{"so":{"sp":{"a":true,"l":4}}}"#,
        r#""o":{}"#,
    );
}

#[test]
fn diff_array_diff_on_document() {
    check(
        r#""o":{"0":1}"#,
        r#"{"so":{"a":true,"l":0}}"#,
        r#""o":null"#,
    );
}

#[test]
fn diff_document_diff_on_array() {
    check(r#""o":[1]"#, r#"{"so":{"u":{"0":2}}}"#, r#""o":null"#);
}

#[test]
fn array_gap_filled_with_null() {
    check(
        r#""r":[]"#,
        r#"{"sr":{"a":true,"u2":{"x":1}}}"#,
        r#""r":[null,null,{"x":1}]"#,
    );
}

#[test]
fn array_l_grows_with_null() {
    check(
        r#""r":[1]"#,
        r#"{"sr":{"a":true,"l":4,"u2":2}}"#,
        r#""r":[1,null,2,null]"#,
    );
}

#[test]
fn array_of_arrays_truncate() {
    let diff = r#"{"sr":{"a":true,"l":1,"s0":{"a":true,"l":1,"s0":{"a":true,"l":0}}}}"#;
    check(r#""r":[[[1],[2]],[3]]"#, diff, r#""r":[[[]]]"#);
}

#[test]
fn array_l_zero() {
    check(r#""r":[1,2]"#, r#"{"sr":{"a":true,"l":0}}"#, r#""r":[]"#);
    check(r#""r":[]"#, r#"{"sr":{"a":true}}"#, r#""r":[]"#);
}

#[test]
fn array_truncate_plus_sibling_plus_index() {
    check(
        r#""o":{"r":[1,2,3],"k":1,"x":0}"#,
        r#"{"so":{"d":{"x":false},"u":{"k":2},"sr":{"a":true,"l":2,"u1":9}}}"#,
        r#""o":{"r":[1,9],"k":2}"#,
    );
}

#[test]
fn array_s_beyond_end() {
    check(
        r#""r":[{}]"#,
        r#"{"sr":{"a":true,"l":3,"s2":{"u":{"x":1}}}}"#,
        r#""r":[{},null,null]"#,
    );
}

#[test]
fn array_indexes_are_compared_as_numbers() {
    let before = r#""r":[0,1,2,3,4,5,6,7,8,9,10]"#;
    let after = r#""r":[0,1,2,3,4,5,6,7,8,"x","y"]"#;
    check(before, r#"{"sr":{"a":true,"u9":"x","u10":"y"}}"#, after);
}

#[test]
fn diff_value_is_string_starting_with_dollar() {
    check(r#""a":1"#, r#"{"u":{"a":"$b"}}"#, r#""a":"$b""#);
}

#[test]
fn diff_value_empty_document_or_array() {
    check(
        r#""a":{"x":1},"b":[1]"#,
        r#"{"u":{"a":{},"b":[]}}"#,
        r#""a":{},"b":[]"#,
    );
}

#[test]
fn diff_binary_section_timeseries() {
    let splice = |offset: u8| {
        format!(
            r#"{{"b":{{"t":{{"o":{offset},"d":{{"$binary":{{"base64":"CQ==","subType":"00"}}}}}}}}}}"#
        )
    };
    let binary =
        |base64: &str| format!(r#""t":{{"$binary":{{"base64":"{base64}","subType":"07"}}}}"#);
    check(&binary("AAE="), &splice(2), &binary("AAEJ"));
    check(&binary("AAE="), &splice(3), r#""t":null"#);
    check(r#""t":1"#, &splice(0), r#""t":null"#);
    check("", &splice(0), "");
}

/// Wraps the innermost document in this number of documents with one field: `{name: {name: …}}`.
fn nested(levels: usize, name: &str, innermost: &[u8]) -> Vec<u8> {
    let mut inner = innermost.to_vec();
    for _ in 0..levels {
        let mut out = Vec::new();
        let mut builder = DocumentBuilder::start(&mut out);
        builder.raw(name, kind::DOCUMENT, &inner);
        builder.finish();
        inner = out;
    }
    inner
}

#[test]
fn diff_depth_100_levels() {
    // The second depth is the accepted maximum, for which the stack must be large enough.
    for levels in [100, crate::document::MAX_DEPTH] {
        let document = nested(levels, "f", &bson(r#"{"x":1}"#));
        let diff = nested(levels, "sf", &bson(r#"{"u":{"x":2}}"#));
        let diff = Diff::parse(Document::new(&diff).unwrap()).unwrap();
        let after = diff.apply(Document::new(&document).unwrap()).unwrap();
        assert_eq!(after, nested(levels, "f", &bson(r#"{"x":2}"#)));
        let path = format!("{}x", "f.".repeat(levels - 1));
        let modifiers = bson(&format!(r#"{{"$set":{{"{path}":2}}}}"#));
        let after = apply_modifiers(
            Document::new(&document).unwrap(),
            Document::new(&modifiers).unwrap(),
        );
        assert!(after.is_ok());
    }
}

#[test]
fn fields_that_a_diff_does_not_name_keep_their_bytes() {
    let mut document = Vec::new();
    let mut builder = DocumentBuilder::start(&mut document);
    builder.raw("\u{1}", kind::STRING, &[2, 0, 0, 0, 0xff, 0]);
    builder.int32("twice", 1).int32("twice", 2);
    builder
        .raw("u", kind::UNDEFINED, &[])
        .raw("min", kind::MIN_KEY, &[]);
    builder.raw("zero", kind::TIMESTAMP, &[0; 8]);
    builder.finish();
    let diff = bson(r#"{"i":{"new":1}}"#);
    let diff = Diff::parse(Document::new(&diff).unwrap()).unwrap();
    let after = diff.apply(Document::new(&document).unwrap()).unwrap();
    let kept = document.len() - 5;
    assert_eq!(after[4..4 + kept], document[4..4 + kept]);
}
