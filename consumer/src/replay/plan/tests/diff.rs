//! Tests of how diffs are sent.

use oplog_relay_core::json::parse_document;

use super::*;

/// Returns the `u` of the statement as which a diff is sent, or "rewritten".
fn sent(diff: &str) -> String {
    let mut o = Vec::new();
    let text = format!(r#"{{"$v":2,"diff":{diff}}}"#);
    parse_document(text.as_bytes(), &mut o).unwrap();
    let entries = [with_o("u", |out| {
        for field in Document::new(&o).unwrap().elements() {
            out.element(field.unwrap());
        }
    })];
    match first_write(&located(&entries)) {
        (BulkKind::Rewrite, _) => "rewritten".to_owned(),
        (kind, write) => {
            let command = command_text(kind, &[write]);
            let (_, update) = command.split_once(r#""u":"#).unwrap();
            update.strip_suffix("}]}").unwrap().to_owned()
        }
    }
}

#[test]
fn diffs_are_sent_as_statements_only_if_the_result_is_the_same() {
    for (diff, update) in [
        (r#"{"u":{"a":1}}"#, r#"{"$set":{"a":1}}"#),
        (r#"{"u":{"a":"$y"}}"#, r#"{"$set":{"a":"$y"}}"#),
        (
            r#"{"u":{"a":[],"b":{},"c":null}}"#,
            r#"{"$set":{"a":[],"b":{},"c":null}}"#,
        ),
        (
            r#"{"d":{"z":false,"b":false}}"#,
            r#"{"$unset":{"z":false,"b":false}}"#,
        ),
        (
            r#"{"d":{"b":false},"u":{"a":1}}"#,
            r#"{"$set":{"a":1},"$unset":{"b":false}}"#,
        ),
    ] {
        assert_eq!(sent(diff), update);
    }
    for diff in [
        r#"{"i":{"a":1}}"#,
        r#"{"i":{"_id":1,"a":1}}"#,
        r#"{"u":{"_id":1,"a":1}}"#,
        r#"{"sa":{"u":{"b":1}}}"#,
        r#"{"sa":{"a":true,"l":2}}"#,
        r#"{"sa":{"a":true,"u3":2}}"#,
        r#"{"u":{"a":1},"sb":{"d":{"c":false}}}"#,
        r#"{"b":{"a":{"o":1,"d":{"$binary":{"base64":"AA==","subType":"00"}}}}}"#,
        r#"{"u":{"a.b":1}}"#,
        r#"{"u":{"$a":1}}"#,
        r#"{"u":{"":1}}"#,
        r#"{"d":{"a.b":false}}"#,
        r#"{"d":{"$a":false}}"#,
        r#"{"d":{"":false}}"#,
        r#"{"u":{"0":1}}"#,
    ] {
        assert_eq!(sent(diff), "rewritten", "{diff}");
    }
}

/// A server appends the fields of one `$set` in the order of their names.
#[test]
fn fields_set_out_of_the_order_of_their_names_are_a_rewrite() {
    assert_eq!(
        sent(r#"{"u":{"B":1,"a":1,"ab":1}}"#),
        r#"{"$set":{"B":1,"a":1,"ab":1}}"#
    );
    assert_eq!(sent(r#"{"u":{"b":1,"a":1}}"#), "rewritten");
    assert_eq!(sent(r#"{"u":{"a":1,"B":1}}"#), "rewritten");
}
