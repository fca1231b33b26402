use bson::{Bson, doc};

use super::*;

const JSON: Rules = rules(Writer::MongoKafkaJson);

fn event(operation: &str, more: Document) -> Document {
    let mut event = doc! {
        "_id": { "_data": "8263" }, "operationType": operation, "clusterTime": timestamp(7, 3),
        "wallTime": bson::DateTime::from_millis(7_100), "ns": { "db": "s", "coll": "a" },
    };
    event.extend(more);
    event
}

fn change(operation: &str, more: Document) -> Document {
    let mut event = event(operation, more);
    event.insert("documentKey", doc! { "_id": 1 });
    event
}

fn read(event: &Document) -> Result<Vec<(String, Document)>, ForeignError> {
    entries_of(rules(Writer::MongoKafkaBson), None, &bytes(event))
}

/// Returns the update of an event with this description.
fn update(description: Document) -> Result<Document, ForeignError> {
    let mut entries = read(&change("update", doc! { "updateDescription": description }))?;
    let (_, entry) = entries.remove(0);
    assert_eq!(entry.get_str("op").ok(), Some("u"));
    assert_eq!(entry.get_document("o2").ok(), Some(&doc! { "_id": 1 }));
    Ok(entry.get_document("o").unwrap().clone())
}

fn command(operation: &str, more: Document) -> Vec<(String, Document)> {
    let entries = read(&event(operation, more)).unwrap();
    let commands = entries.into_iter().map(|(id, entry)| {
        assert_eq!(
            (entry.get_str("op").ok(), entry.get_str("ns").ok()),
            (Some("c"), Some("s.$cmd"))
        );
        (id, entry.get_document("o").unwrap().clone())
    });
    commands.collect()
}

#[test]
fn changes_of_documents_become_entries() {
    let whole = doc! { "_id": 1, "x": 2_i64 };
    let insert = change("insert", doc! { "fullDocument": whole.clone() });
    let (id, entry) = read(&insert).unwrap().remove(0);
    let wall = bson::DateTime::from_millis(7_100);
    let head =
        |op: &str| doc! { "ts": timestamp(7, 3), "v": 2, "op": op, "ns": "s.a", "wall": wall };
    let mut expected = head("i");
    expected.insert("o", whole.clone());
    assert_eq!((id.as_str(), entry), ("7:3/40", expected));
    let replace = change("replace", doc! { "fullDocument": whole.clone() });
    let mut expected = head("u");
    expected.extend(doc! { "o": whole, "o2": { "_id": 1 } });
    assert_eq!(read(&replace).unwrap().remove(0).1, expected);
    let mut expected = head("d");
    expected.insert("o", doc! { "_id": 1 });
    assert_eq!(
        read(&change("delete", doc! {})).unwrap().remove(0).1,
        expected
    );
    assert!(read(&event("invalidate", doc! {})).unwrap().is_empty());
}

#[test]
fn paths_become_modifiers() {
    let described = doc! { "updatedFields": { "a.0.b": 1, "c": "x" }, "removedFields": ["d.e"], "truncatedArrays": [] };
    let expected = doc! { "$v": 1, "$set": { "a.0.b": 1, "c": "x" }, "$unset": { "d.e": true } };
    assert_eq!(update(described).unwrap(), expected);
    let nothing = doc! { "updatedFields": {}, "removedFields": [] };
    assert_eq!(update(nothing).unwrap(), doc! { "$v": 1 });
}

#[test]
fn a_truncated_array_becomes_a_diff() {
    let described = doc! {
        "updatedFields": { "x.tags.1": 5, "y": 1, "$odd": 2 }, "removedFields": ["x.gone"],
        "truncatedArrays": [{ "field": "x.tags", "newSize": 2 }, { "field": "list", "newSize": 0_i64 }],
    };
    let expected = doc! { "$v": 2, "diff": {
        "u": { "y": 1, "$odd": 2 },
        "slist": { "a": true, "l": 0 },
        "sx": { "d": { "gone": false }, "stags": { "a": true, "l": 2, "u1": 5 } },
    } };
    assert_eq!(update(described).unwrap(), expected);
}

#[test]
fn the_parts_of_ambiguous_paths_are_used() {
    let described = doc! {
        "updatedFields": { "a.b": 1, "c.0": 2, "d.1.e": 3 }, "removedFields": [], "truncatedArrays": [],
        "disambiguatedPaths": { "a.b": ["a.b"], "c.0": ["c", "0"], "d.1.e": ["d", 1, "e"] },
    };
    let expected = doc! { "$v": 2, "diff": {
        "u": { "a.b": 1 },
        "sc": { "u": { "0": 2 } },
        "sd": { "a": true, "s1": { "u": { "e": 3 } } },
    } };
    assert_eq!(update(described).unwrap(), expected);
}

