use bson::{Bson, doc};
use serde_json::json;

use super::*;

const RULES: Rules = rules(Writer::Debezium);
const KEY: &[u8] = br#"{"id":"1004"}"#;

fn value(op: &str, more: &serde_json::Value) -> serde_json::Value {
    let mut value = json!({
        "before": null, "after": null, "updateDescription": null,
        "source": {"version": "3.3.1", "connector": "mongodb", "name": "fulfillment", "ts_ms": 7_100, "snapshot": "false", "db": "inventory", "sequence": null, "collection": "customers", "ord": 3, "lsid": null, "txnNumber": null, "wallTime": 7_100},
        "op": op, "ts_ms": 8_000, "transaction": null,
    });
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    value
}

fn read(rules: Rules, value: &serde_json::Value) -> Result<Document, ForeignError> {
    let text = value.to_string();
    let mut entries = entries_of(rules, Some(KEY), text.as_bytes())?;
    assert_eq!(entries.len(), 1);
    let (id, entry) = entries.remove(0);
    assert_eq!(
        (id.as_str(), entry.get_str("ns").ok()),
        ("7:3/40", Some("inventory.customers"))
    );
    Ok(entry)
}

#[test]
fn inserts_and_snapshots_have_the_document() {
    let after = r#"{"_id": {"$numberLong": "1004"},"d": {"$date": 5},"b": {"$binary": "AQI=","$type": "00"},"x": 1.0}"#;
    for op in ["c", "r"] {
        let entry = read(RULES, &value(op, &json!({ "after": after }))).unwrap();
        let o = entry.get_document("o").unwrap();
        assert_eq!(entry.get_str("op").ok(), Some("i"));
        assert_eq!(o.get("_id"), Some(&Bson::Int64(1004)));
        assert_eq!(o.get("d"), Some(&bson::DateTime::from_millis(5).into()));
        assert!(matches!(o.get("b"), Some(Bson::Binary(_))));
        assert_eq!(o.get("x"), Some(&Bson::Double(1.0)));
    }
}

