use std::sync::Arc;

use bson::{Document as Doc, Timestamp as BsonTimestamp, doc};
use oplog_relay_core::format::LOOKUP_HEADER;
use oplog_relay_core::format::debezium::Debezium;

use super::*;
use crate::prepare::lookup::fake::{Asked, Documents, counts};

const LATEST: Format = Format::Snapshot(Mode::Relaxed);
const EVENTS: Format = Format::ReaderJson(Mode::Relaxed);

/// Returns the encoder of a format, and what it asks its source for.
fn looking_up(format: Format, source: Documents) -> (Encoder, Asked) {
    let asked = Arc::clone(&source.asked);
    let lookup = CurrentLookup::new(source.into());
    (encoder(format).looking_up_current(Some(lookup)), asked)
}

/// Returns the fields of an operation that updates a document.
fn operation(ns: &str, id: i32) -> Doc {
    let o = doc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    doc! { "op": "u", "ns": ns, "o": o, "o2": { "_id": id } }
}

fn at(seconds: u32, fields: Doc) -> Vec<u8> {
    let ts = BsonTimestamp {
        time: seconds,
        increment: 1,
    };
    let mut entry = doc! { "ts": ts, "t": 3_i64, "v": 2 };
    entry.extend(fields);
    entry.to_vec().unwrap()
}

fn update(seconds: u32, ns: &str, id: i32) -> Vec<u8> {
    at(seconds, operation(ns, id))
}

/// Returns the transaction of these operations.
fn transaction(seconds: u32, operations: Vec<Doc>) -> Vec<u8> {
    let none = BsonTimestamp {
        time: 0,
        increment: 0,
    };
    let more = doc! {
        "op": "c", "ns": "admin.$cmd", "o": { "applyOps": operations },
        "lsid": { "id": 1 }, "txnNumber": 1_i64, "prevOpTime": { "ts": none, "t": -1_i64 },
    };
    at(seconds, more)
}

/// Returns key and value of the records of data topics.
fn records(chunk: &Chunk) -> Vec<(String, String)> {
    let is_data = |record: &&EncodedRecord| record.topic.0 > 0;
    let data = chunk.records.iter().filter(is_data);
    let parts = |record: &EncodedRecord| {
        let key = text(chunk, record.key.as_ref().unwrap());
        (key, text(chunk, &record.value))
    };
    data.map(parts).collect()
}

fn record(id: i32, value: &str) -> (String, String) {
    (format!("{{\"_id\":{id}}}"), value.to_owned())
}

