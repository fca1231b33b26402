use std::sync::Arc;

use bson::{Binary, Bson, Document as Doc, Timestamp as BsonTimestamp, doc};

use super::*;
use crate::prepare::lookup::BeforeLookup;
use crate::prepare::lookup::fake::{Asked, Documents, counts};

const EVENTS: Format = Format::ReaderJson(Mode::Relaxed);

fn uuid() -> Bson {
    uuid_of(7)
}

fn uuid_of(collection: u8) -> Bson {
    let binary = Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: vec![collection; 16],
    };
    binary.into()
}

fn ts(seconds: u32) -> BsonTimestamp {
    BsonTimestamp {
        time: seconds,
        increment: 1,
    }
}

/// Returns the document that a source stores in `config.system.preimages` for a change.
fn pre_image(seconds: u32, index: i64, n: i32) -> Doc {
    let id = doc! { "nsUUID": uuid(), "ts": ts(seconds), "applyOpsIndex": index };
    let at = bson::DateTime::from_millis(0);
    doc! { "_id": id, "operationTime": at, "preImage": { "_id": 1, "n": n } }
}

fn looking_up(pre_images: Vec<Doc>, room: Option<usize>) -> (Encoder, Asked) {
    let source = Documents {
        pre_images,
        room,
        ..Documents::default()
    };
    let asked = Arc::clone(&source.asked);
    let before = BeforeLookup::new(source.into());
    (
        encoder(EVENTS).looking_up_before(Some(Box::new(before))),
        asked,
    )
}

fn update(id: i32) -> Doc {
    let o = doc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    doc! { "op": "u", "ns": "s.a", "ui": uuid(), "o": o, "o2": { "_id": id } }
}

fn delete(id: i32) -> Doc {
    doc! { "op": "d", "ns": "s.a", "ui": uuid(), "o": { "_id": id } }
}

fn insert(id: i32) -> Doc {
    doc! { "op": "i", "ns": "s.a", "ui": uuid(), "o": { "_id": id } }
}

fn at(seconds: u32, fields: Doc) -> Vec<u8> {
    let mut entry = doc! { "ts": ts(seconds), "t": 3_i64, "v": 2 };
    entry.extend(fields);
    entry.to_vec().unwrap()
}

/// Returns the operation type and `fullDocumentBeforeChange.n` of each event: -1 for null, and `None`
/// without the field.
fn before(chunk: &Chunk) -> Vec<(String, Option<i64>)> {
    let data = chunk.records.iter().filter(|record| record.topic.0 > 0);
    let events = data.map(|record| {
        let event: serde_json::Value = serde_json::from_str(&text(chunk, &record.value)).unwrap();
        let operation = event["operationType"].as_str().unwrap().to_owned();
        let before = event.get("fullDocumentBeforeChange");
        (operation, before.map(|it| it["n"].as_i64().unwrap_or(-1)))
    });
    events.collect()
}

#[test]
fn updates_and_deletes_have_the_document_that_the_source_has_kept() {
    let kept = [(2, 20), (3, 30), (5, 50)];
    let kept = kept.map(|(seconds, n)| pre_image(seconds, 0, n)).to_vec();
    let (mut encoder, asked) = looking_up(kept, None);
    let entries = [
        at(1, insert(1)),
        at(2, update(1)),
        at(3, delete(1)),
        at(4, update(2)),
        at(5, update(3)),
    ];
    let chunk = encode(&mut encoder, &entries).unwrap();
    let expected = [
        ("insert", None),
        ("update", Some(20)),
        ("delete", Some(30)),
        // Its document has expired.
        ("update", Some(-1)),
        ("update", Some(50)),
    ];
    let expected = expected.map(|(operation, n)| (operation.to_owned(), n));
    assert_eq!(before(&chunk), expected);
    // One request asks for all four documents. Its time is that of the last entry.
    assert_eq!(*asked.lock().unwrap(), [(Timestamp::new(5, 1), 4)]);
}

