//! `$v: 1` modifiers, as tolerant as a server that applies its own oplog.

use super::*;

fn modified(document: &str, modifiers: &str) -> String {
    let (document, modifiers) = (bson(document), bson(modifiers));
    let (document, modifiers) = (
        Document::new(&document).unwrap(),
        Document::new(&modifiers).unwrap(),
    );
    text(&apply_modifiers(document, modifiers).unwrap())
}

#[test]
fn path_not_viable_keeps_sibling_changes() {
    for (before, modifiers, after) in [
        (
            r#"{"a":0}"#,
            r#"{"$set":{"a.b":0,"c":1}}"#,
            r#"{"a":0,"c":1}"#,
        ),
        (
            r#"{"a":null}"#,
            r#"{"$set":{"a.b.c":0,"c":1}}"#,
            r#"{"a":null,"c":1}"#,
        ),
        (
            r#"{"a":[1]}"#,
            r#"{"$set":{"a.x":0,"a.0":2}}"#,
            r#"{"a":[2]}"#,
        ),
        (
            r#"{"a":[1]}"#,
            r#"{"$set":{"a.x.y":0,"c":1},"$unset":{"a.x":true}}"#,
            r#"{"a":[1],"c":1}"#,
        ),
        (
            r#"{"a":5,"b":1}"#,
            r#"{"$unset":{"a.b":true,"b":true}}"#,
            r#"{"a":5}"#,
        ),
    ] {
        assert_eq!(modified(before, modifiers), after, "{modifiers}");
    }
}

#[test]
fn numeric_path_on_missing_array() {
    assert_eq!(modified("{}", r#"{"$set":{"r.0":1}}"#), r#"{"r":{"0":1}}"#);
}

#[test]
fn modifiers_have_the_same_result_as_on_a_server() {
    let before = r#"{"_id":1,"a":[1,{"x":2}],"d":{"0":3}}"#;
    for (modifiers, after) in [
        (
            r#"{"$v":1,"$set":{"a.1.x":9}}"#,
            r#""a":[1,{"x":9}],"d":{"0":3}"#,
        ),
        (
            r#"{"$set":{"a.3":9}}"#,
            r#""a":[1,{"x":2},null,9],"d":{"0":3}"#,
        ),
        (
            r#"{"$set":{"a.2.y.z":9}}"#,
            r#""a":[1,{"x":2},{"y":{"z":9}}],"d":{"0":3}"#,
        ),
        (r#"{"$set":{"d.0":9}}"#, r#""a":[1,{"x":2}],"d":{"0":9}"#),
        (
            r#"{"$set":{"n.1":9,"n.0":8}}"#,
            r#""a":[1,{"x":2}],"d":{"0":3},"n":{"1":9,"0":8}"#,
        ),
        (
            r#"{"$unset":{"a.0":true,"a.7":true}}"#,
            r#""a":[null,{"x":2}],"d":{"0":3}"#,
        ),
        (
            r#"{"$unset":{"d.0":true,"q.r":true}}"#,
            r#""a":[1,{"x":2}],"d":{}"#,
        ),
        (r#"{"$set":{"a":1},"$set":{"d":2}}"#, r#""a":1,"d":2"#),
    ] {
        assert_eq!(
            modified(before, modifiers),
            format!("{{\"_id\":1,{after}}}"),
            "{modifiers}"
        );
    }
    let (document, modifiers) = (bson("{}"), bson(r#"{"$inc":{"a":1}}"#));
    let error = apply_modifiers(
        Document::new(&document).unwrap(),
        Document::new(&modifiers).unwrap(),
    );
    assert_eq!(error.unwrap_err().fault, DiffFault::Operator("$inc".into()));
}

/// The log is `c=0`; `a.b=0, c=1`; `a=0`. When it is applied again to the last state, the second
/// entry must still set `c`.
#[test]
fn modifiers_applied_again_converge() {
    let log = [
        r#"{"$set":{"c":0}}"#,
        r#"{"$set":{"a.b":0,"c":1}}"#,
        r#"{"$set":{"a":0}}"#,
    ];
    let run = |from: &str| {
        log.iter().fold(from.to_owned(), |document, entry| {
            modified(&document, entry)
        })
    };
    let end = run(r#"{"_id":1,"a":{}}"#);
    assert_eq!(end, r#"{"_id":1,"a":0,"c":1}"#);
    assert_eq!(run(&end), end);
}
