use super::avro::SchemaIds;
use super::debezium::{Debezium, write_debezium};
use super::json::{write_change_event, write_reader_event};
use super::latest_state::write_latest_state;
use super::looked_up::{CurrentDocument, DocumentBefore, LookedUp};
use super::origin::Origin;
use super::tests::{document, entry, insert, update};
use super::*;
use crate::document::kind;
use crate::position::Timestamp;

/// Returns a document that a source has now.
fn now() -> Vec<u8> {
    document(|o| {
        o.int32("_id", 1).int64("a", 5);
    })
}

/// Calls `write` with an entry whose document was looked up; an empty `found` is a document that is
/// gone.
fn written(
    bytes: &[u8],
    found: &[u8],
    write: impl FnOnce(&Entry<'_>, &mut Vec<u8>) -> Result<(), EntryError>,
) -> Result<String, EntryError> {
    let current = CurrentDocument {
        document: Document::new(found).ok(),
        at: Some(Timestamp::new(1_700_000_009, 2)),
    };
    let looked_up = LookedUp {
        current: Some(current),
        before: DocumentBefore::NotLookedUp,
    };
    written_with(&looked_up, bytes, write)
}

fn written_with(
    looked_up: &LookedUp<'_>,
    bytes: &[u8],
    write: impl FnOnce(&Entry<'_>, &mut Vec<u8>) -> Result<(), EntryError>,
) -> Result<String, EntryError> {
    let entry = Entry {
        looked_up: Some(looked_up),
        ..Entry::parse(Document::new(bytes).unwrap())?
    };
    let mut out = Vec::new();
    write(&entry, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn event(bytes: &[u8], found: &[u8], mode: Mode) -> String {
    written(bytes, found, |entry, out| {
        write_change_event(entry, "rs0", 0, mode, out)
    })
    .unwrap()
}

/// The text is the wire format: changing it changes the records in topics.
#[test]
fn a_looked_up_document_has_its_frozen_form() {
    assert_eq!(
        event(&update(), &now(), Mode::Relaxed),
        r#"{"_id":{"source":"rs0","ts":"1700000000:2","ord":0},"operationType":"update","clusterTime":{"$timestamp":{"t":1700000000,"i":2}},"wallTime":{"$date":"2023-11-14T22:13:20.123Z"},"ns":{"db":"shop","coll":"orders"},"collectionUUID":{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"04"}},"documentKey":{"_id":1},"fullDocument":{"_id":1,"a":5},"fullDocumentLookup":{"operationTime":{"$timestamp":{"t":1700000009,"i":2}}},"updateDescription":{"updatedFields":{"a.b":5},"removedFields":["name"],"truncatedArrays":[]},"rawUpdateDescription":{"$v":1,"$set":{"a.b":5},"$unset":{"name":true}},"formatVersion":1}"#
    );
    let gone = event(&update(), &[], Mode::Relaxed);
    assert!(gone.contains(r#","fullDocument":null,"#), "{gone}");
    // A document that the entry itself contains is not marked as looked up.
    let inserted = event(&insert(), &[], Mode::Relaxed);
    assert!(
        inserted.contains(r#""fullDocument":{"_id":1"#),
        "{inserted}"
    );
    assert!(!inserted.contains("fullDocumentLookup"), "{inserted}");
}

#[test]
fn a_server_without_operation_time_leaves_the_time_of_the_lookup_out() {
    let bytes = update();
    let looked_up = LookedUp {
        current: Some(CurrentDocument {
            document: None,
            at: None,
        }),
        before: DocumentBefore::NotLookedUp,
    };
    let entry = Entry {
        looked_up: Some(&looked_up),
        ..Entry::parse(Document::new(&bytes).unwrap()).unwrap()
    };
    let mut out = Vec::new();
    write_reader_event(&entry, "rs0", 0, Mode::Relaxed, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.contains(r#""fullDocument":null,"updateDescription""#),
        "{text}"
    );
}

#[test]
fn a_replay_ignores_the_looked_up_documents() {
    let decoded = |text: String| {
        let mut arena = text.into_bytes();
        let (value, mut found) = (0..arena.len(), Vec::new());
        let format = Format::Json(Mode::Canonical);
        decode(format, value, None, &mut arena, &mut found).unwrap();
        found[0].document(&arena).unwrap().as_bytes().to_vec()
    };
    let mut plain = Vec::new();
    let bytes = update();
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    write_change_event(&entry, "rs0", 0, Mode::Canonical, &mut plain).unwrap();
    let plain = decoded(String::from_utf8(plain).unwrap());
    let lossy = document(|o| {
        o.int32("_id", 1).int32("a", 1).int32("a", 2);
        o.raw("s", kind::STRING, &[2, 0, 0, 0, 0xff, 0]);
        o.nested("o", kind::DOCUMENT, |o| {
            o.int32("$oid", 7);
        });
    });
    for found in [now(), Vec::new(), lossy] {
        let before =
            Document::new(&found).map_or(DocumentBefore::Missing, DocumentBefore::Document);
        let looked_up = LookedUp {
            current: None,
            before,
        };
        let before = written_with(&looked_up, &update(), |entry, out| {
            write_change_event(entry, "rs0", 0, Mode::Canonical, out)
        });
        for text in [event(&update(), &found, Mode::Canonical), before.unwrap()] {
            // A loss in what a replay does not read needs no exact copy of the entry.
            assert!(!text.contains("rawEntry"), "{text}");
            assert_eq!(decoded(text), plain);
        }
    }
}

/// Writes an entry in Debezium's envelope.
fn debezium(entry: &Entry<'_>, out: &mut Vec<u8>) -> Result<(), EntryError> {
    let form = Debezium {
        mode: Mode::Relaxed,
        with_schema: false,
    };
    let origin = Origin {
        topic: "cdc.shop.orders",
        source: "rs0",
        processed_at: 0,
        schemas: SchemaIds::default(),
    };
    let id = EntryId {
        ts: entry.ts,
        ord: 0,
    };
    write_debezium(entry, id, form, &origin, out)
}

#[test]
fn the_document_before_a_change_has_its_frozen_form() {
    let key = document(|key| {
        key.int32("_id", 1);
    });
    let (update, delete) = (update(), entry(5, "d", &key, None));
    let written = |before, bytes: &[u8]| {
        let looked_up = LookedUp {
            current: None,
            before,
        };
        let event = written_with(&looked_up, bytes, |entry, out| {
            write_change_event(entry, "rs0", 0, Mode::Relaxed, out)
        });
        (
            event.unwrap(),
            written_with(&looked_up, bytes, debezium).unwrap(),
        )
    };
    let bytes = now();
    let before = DocumentBefore::Document(Document::new(&bytes).unwrap());
    for bytes in [&update, &delete] {
        let (event, envelope) = written(before, bytes);
        let part = r#""documentKey":{"_id":1},"fullDocumentBeforeChange":{"_id":1,"a":5}"#;
        assert!(event.contains(part), "{event}");
        assert!(!event.contains(r#""fullDocument":"#), "{event}");
        let part = r#"{"before":"{\"_id\":1,\"a\":5}","after":null,"#;
        assert!(envelope.starts_with(part), "{envelope}");

        let (event, envelope) = written(DocumentBefore::Missing, bytes);
        let part = r#""documentKey":{"_id":1},"fullDocumentBeforeChange":null"#;
        assert!(event.contains(part), "{event}");
        assert!(envelope.starts_with(r#"{"before":null,"#), "{envelope}");

        let (event, _) = written(DocumentBefore::NotLookedUp, bytes);
        assert!(!event.contains("fullDocumentBeforeChange"), "{event}");
    }
}

#[test]
fn debezium_has_the_looked_up_document_as_after() {
    let change = |bytes: &[u8], found: &[u8]| {
        let text = written(bytes, found, debezium).unwrap();
        text.split_once(r#","source":"#).unwrap().0.to_owned()
    };
    let description = r#""updateDescription":{"removedFields":["name"],"updatedFields":"{\"a.b\":5}","truncatedArrays":null}"#;
    assert_eq!(
        change(&update(), &now()),
        format!(r#"{{"before":null,"after":"{{\"_id\":1,\"a\":5}}",{description}"#)
    );
    assert_eq!(
        change(&update(), &[]),
        format!(r#"{{"before":null,"after":null,{description}"#)
    );
    // A delete has no document after it.
    let key = document(|key| {
        key.int32("_id", 1);
    });
    assert_eq!(
        change(&entry(5, "d", &key, None), &now()),
        r#"{"before":null,"after":null,"updateDescription":null"#
    );
}

#[test]
fn the_latest_state_is_the_bare_document_or_nothing() {
    let state = |bytes: &[u8], found: &[u8]| {
        written(bytes, found, |entry, out| {
            write_latest_state(entry, Mode::Relaxed, out)
        })
        .unwrap()
    };
    let key = document(|key| {
        key.int32("_id", 1);
    });
    assert_eq!(state(&insert(), &[]), r#"{"_id":1,"name":"Ada"}"#);
    assert_eq!(state(&update(), &now()), r#"{"_id":1,"a":5}"#);
    assert_eq!(state(&update(), &[]), "");
    assert_eq!(state(&entry(5, "d", &key, None), &now()), "");
    // A replacement has its own document.
    let replacement = entry(4, "u", &now(), Some(&key));
    assert_eq!(state(&replacement, &[]), r#"{"_id":1,"a":5}"#);
}

/// A tombstone would delete a document that exists.
#[test]
fn an_update_without_a_lookup_has_no_latest_state() {
    let bytes = update();
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    let written = write_latest_state(&entry, Mode::Relaxed, &mut Vec::new());
    assert!(matches!(written, Err(EntryError::MissingField { .. })));
}

#[test]
fn the_latest_state_is_not_decoded() {
    let mut arena = now();
    let value = 0..arena.len();
    let format = Format::Snapshot(Mode::Relaxed);
    let header = Some(&b"rs0/1:1/0"[..]);
    let decoded = decode(format, value, header, &mut arena, &mut Vec::new());
    assert_eq!(decoded, Err(FormatError::ForReaders));
}