#[test]
fn the_latest_states_are_documents_and_tombstones_in_order() {
    let (mut encoder, _) = looking_up(LATEST, Documents::of(0..5));
    let replacement =
        doc! { "op": "u", "ns": "s.a", "o": { "_id": 2, "m": 1 }, "o2": { "_id": 2 } };
    let entries = [
        entry(1, "i", "s.a", 7),
        update(2, "s.a", 1),
        command(3, "create"),
        entry(4, "n", "", 0),
        at(5, replacement),
        entry(6, "d", "s.a", 1),
        update(7, "s.a", 9),
        update(8, "s.system.js", 1),
        update(9, "s.tmp.agg_out.1", 1),
    ];
    let chunk = encode(&mut encoder, &entries).unwrap();
    assert!(chunk.barrier.is_none());
    let expected = [
        record(7, r#"{"_id":7}"#),
        record(1, r#"{"_id":1,"n":1}"#),
        record(2, r#"{"_id":2,"m":1}"#),
        record(1, ""),
        record(9, ""),
    ];
    assert_eq!(records(&chunk), expected);
    assert_eq!((chunk.counts.looked_up, chunk.counts.gone), (1, 1));
    assert_eq!(chunk.reached.position.unwrap().ts, Timestamp::new(9, 1));
    let data: Vec<_> = chunk.records.iter().filter(|it| it.topic.0 > 0).collect();
    let ids: Vec<_> = data
        .iter()
        .map(|record| text(&chunk, &record.header.as_ref().unwrap().value))
        .collect();
    assert_eq!(
        ids,
        [
            "rs0/1:1/0",
            "rs0/2:1/0",
            "rs0/5:1/0",
            "rs0/6:1/0",
            "rs0/7:1/0"
        ]
    );
    let lookups: Vec<_> = data
        .iter()
        .map(|record| {
            let headers = &chunk.router_headers[record.router_headers.clone()];
            headers
                .iter()
                .map(|it| (it.name, text(&chunk, &it.value)))
                .collect::<Vec<_>>()
        })
        .collect();
    // The source had reached the last entry of the batch.
    let of_lookup = [(LOOKUP_HEADER, "9:7".to_owned())];
    assert_eq!(lookups, [&[][..], &of_lookup, &[], &[], &of_lookup]);
}

#[test]
fn the_documents_of_many_updates_are_asked_for_at_once() {
    let (mut encoder, asked) = looking_up(EVENTS, Documents::of(0..3000));
    let mut entries = Vec::new();
    for seconds in 1..=2500_u32 {
        let id = seconds.cast_signed();
        entries.push(update(seconds, "s.a", id));
        // Another update of the same document, 2500 entries later.
        entries.push(at(seconds + 10_000, operation("s.a", id)));
    }
    entries.sort_by_key(|entry| {
        let entry = Entry::parse(Document::new(entry).unwrap()).unwrap();
        entry.ts
    });
    let mut found = Vec::new();
    let mut chunk = Chunk::default();
    let batch = Batch::Bytes(entries.concat());
    let mut take = |chunk: &mut Chunk| {
        found.extend(records(chunk));
        chunk.clear();
        Ok(())
    };
    encoder.encode(&batch, &mut chunk, &mut take).unwrap();
    take(&mut chunk).unwrap();
    assert_eq!(found.len(), 5000);
    for (key, value) in &found {
        let id = key.trim_start_matches("{\"_id\":").trim_end_matches('}');
        let document = format!(r#","fullDocument":{{"_id":{id},"n":{id}}},"#);
        assert!(value.contains(&document), "{value}");
    }
    assert_eq!(counts(&asked), [1000; 5]);
}

/// Otherwise the document of an update could be older than the update.
#[test]
fn the_updates_of_another_batch_are_looked_up_again() {
    let (mut encoder, asked) = looking_up(EVENTS, Documents::of(0..5));
    for seconds in [1, 2] {
        encode(&mut encoder, &[update(seconds, "s.a", 1)]).unwrap();
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [1, 2].map(|seconds| (Timestamp::new(seconds, 1), 1)));
}

#[test]
fn operations_of_transactions_are_looked_up_with_the_entries_around_them() {
    let (mut encoder, asked) = looking_up(LATEST, Documents::of(0..10));
    let insert = doc! { "op": "i", "ns": "s.a", "o": { "_id": 8 } };
    let entries = [
        transaction(1, vec![insert, operation("s.a", 1), operation("s.a", 2)]),
        transaction(2, vec![operation("s.a", 3), operation("config.x", 1)]),
        update(3, "s.a", 4),
    ];
    let chunk = encode(&mut encoder, &entries).unwrap();
    let of = |id: i32| record(id, &format!(r#"{{"_id":{id},"n":{id}}}"#));
    let expected = [record(8, r#"{"_id":8}"#), of(1), of(2), of(3), of(4)];
    assert_eq!(records(&chunk), expected);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [(Timestamp::new(3, 1), 4)]);
}

/// The first operations are in an earlier entry than the commit that is being encoded.
#[test]
fn operations_of_a_long_transaction_are_looked_up_at_its_commit() {
    let (mut encoder, asked) = looking_up(LATEST, Documents::of(0..3000));
    let mut operations = (0..2500).map(|id| operation("s.a", id));
    let first = operations.by_ref().take(1500).collect::<Vec<_>>();
    let session = doc! { "lsid": { "id": 1 }, "txnNumber": 1_i64 };
    let previous = |seconds: u32, t: i64| {
        let ts = BsonTimestamp {
            time: seconds,
            increment: seconds.min(1),
        };
        doc! { "prevOpTime": { "ts": ts, "t": t } }
    };
    let mut part = doc! { "op": "c", "ns": "admin.$cmd" };
    part.extend(session.clone());
    let mut begin = part.clone();
    begin.insert("o", doc! { "applyOps": first, "partialTxn": true });
    begin.extend(previous(0, -1));
    let rest = operations.collect::<Vec<_>>();
    let mut end = part;
    end.insert("o", doc! { "applyOps": rest, "count": 2500_i64 });
    end.extend(previous(1, 3));
    let chunk = encode(&mut encoder, &[at(1, begin), at(5, end)]).unwrap();
    let found = records(&chunk);
    assert_eq!(found.len(), 2500);
    assert!(found.iter().all(|(_, value)| value.contains("\"n\":")));
    let asked = asked.lock().unwrap().clone();
    assert!(
        asked
            .iter()
            .all(|(after, _)| *after == Timestamp::new(5, 1)),
        "{asked:?}"
    );
    assert!(asked.len() <= 5, "{asked:?}");
}

#[test]
fn excluded_collections_are_not_read() {
    let source = Documents::of(0..5);
    let asked = Arc::clone(&source.asked);
    let filter = NamespaceFilter::new(["s.a"], []).unwrap();
    let router = Router::new("cdc", filter, State::default()).as_saved();
    let topics = Topics::Nowhere {
        state_topic: "__cdc.state.rs0".to_owned(),
        partitions: 4,
    };
    let kept = Parts::Spooled(SpooledParts::default());
    let transactions = Transactions::new(kept, History::default(), true, Shutdown::manual());
    let lookup = CurrentLookup::new(source.into());
    let mut encoder = Encoder::new("rs0", LATEST, router, topics, None, None, transactions)
        .looking_up_current(Some(lookup));
    let entries = [
        update(1, "s.b", 1),
        update(2, "s.a", 1),
        update(3, "s.b", 2),
    ];
    assert_eq!(records(&encode(&mut encoder, &entries).unwrap()).len(), 1);
    assert_eq!(*asked.lock().unwrap(), [(Timestamp::new(3, 1), 1)]);
}

#[test]
fn debezium_has_the_time_of_the_lookup_in_a_header_beside_those_for_routers() {
    let format = Format::Debezium(Debezium {
        mode: Mode::Relaxed,
        with_schema: false,
    });
    let (encoder, _) = looking_up(format, Documents::of(0..5));
    let mut encoder = encoder.with_router_headers(RouterHeaders::Full);
    let chunk = encode(
        &mut encoder,
        &[update(1, "s.a", 1), entry(2, "d", "s.a", 1)],
    )
    .unwrap();
    let names = |record: &EncodedRecord| -> Vec<&str> {
        let headers = &chunk.router_headers[record.router_headers.clone()];
        headers.iter().map(|header| header.name).collect()
    };
    let data: Vec<_> = chunk.records.iter().filter(|it| it.topic.0 > 0).collect();
    assert_eq!(
        names(data[0]),
        ["op", "ns", "ts", "content-type", LOOKUP_HEADER]
    );
    assert_eq!(names(data[1]), ["op", "ns", "ts", "content-type"]);
    assert!(text(&chunk, &data[0].value).contains(r#""after":"{\"_id\":1,\"n\":1}""#));
}

#[test]
fn documents_of_collections_that_only_replays_need_are_not_looked_up() {
    let (mut encoder, asked) = looking_up(Format::Json(Mode::Relaxed), Documents::of(0..5));
    let entries = [update(1, "s.system.js", 1), update(2, "s.a", 1)];
    let found = records(&encode(&mut encoder, &entries).unwrap());
    assert!(!found[0].1.contains("fullDocument"), "{found:?}");
    assert!(found[1].1.contains("fullDocument"), "{found:?}");
    assert_eq!(*asked.lock().unwrap(), [(Timestamp::new(2, 1), 1)]);
}