#[test]
fn a_schema_beside_the_payload_is_ignored() {
    let payload = value("c", &json!({ "after": r#"{"_id": 1004}"# }));
    let text = json!({ "schema": { "type": "struct" }, "payload": payload }).to_string();
    let (_, entry) = entry_of(RULES, Some(KEY), text.as_bytes());
    assert_eq!(entry.get_document("o").ok(), Some(&doc! { "_id": 1004 }));
}

#[test]
fn an_update_is_the_document_or_the_changes() {
    let described = json!({ "removedFields": ["a.b"], "updatedFields": r#"{"x": {"$date": "1970-01-01T00:00:00.005Z"}}"#, "truncatedArrays": null });
    let more = json!({ "after": r#"{"_id": 1004,"x": 2}"#, "updateDescription": described });
    let documents = Rules {
        updates: Updates::Documents,
        accepts_lossy: false,
        ..RULES
    };
    let entry = read(documents, &value("u", &more)).unwrap();
    assert_eq!(
        entry.get_document("o").ok(),
        Some(&doc! { "_id": 1004, "x": 2 })
    );
    assert_eq!(entry.get_document("o2").ok(), Some(&doc! { "_id": 1004 }));
    let changes = doc! { "$v": 1, "$set": { "x": bson::DateTime::from_millis(5) }, "$unset": { "a.b": true } };
    let entry = read(RULES, &value("u", &more)).unwrap();
    assert_eq!(entry.get_document("o").ok(), Some(&changes));
    let only = value("u", &json!({ "updateDescription": described }));
    let entry = read(documents, &only).unwrap();
    assert_eq!(entry.get_document("o").ok(), Some(&changes));
    assert_eq!(entry.get_document("o2").ok(), Some(&doc! { "_id": 1004 }));
    let replaced = value("u", &json!({ "after": r#"{"_id": 1004}"# }));
    assert_eq!(
        read(RULES, &replaced).unwrap().get_document("o").ok(),
        Some(&doc! { "_id": 1004 })
    );
    let truncated =
        json!({ "updatedFields": "{}", "truncatedArrays": [{ "field": "t", "size": 1 }] });
    let entry = read(
        RULES,
        &value("u", &json!({ "updateDescription": truncated })),
    )
    .unwrap();
    let diff = doc! { "$v": 2, "diff": { "st": { "a": true, "l": 1 } } };
    assert_eq!(entry.get_document("o").ok(), Some(&diff));
}

#[test]
fn changed_integers_without_the_document_need_consent() {
    let described = json!({ "updatedFields": r#"{"a": [{"n": 5}]}"# });
    let update = value("u", &json!({ "updateDescription": described }));
    let strict = Rules {
        accepts_lossy: false,
        ..RULES
    };
    let error = read(strict, &update).unwrap_err();
    assert!(
        error.needs_consent() && text_of(&error).contains("json.serialization.mode"),
        "{error}"
    );
    assert!(read(RULES, &update).is_ok());
}

#[test]
fn a_delete_has_its_id_in_the_key_or_in_the_document_before() {
    let entry = read(RULES, &value("d", &json!({}))).unwrap();
    assert_eq!(entry.get_document("o").ok(), Some(&doc! { "_id": 1004 }));
    let before = value(
        "d",
        &json!({ "before": r#"{"_id": {"$numberLong": "1004"},"x": 1}"# }),
    );
    assert_eq!(
        read(RULES, &before).unwrap().get_document("o").ok(),
        Some(&doc! { "_id": 1004_i64 })
    );
    let text = value("d", &json!({})).to_string();
    for (key, id) in [
        (r#"{"id":"\"1004\""}"#, Bson::from("1004")),
        (r#"{"id":"{\"a\": 1}"}"#, doc! { "a": 1 }.into()),
        (
            r#"{"schema":{"type":"struct"},"payload":{"id":"12.5"}}"#,
            12.5.into(),
        ),
    ] {
        let (_, entry) = entry_of(RULES, Some(key.as_bytes()), text.as_bytes());
        assert_eq!(
            entry.get_document("o").ok(),
            Some(&doc! { "_id": id }),
            "{key}"
        );
    }
    for key in [None, Some(&b"1004"[..]), Some(b"{\"id\":\"{\"}")] {
        assert!(entries_of(RULES, key, text.as_bytes()).is_err(), "{key:?}");
    }
}

#[test]
fn a_topic_with_several_partitions_needs_debeziums_key() {
    let strict = Rules {
        checks_keys: true,
        ..RULES
    };
    let text = value("c", &json!({ "after": r#"{"_id": 1004}"# })).to_string();
    assert!(entries_of(strict, Some(KEY), text.as_bytes()).is_ok());
    for key in [None, Some(&br#"{"customer":1}"#[..])] {
        let error = entries_of(strict, key, text.as_bytes()).unwrap_err();
        assert!(
            error.needs_consent() && text_of(&error).contains("--allow-unordered"),
            "{error}"
        );
    }
}

#[test]
fn records_about_transactions_and_heartbeats_have_no_entries() {
    for text in [
        r#"{"status":"BEGIN","id":"1:2","event_count":null,"data_collections":null}"#,
        r#"{"status":"END","id":"1:2","event_count":2,"data_collections":[]}"#,
        r#"{"ts_ms":1558965515240}"#,
    ] {
        assert_eq!(
            entries_of(RULES, None, text.as_bytes()),
            Ok(Vec::new()),
            "{text}"
        );
    }
}

#[test]
fn an_event_without_what_it_needs_is_an_error() {
    let cases = [
        (value("c", &json!({})), "no after"),
        (value("u", &json!({})), "neither after"),
        (value("u", &json!({ "after": "{\"x\": 1}" })), "no _id"),
        (value("t", &json!({})), "op is not"),
        (value("c", &json!({ "after": "{" })), "not JSON"),
        (value("c", &json!({ "source": {} })), "no db"),
        (
            json!({ "_id": 1, "first_name": "Anne" }),
            "ExtractNewDocumentState",
        ),
    ];
    for (value, part) in cases {
        let error = entries_of(RULES, Some(KEY), value.to_string().as_bytes()).unwrap_err();
        assert!(text_of(&error).contains(part), "{value}: {error}");
    }
}