#[test]
fn an_ambiguous_path_beside_a_truncated_array_is_an_error() {
    let truncated = doc! { "field": "list", "newSize": 1 };
    let nested = doc! { "field": "a.0.list", "newSize": 1 };
    for described in [
        doc! { "updatedFields": { "a.0": 1 }, "truncatedArrays": [truncated.clone()] },
        doc! { "updatedFields": {}, "truncatedArrays": [nested] },
        doc! { "updatedFields": { "list.x": 1 }, "truncatedArrays": [truncated] },
        doc! { "updatedFields": { "a.$b": 1, "a": 2 } },
    ] {
        let error = update(described.clone()).unwrap_err();
        assert!(
            matches!(error, ForeignError::Ambiguous(_)),
            "{described}: {error}"
        );
    }
}

#[test]
fn the_rules_select_the_whole_document_or_the_changes() {
    let whole = doc! { "_id": 1, "x": 3 };
    let more = doc! { "updateDescription": { "updatedFields": { "x": 2 } }, "fullDocument": whole.clone() };
    let event = change("update", more);
    let of = |updates| {
        let rules = Rules {
            updates,
            ..rules(Writer::MongoKafkaBson)
        };
        let (_, entry) = entry_of(rules, None, &bytes(&event));
        entry.get_document("o").unwrap().clone()
    };
    assert_eq!(of(Updates::Documents), whole);
    assert_eq!(of(Updates::Changes), doc! { "$v": 1, "$set": { "x": 2 } });
    let mut looked_up_late = event.clone();
    looked_up_late.insert("fullDocument", Bson::Null);
    let rules = Rules {
        updates: Updates::Documents,
        ..rules(Writer::MongoKafkaBson)
    };
    let (_, entry) = entry_of(rules, None, &bytes(&looked_up_late));
    assert_eq!(
        entry.get_document("o").ok(),
        Some(&doc! { "$v": 1, "$set": { "x": 2 } })
    );
}

#[test]
fn events_of_collections_become_commands() {
    let dropped = command("drop", doc! {});
    assert_eq!(dropped[0].1, doc! { "drop": "a" });
    assert!(dropped[0].0.starts_with("7:3/"), "{}", dropped[0].0);
    let renamed = doc! { "renameCollection": "s.a", "to": "s.b", "dropTarget": true };
    let rename = command("rename", doc! { "to": { "db": "s", "coll": "b" } });
    assert_eq!(rename[0].1, renamed);
    assert_eq!(
        command("dropDatabase", doc! {})[0].1,
        doc! { "dropDatabase": 1 }
    );
    let specs = doc! { "indexes": [{ "v": 2, "key": { "x": 1 }, "name": "x_1" }, { "v": 2, "key": { "y": 1 }, "name": "y_1" }] };
    let described = doc! { "operationDescription": specs.clone() };
    let mut built = doc! { "commitIndexBuild": "a" };
    built.extend(specs);
    assert_eq!(command("createIndexes", described.clone())[0].1, built);
    let dropped = command("dropIndexes", described);
    let commands: Vec<&Document> = dropped.iter().map(|(_, command)| command).collect();
    let expected = ["x_1", "y_1"].map(|name| doc! { "dropIndexes": "a", "index": name });
    assert_eq!(commands, expected.iter().collect::<Vec<_>>());
    assert_ne!(dropped[0].0, dropped[1].0);
    let created = command(
        "create",
        doc! { "operationDescription": { "capped": true } },
    );
    assert_eq!(created[0].1, doc! { "create": "a", "capped": true });
    assert_eq!(
        command("shardCollection", doc! {})[0].1,
        doc! { "shardCollection": "a" }
    );
}

