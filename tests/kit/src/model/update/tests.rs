use super::*;
use oplog_relay_core::json::{Mode, parse_document, write_document};

fn updated(document: &str, update: &str, version: Version) -> Result<String, i32> {
    let (mut stored, mut change, mut text) = (Vec::new(), Vec::new(), Vec::new());
    parse_document(document.as_bytes(), &mut stored).unwrap();
    parse_document(update.as_bytes(), &mut change).unwrap();
    let (stored, change) = (Document::new(&stored), Document::new(&change));
    let result = apply(stored.unwrap(), change.unwrap(), version);
    let result = result.map_err(|failure| failure.code)?;
    let result = Document::new(&result).unwrap();
    assert!(
        write_document(result, Mode::Relaxed, &mut text)
            .unwrap()
            .is_exact()
    );
    Ok(String::from_utf8(text).unwrap())
}

#[test]
fn paths_are_resolved_as_on_a_server() {
    let document = r#"{"_id":1,"a":[1,{"x":2}],"d":{"0":3}}"#;
    for (update, result) in [
        (r#"{"$set":{"a.1.x":9}}"#, r#""a":[1,{"x":9}],"d":{"0":3}"#),
        (r#"{"$set":{"a.00":9}}"#, r#""a":[9,{"x":2}],"d":{"0":3}"#),
        (
            r#"{"$set":{"a.3":9}}"#,
            r#""a":[1,{"x":2},null,9],"d":{"0":3}"#,
        ),
        (r#"{"$set":{"d.0":9}}"#, r#""a":[1,{"x":2}],"d":{"0":9}"#),
        (
            r#"{"$set":{"n.1":9}}"#,
            r#""a":[1,{"x":2}],"d":{"0":3},"n":{"1":9}"#,
        ),
        (
            r#"{"$unset":{"a.0":true}}"#,
            r#""a":[null,{"x":2}],"d":{"0":3}"#,
        ),
        (
            r#"{"$unset":{"d.0":true,"q.r":true}}"#,
            r#""a":[1,{"x":2}],"d":{}"#,
        ),
        (
            r#"{"$unset":{"a.x":1,"_id.x":1},"$push":{"a":{"$each":[],"$slice":1}}}"#,
            "40",
        ),
        (
            r#"{"$push":{"a":{"$each":[],"$slice":1}}}"#,
            r#""a":[1],"d":{"0":3}"#,
        ),
        (
            r#"{"$push":{"a":{"$each":[7,8],"$slice":-3}}}"#,
            r#""a":[{"x":2},7,8],"d":{"0":3}"#,
        ),
        (
            r#"{"$push":{"n":{"$each":[],"$slice":2}}}"#,
            r#""a":[1,{"x":2}],"d":{"0":3},"n":[]"#,
        ),
        (
            r#"{"$push":{"a":[7,8],"n.x":{"y":1}}}"#,
            r#""a":[1,{"x":2},[7,8]],"d":{"0":3},"n":{"x":[{"y":1}]}"#,
        ),
        (
            r#"{"$inc":{"a.0":-3,"d.0":1,"d.1":2}}"#,
            r#""a":[-2,{"x":2}],"d":{"0":4,"1":2}"#,
        ),
        (
            r#"{"$set":{"z":1,"b":1},"$unset":{"a.x":1}}"#,
            r#""a":[1,{"x":2}],"d":{"0":3},"b":1,"z":1"#,
        ),
    ] {
        let found = updated(document, update, Version::V4_4);
        let result = match result.parse() {
            Ok(code) => Err(code),
            Err(_) => Ok(format!("{{\"_id\":1,{result}}}")),
        };
        assert_eq!(found, result, "{update}");
    }
}

#[test]
fn updates_are_refused_as_on_a_server() {
    let document = r#"{"_id":1,"a":[1],"n":null,"d":{}}"#;
    for (update, code) in [
        (r#"{"$set":{"a.x":1}}"#, 28),
        (r#"{"$set":{"_id.x":1}}"#, 28),
        (r#"{"$set":{"n.x":1}}"#, 28),
        (r#"{"$set":{"a.1600000":1}}"#, 34),
        (r#"{"$set":{"d.x":1},"$unset":{"d":1}}"#, 40),
        (r#"{"$set":{"d.x":1,"d.x.y":1}}"#, 40),
        (r#"{"$set":{"d":1},"$unset":{"d":1}}"#, 40),
        (r#"{"$push":{"d":{"$each":[]}}}"#, 2),
        (r#"{"$push":{"a":{"$each":1}}}"#, 2),
        (r#"{"$set":{}}"#, 9),
        (r#"{"$v":1,"$set":{"d":1}}"#, 9),
        (r#"{"$set":1}"#, 9),
        (r#"{"$set":{"a.":1}}"#, 56),
        (r#"{"$set":{"d.$x":1}}"#, 52),
        (r#"{"$set":{"d":{"e":[{"$x":1}]}}}"#, 52),
        (r#"{"$mul":{"d":1}}"#, 238),
        (r#"{"$push":{"a":{"$slice":1}}}"#, 52),
        (r#"{"$push":{"n":1}}"#, 2),
        (r#"{"$inc":{"d":1}}"#, 14),
        (r#"{"$inc":{"n":1}}"#, 14),
        (r#"{"$inc":{"_id":"1"}}"#, 14),
        (r#"{"$inc":{}}"#, 9),
    ] {
        assert_eq!(
            updated(document, update, Version::V4_4),
            Err(code),
            "{update}"
        );
    }
    for update in [r#"{"$set":{}}"#, r#"{"$set":{"d":{"$x":1}}}"#] {
        assert!(updated(document, update, Version::V5_0).is_ok(), "{update}");
    }
}

#[test]
fn new_fields_are_added_in_the_order_of_their_names() {
    let update = r#"{"$set":{"10":0,"9":0,"b":0,"a":0}}"#;
    for (version, result) in [
        (Version::V4_4, r#"{"10":0,"9":0,"a":0,"b":0}"#),
        (Version::V5_0, r#"{"9":0,"10":0,"a":0,"b":0}"#),
    ] {
        assert_eq!(updated("{}", update, version).unwrap(), result);
    }
}