/// A change is identified by the entry that contains it and its index there, not by the commit.
#[test]
fn operations_of_a_transaction_are_found_by_their_place_in_the_oplog() {
    let kept = vec![
        pre_image(1, 1, 11),
        pre_image(1, 2, 12),
        pre_image(5, 0, 50),
        pre_image(5, 2, 52),
    ];
    let (mut encoder, _) = looking_up(kept, None);
    let session = doc! { "op": "c", "ns": "admin.$cmd", "lsid": { "id": 1 }, "txnNumber": 1_i64 };
    let none = BsonTimestamp {
        time: 0,
        increment: 0,
    };
    let mut begin = session.clone();
    let first = vec![insert(1), update(1), delete(1)];
    begin.insert("o", doc! { "applyOps": first, "partialTxn": true });
    begin.insert("prevOpTime", doc! { "ts": none, "t": -1_i64 });
    let mut end = session;
    let rest = vec![update(2), insert(3), update(3)];
    end.insert("o", doc! { "applyOps": rest, "count": 6_i64 });
    end.insert("prevOpTime", doc! { "ts": ts(1), "t": 3_i64 });
    let chunk = encode(&mut encoder, &[at(1, begin), at(5, end), at(6, update(9))]).unwrap();
    let found: Vec<Option<i64>> = before(&chunk).into_iter().map(|(_, n)| n).collect();
    let expected = [None, Some(11), Some(12), Some(50), None, Some(52), Some(-1)];
    assert_eq!(found, expected);
}

#[test]
fn documents_that_a_reply_has_no_room_for_are_asked_for_again() {
    let kept = (1..=5).map(|n| pre_image(n, 0, n.cast_signed())).collect();
    let (mut encoder, asked) = looking_up(kept, Some(2));
    let entries: Vec<Vec<u8>> = (1..=5).map(|seconds| at(seconds, update(1))).collect();
    let chunk = encode(&mut encoder, &entries).unwrap();
    let found: Vec<Option<i64>> = before(&chunk).into_iter().map(|(_, n)| n).collect();
    assert_eq!(found, [1, 2, 3, 4, 5].map(Some));
    assert_eq!(counts(&asked), [5, 3, 1]);
}

/// A request for several collections could read the documents of many others.
#[test]
fn each_request_is_for_one_collection_and_keeps_the_documents_of_the_others() {
    let of = |collection: u8, mut fields: Doc| {
        fields.insert("ui", uuid_of(collection));
        fields
    };
    let (mut encoder, asked) = looking_up(vec![pre_image(1, 0, 10)], None);
    let entries: Vec<Vec<u8>> = (1..=6)
        .map(|seconds| at(seconds, of(7 + u8::from(seconds % 2 == 0), update(1))))
        .collect();
    let chunk = encode(&mut encoder, &entries).unwrap();
    let found: Vec<Option<i64>> = before(&chunk).into_iter().map(|(_, n)| n).collect();
    assert_eq!(found, [10, -1, -1, -1, -1, -1].map(Some));
    assert_eq!(counts(&asked), [3, 3]);
    assert_eq!(
        (chunk.counts.found_before, chunk.counts.missing_before),
        (1, 5)
    );
}

/// The reply has no room for the last document, and the source does not have the second one.
#[test]
fn a_document_before_the_last_one_of_a_cut_reply_is_known_to_be_missing() {
    let kept = [1, 3, 4].map(|seconds| pre_image(seconds, 0, seconds.cast_signed()));
    let (mut encoder, asked) = looking_up(kept.to_vec(), Some(2));
    let entries: Vec<Vec<u8>> = (1..=4).map(|seconds| at(seconds, update(1))).collect();
    let chunk = encode(&mut encoder, &entries).unwrap();
    let found: Vec<Option<i64>> = before(&chunk).into_iter().map(|(_, n)| n).collect();
    assert_eq!(found, [1, -1, 3, 4].map(Some));
    assert_eq!(counts(&asked), [4, 1]);
}