#[test]
fn json_is_read_in_every_form_of_the_connector() {
    // The default formatter writes Extended JSON v1 and numbers that JSON does not have.
    let plain = r#"{"_id":{"_data":"82"},"operationType":"insert","clusterTime":{"$timestamp":{"t":7,"i":3}},"ns":{"db":"s","coll":"a"},"documentKey":{"_id":{"$oid":"63318f67024749a30fc12af6"}},"fullDocument":{"_id":{"$oid":"63318f67024749a30fc12af6"},"b":{"$binary":"AQI=","$type":"00"},"r":{"$regex":"x","$options":"i"},"d":{"$date":1700000000123},"n":{"$numberLong":"1"},"nan":NaN,"inf":-Infinity}}"#;
    let (_, expected) = entry_of(JSON, None, plain.as_bytes());
    let o = expected.get_document("o").unwrap();
    assert!(matches!(o.get("b"), Some(Bson::Binary(_))));
    assert!(matches!(o.get("r"), Some(Bson::RegularExpression(_))));
    assert_eq!(
        o.get("d"),
        Some(&bson::DateTime::from_millis(1_700_000_000_123).into())
    );
    assert!(o.get_f64("nan").unwrap().is_nan());
    assert_eq!(o.get_f64("inf").ok(), Some(f64::NEG_INFINITY));
    assert_eq!(o.get("n"), Some(&Bson::Int64(1)));
    let quoted = serde_json::to_string(plain).unwrap();
    let schema = format!(r#"{{"schema":{{"type":"string","optional":false}},"payload":{quoted}}}"#);
    for text in [quoted, schema] {
        let (_, entry) = entry_of(JSON, None, text.as_bytes());
        // A NaN is not equal to itself.
        assert_eq!(bytes(&entry), bytes(&expected), "{text}");
    }
}

#[test]
fn a_copied_document_has_no_time() {
    let text = br#"{"_id":{"_id":1,"copyingData":true},"operationType":"insert","ns":{"db":"s","coll":"a"},"documentKey":{"_id":1},"fullDocument":{"_id":1}}"#;
    let (id, entry) = entry_of(JSON, None, text);
    assert_eq!(
        (id.as_str(), entry.get_str("op").ok()),
        ("0:0/40", Some("i"))
    );
}

#[test]
fn simplified_json_needs_consent() {
    let text = br#"{"_id":{"_data":"82"},"operationType":"insert","wallTime":"2023-11-14T22:13:20.123Z","ns":{"db":"s","coll":"a"},"documentKey":{"_id":"63318f67024749a30fc12af6"},"fullDocument":{"_id":"63318f67024749a30fc12af6"}}"#;
    let strict = Rules {
        accepts_lossy: false,
        ..JSON
    };
    let error = entries_of(strict, None, text).unwrap_err();
    assert!(
        error.needs_consent() && text_of(&error).contains("SimplifiedJson"),
        "{error}"
    );
    assert_eq!(entries_of(JSON, None, text).unwrap().len(), 1);
}

#[test]
fn a_topic_with_several_partitions_needs_the_id_as_the_key() {
    let strict = Rules {
        checks_keys: true,
        ..JSON
    };
    let value = br#"{"_id":{"_data":"82"},"operationType":"delete","ns":{"db":"s","coll":"a"},"documentKey":{"_id":{"$oid":"63318f67024749a30fc12af6"}}}"#;
    let keys: [(&[u8], bool); 6] = [
        (br#"{"_id": {"$oid": "63318f67024749a30fc12af6"}}"#, true),
        (
            // The shard key may change, and copied documents have the _id alone.
            br#"{"sk": 1, "_id": {"$oid": "63318f67024749a30fc12af6"}}"#,
            false,
        ),
        (
            br#""{\"_id\": {\"$oid\": \"63318f67024749a30fc12af6\"}}""#,
            true,
        ),
        (br#"{"_id": {"_data": "82"}}"#, false),
        (br#"{"_id": {"$oid": "63318f67024749a30fc12af7"}}"#, false),
        (b"\0\0\0\0\x01x", false),
    ];
    for (key, accepted) in keys {
        let read = entries_of(strict, Some(key), value);
        assert_eq!(read.is_ok(), accepted, "{}", String::from_utf8_lossy(key));
        assert!(read.is_ok() || read.is_err_and(|error| error.needs_consent()));
    }
    assert!(entries_of(strict, None, value).unwrap_err().needs_consent());
    let invalidated = br#"{"_id":{"_data":"82"},"operationType":"invalidate"}"#;
    assert_eq!(entries_of(strict, None, invalidated), Ok(Vec::new()));
}

#[test]
fn an_event_without_what_it_needs_is_an_error() {
    let whole = doc! { "_id": 1 };
    let cases = [
        (
            event("insert", doc! { "fullDocument": whole.clone() }),
            "documentKey",
        ),
        (change("insert", doc! {}), "fullDocument"),
        (
            change("replace", doc! { "fullDocument": { "x": 1 } }),
            "_id",
        ),
        (change("update", doc! {}), "updateDescription"),
        (
            change("insert", doc! { "fullDocument": "{}" }),
            "output.format.value=schema",
        ),
        (
            change("update", doc! { "splitEvent": { "fragment": 1, "of": 2 } }),
            "fragment",
        ),
        (event("rename", doc! {}), "new name"),
        (whole, "operationType"),
    ];
    for (event, part) in cases {
        let error = read(&event).unwrap_err();
        assert!(text_of(&error).contains(part), "{event}: {error}");
        assert!(!error.needs_consent());
    }
}
