use std::collections::BTreeSet;

use super::avro::SchemaIds;
use super::debezium::{Debezium, write_debezium, write_debezium_key};
use super::json::write_reader_event;
use super::oplog::write_oplog_entry;
use super::origin::Origin;
use super::tests::{document, entry, insert, update};
use super::*;
use crate::document::kind;
use crate::entry::Entry;
use crate::key::write_key;
use crate::position::Timestamp;

const RELAXED: Debezium = Debezium {
    mode: Mode::Relaxed,
    with_schema: false,
};

/// Writes an entry with the ordinal 4 as an event in Debezium's envelope.
fn write(bytes: &[u8], form: Debezium) -> Result<String, EntryError> {
    let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
    let id = EntryId {
        ts: entry.ts,
        ord: 4,
    };
    let origin = Origin {
        topic: "cdc.shop.orders",
        source: "rs0",
        processed_at: 1_700_000_001_000,
        schemas: SchemaIds::default(),
    };
    let mut out = Vec::new();
    write_debezium(&entry, id, form, &origin, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn debezium_of(bytes: &[u8], form: Debezium) -> String {
    write(bytes, form).unwrap()
}

/// Returns the fields of an envelope before `source`, and `op`.
fn change(bytes: &[u8]) -> (String, String) {
    let text = debezium_of(bytes, RELAXED);
    let (change, rest) = text.split_once(r#","source":"#).unwrap();
    let (_, op) = rest.split_once(r#"},"op":""#).unwrap();
    (format!("{change}}}"), op.chars().take(1).collect())
}

fn key() -> Vec<u8> {
    document(|key| {
        key.int32("_id", 1);
    })
}

#[test]
fn debezium_events_have_their_frozen_form() {
    assert_eq!(
        debezium_of(&insert(), RELAXED),
        r#"{"before":null,"after":"{\"_id\":1,\"name\":\"Ada\"}","updateDescription":null,"source":{"version":"0.1.0","connector":"mongodb","name":"rs0","snapshot":"false","db":"shop","sequence":"[\"1700000000:1\",\"4\"]","ts_ms":1700000000123,"ts_us":1700000000123000,"ts_ns":1700000000123000000,"collection":"orders","ord":1,"lsid":null,"txnNumber":null,"wallTime":1700000000123},"op":"c","ts_ms":1700000001000,"ts_us":1700000001000000,"ts_ns":1700000001000000000,"transaction":null}"#
    );
}

#[test]
fn debezium_has_each_kind_of_change() {
    let (change_of, op) = change(&update());
    assert_eq!(op, "u");
    assert_eq!(
        change_of,
        r#"{"before":null,"after":null,"updateDescription":{"removedFields":["name"],"updatedFields":"{\"a.b\":5}","truncatedArrays":null}}"#
    );
    let mut diff = Vec::new();
    let text = r#"{"$v":2,"diff":{"d":{"gone":false},"sr":{"a":true,"l":2,"u0":9}}}"#;
    crate::json::parse_document(text.as_bytes(), &mut diff).unwrap();
    let (change_of, _) = change(&entry(3, "u", &diff, Some(&key())));
    assert_eq!(
        change_of,
        r#"{"before":null,"after":null,"updateDescription":{"removedFields":["gone"],"updatedFields":"{\"r.0\":9}","truncatedArrays":[{"field":"r","size":2}]}}"#
    );
    let replaced = document(|o| {
        o.int32("_id", 1).str("name", "Bo");
    });
    let (change_of, op) = change(&entry(4, "u", &replaced, Some(&key())));
    assert_eq!(op, "u");
    assert_eq!(
        change_of,
        r#"{"before":null,"after":"{\"_id\":1,\"name\":\"Bo\"}","updateDescription":null}"#
    );
    let (change_of, op) = change(&entry(5, "d", &key(), None));
    assert_eq!(op, "d");
    assert_eq!(
        change_of,
        r#"{"before":null,"after":null,"updateDescription":null}"#
    );
}

/// Without the error, the event would report no change, and the position would pass the update.
#[test]
fn an_update_that_debezium_cannot_describe_is_an_error() {
    for update in [r#"{"$v":2,"diff":{"x":{"a":1}}}"#, r#"{"$inc":{"a":1}}"#] {
        let mut o = Vec::new();
        crate::json::parse_document(update.as_bytes(), &mut o).unwrap();
        let written = write(&entry(3, "u", &o, Some(&key())), RELAXED);
        assert!(
            matches!(written, Err(EntryError::Indescribable { .. })),
            "{update}"
        );
    }
}

#[test]
fn a_topic_changes_neither_its_barriers_nor_its_keys() {
    let form = |with_schema| {
        let mode = Mode::Relaxed;
        Format::Debezium(Debezium { mode, with_schema })
    };
    let readers = Format::ReaderJson(Mode::Relaxed);
    let latest = Format::Snapshot(Mode::Relaxed);
    for (one, other, may) in [
        (Format::Raw, Format::Oplog(Mode::Canonical), true),
        (readers, Format::ReaderJson(Mode::Canonical), true),
        (Format::Bson, readers, false),
        (readers, form(false), false),
        (form(false), form(true), false),
        (latest, Format::Snapshot(Mode::Canonical), true),
        (latest, readers, false),
        (latest, form(false), false),
        (latest, Format::Bson, false),
    ] {
        assert_eq!(
            (one.may_become(other), other.may_become(one)),
            (may, may),
            "{one} {other}"
        );
    }
}

#[test]
fn debezium_with_schema_describes_every_field_of_the_payload() {
    let with_schema = Debezium {
        with_schema: true,
        ..RELAXED
    };
    let plain: serde_json::Value = parse(debezium_of(&update(), RELAXED).as_bytes());
    let value = parse(debezium_of(&update(), with_schema).as_bytes());
    assert_eq!(value["payload"], plain);
    assert_eq!(value["schema"]["name"], "cdc.shop.orders.Envelope");
    let names = |schema: &serde_json::Value| -> Vec<String> {
        let fields = schema["fields"].as_array().unwrap().iter();
        let mut names: Vec<_> = fields
            .map(|field| field["field"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let fields = |value: &serde_json::Value| -> Vec<String> {
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&value["schema"]), fields(&plain));
    for nested in ["source", "updateDescription"] {
        let all = value["schema"]["fields"].as_array().unwrap();
        let schema = all.iter().find(|field| field["field"] == nested).unwrap();
        assert_eq!(names(schema), fields(&plain[nested]), "{nested}");
    }
}

fn parse(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).unwrap()
}

#[test]
fn a_debezium_key_is_the_id_as_debezium_writes_it() {
    let key_of = |form: Debezium, fill: &dyn Fn(&mut crate::document::DocumentBuilder<'_>)| {
        let bytes = document(|o| fill(o));
        let id = Document::new(&bytes).unwrap().get("_id").unwrap().unwrap();
        let (mut own, mut out) = (Vec::new(), Vec::new());
        write_key(id, &mut own).unwrap();
        write_debezium_key(id, &own, form, "cdc.a.b", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let int = |o: &mut crate::document::DocumentBuilder<'_>| {
        o.int32("_id", 1004);
    };
    assert_eq!(key_of(RELAXED, &int), r#"{"id":"1004"}"#);
    // The readers of a key parse digits as a 64-bit integer, and a fraction as a double.
    for (number, expected) in [
        (r#"{"$numberDouble":"1e300"}"#, "1e+300"),
        (r#"{"$numberDouble":"1.0"}"#, "1"),
        (r#"{"$numberDecimal":"0.5"}"#, "0.5"),
        (
            r#"{"$numberDecimal":"0.1"}"#,
            r#"{\"$numberDecimal\": \"0.1\"}"#,
        ),
    ] {
        let mut id = Vec::new();
        crate::json::parse_document(format!("{{\"_id\":{number}}}").as_bytes(), &mut id).unwrap();
        let id = Document::new(&id).unwrap().get("_id").unwrap().unwrap();
        let of_number = |o: &mut crate::document::DocumentBuilder<'_>| {
            o.raw("_id", id.kind, id.value);
        };
        assert_eq!(
            key_of(RELAXED, &of_number),
            format!(r#"{{"id":"{expected}"}}"#)
        );
    }
    let text = |o: &mut crate::document::DocumentBuilder<'_>| {
        o.str("_id", "a:\"b");
    };
    assert_eq!(key_of(RELAXED, &text), r#"{"id":"\"a:\\\"b\""}"#);
    let object_id = |o: &mut crate::document::DocumentBuilder<'_>| {
        o.raw("_id", kind::OBJECT_ID, &[0xab; 12]);
    };
    assert_eq!(
        key_of(RELAXED, &object_id),
        r#"{"id":"{\"$oid\": \"abababababababababababab\"}"}"#
    );
    let with_schema = Debezium {
        with_schema: true,
        ..RELAXED
    };
    assert_eq!(
        parse(key_of(with_schema, &int).as_bytes()),
        parse(
            br#"{"schema":{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"}],"optional":false,"name":"cdc.a.b.Key"},"payload":{"id":"1004"}}"#
        )
    );
}

/// Writes an entry in the `oplog` envelope and decodes it again.
fn carried(bytes: &[u8], mode: Mode) -> (String, Vec<u8>) {
    let mut arena = Vec::new();
    write_oplog_entry(Document::new(bytes).unwrap(), mode, &mut arena).unwrap();
    let text = String::from_utf8(arena.clone()).unwrap();
    let value = 0..arena.len();
    let mut found = Vec::new();
    let header = Some(&b"rs0/1700000000:2/7"[..]);
    decode(Format::Oplog(mode), value, header, &mut arena, &mut found).unwrap();
    assert_eq!(found[0].id.ord, 7);
    let decoded = found[0].document(&arena).unwrap().as_bytes().to_vec();
    (text, decoded)
}

#[test]
fn an_oplog_entry_has_its_own_fields_and_comes_back_as_it_was() {
    let (text, decoded) = carried(&update(), Mode::Canonical);
    assert_eq!(
        text,
        r#"{"ts":{"$timestamp":{"t":1700000000,"i":2}},"t":{"$numberLong":"1"},"v":{"$numberInt":"2"},"op":"u","ns":"shop.orders","ui":{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"04"}},"wall":{"$date":{"$numberLong":"1700000000123"}},"o":{"$v":{"$numberInt":"1"},"$set":{"a.b":{"$numberLong":"5"}},"$unset":{"name":true}},"o2":{"_id":{"$numberInt":"1"}}}"#
    );
    assert_eq!(decoded, update());
    // The relaxed text has lost the width of 5, but it still restores an entry.
    let (text, decoded) = carried(&update(), Mode::Relaxed);
    assert!(!text.contains("rawEntry"), "{text}");
    assert!(Entry::parse(Document::new(&decoded).unwrap()).is_ok());
}

#[test]
fn an_entry_whose_text_is_not_exact_carries_its_bytes() {
    for o in [
        document(|o| {
            o.int32("_id", 1).int32("a", 1).int32("a", 2);
        }),
        document(|o| {
            o.int32("_id", 1)
                .raw("s", kind::STRING, &[2, 0, 0, 0, 0xff, 0]);
        }),
    ] {
        let entry = entry(2, "i", &o, None);
        let (text, decoded) = carried(&entry, Mode::Relaxed);
        assert!(text.contains(r#","rawEntry":""#), "{text}");
        assert_eq!(decoded, entry);
    }
}

#[test]
fn a_damaged_text_of_an_entry_is_an_error() {
    let decode_text = |text: &str, header: Option<&[u8]>| {
        let mut arena = text.as_bytes().to_vec();
        let value = 0..arena.len();
        let format = Format::Oplog(Mode::Relaxed);
        decode(format, value, header, &mut arena, &mut Vec::new())
    };
    let header = Some(&b"rs0/1:1/0"[..]);
    assert!(decode_text("{}", header).is_ok());
    assert_eq!(
        decode_text("{}", None),
        Err(FormatError::NoHeader(ID_HEADER))
    );
    assert!(decode_text("{\"ts\":", header).is_err());
    assert!(decode_text("{\"rawEntry\":\"?\"}", header).is_err());
    assert!(decode_text("{\"rawEntry\":1}", header).is_err());
    assert!(decode_text("{\"rawEntry\":\"AAAA\"}", header).is_err());
}

#[test]
fn an_event_for_readers_has_no_bytes_for_replays() {
    let o = document(|o| {
        o.int32("_id", 1).int32("a", 1).int32("a", 2);
    });
    let bytes = entry(2, "i", &o, None);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    let mut event = Vec::new();
    write_reader_event(&entry, "rs0", 0, Mode::Relaxed, &mut event).unwrap();
    let text = String::from_utf8(event.clone()).unwrap();
    assert!(!text.contains("rawEntry"), "{text}");
    let mut found = Vec::new();
    let value = 0..event.len();
    decode(
        Format::ReaderJson(Mode::Relaxed),
        value,
        None,
        &mut event,
        &mut found,
    )
    .unwrap();
    assert_eq!(found[0].id.ts, Timestamp::new(1_700_000_000, 2));
}

#[test]
fn every_format_is_saved_and_read_back() {
    let form = |mode, with_schema| Format::Debezium(Debezium { mode, with_schema });
    let table = [
        (Format::Raw, r#"{"format":"raw"}"#),
        (Format::Bson, r#"{"format":"bson"}"#),
        (
            Format::Json(Mode::Relaxed),
            r#"{"format":"json","json":"relaxed"}"#,
        ),
        (
            Format::Json(Mode::Canonical),
            r#"{"format":"json","json":"canonical"}"#,
        ),
        (
            Format::ReaderJson(Mode::Relaxed),
            r#"{"format":"reader-json","json":"relaxed"}"#,
        ),
        (
            Format::Oplog(Mode::Canonical),
            r#"{"format":"oplog-json","json":"canonical"}"#,
        ),
        (
            Format::Snapshot(Mode::Relaxed),
            r#"{"format":"snapshot-json","json":"relaxed"}"#,
        ),
        (
            form(Mode::Relaxed, false),
            r#"{"format":"debezium-json","json":"relaxed"}"#,
        ),
        (
            form(Mode::Canonical, true),
            r#"{"format":"debezium-json","json":"canonical","schema":true}"#,
        ),
    ];
    for (format, text) in &table {
        assert_eq!(serde_json::to_string(format).unwrap(), *text);
        assert_eq!(serde_json::from_str::<Format>(text).unwrap(), *format);
    }
    // The names in messages distinguish all formats.
    let names: BTreeSet<String> = table.iter().map(|(format, _)| format.to_string()).collect();
    assert_eq!(names.len(), table.len());
    for unknown in [
        r#"{"format":"avro"}"#,
        r#"{"format":"json","json":"x"}"#,
        r#"{"format":"raw","json":"relaxed"}"#,
    ] {
        assert!(
            serde_json::from_str::<Format>(unknown).is_err(),
            "{unknown}"
        );
    }
}

/// Readers of MongoDB's change events do not know the operation `read`, and would skip the
/// document.
#[test]
fn a_document_of_a_full_sync_is_an_insert_for_readers_and_is_decoded_as_a_read() {
    let bytes = document(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &Timestamp::new(7, 1).to_le_bytes());
        entry.int32("v", 2).str("op", "r").str("ns", "a.b");
        entry.nested("o", kind::DOCUMENT, |o| {
            o.int32("_id", 1);
        });
        entry.nested("snapshot", kind::DOCUMENT, |snapshot| {
            snapshot.date("capturedAt", 5);
        });
    });
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    let mut event = Vec::new();
    write_reader_event(&entry, "rs0", 0, Mode::Relaxed, &mut event).unwrap();
    let text = String::from_utf8(event.clone()).unwrap();
    assert!(text.contains(r#""operationType":"insert""#), "{text}");
    let (value, mut found) = (0..event.len(), Vec::new());
    let format = Format::ReaderJson(Mode::Relaxed);
    decode(format, value, None, &mut event, &mut found).unwrap();
    let decoded = found[0].document(&event).unwrap();
    assert_eq!(decoded.get("op").unwrap().unwrap().str(), Ok("r"));
    assert!(Entry::parse(decoded).unwrap().snapshot.is_some());
}
