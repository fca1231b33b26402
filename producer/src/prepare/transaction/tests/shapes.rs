//! One test for every shape of a single entry.

use super::*;

#[test]
fn txn_40_single_without_prev_op_time() {
    let mut operations = inserts(1..3);
    operations[1].insert("fromMigrate", true);
    operations[1].insert("b", true);
    operations[1].insert("stmtId", 7);
    let outcome = run(&[command(
        5,
        doc! { "applyOps": operations },
        &[session(1, 8)],
    )]);
    assert_eq!(outcome.ids(), ["5/0", "5/1"]);
    let expected = doc! {
        "ts": ts(5), "t": TERM, "v": 2, "op": "i", "ns": "shop.a", "ui": uuid(9), "o": { "_id": 2 },
        "b": true, "fromMigrate": true, "wall": bson::DateTime::from_millis(5005), "lsid": { "id": uuid(1) },
        "txnNumber": 8_i64, "txn": { "index": 1, "count": 2 },
    };
    assert_eq!(
        outcome.records[1].entry.to_vec().unwrap(),
        expected.to_vec().unwrap()
    );
    assert_eq!(outcome.records[0].topic, "cdc.shop.a");
    let counts = outcome.counts;
    assert_eq!((counts.committed, counts.operations), (1, 2));
    let (end, _, _) = outcome.ends[0];
    assert_eq!((end.ts.seconds, end.term, end.ord), (5, TERM, 0));
}

#[test]
fn txn_42_single_with_a_null_prev_op_time() {
    let more = [session(1, 8), after(0)];
    let outcome = run(&[command(5, doc! { "applyOps": inserts(1..4) }, &more)]);
    assert_eq!(outcome.documents(), [1, 2, 3]);
}

#[test]
fn txn_with_create_and_create_indexes() {
    let inner = |o: Doc| doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(9), "o": o };
    let operations = [
        inner(doc! { "create": "a" }),
        inner(doc! { "createIndexes": "a", "v": 2, "key": { "x": 1 }, "name": "x_1" }),
        insert(1),
    ];
    let outcome = run(&[command(
        5,
        doc! { "applyOps": operations },
        &[session(1, 8)],
    )]);
    let commands: Vec<_> = outcome
        .records
        .iter()
        .filter_map(|record| record.entry.get_document("o").unwrap().keys().next())
        .collect();
    assert_eq!(commands, ["create", "createIndexes", "_id"]);
    assert_eq!(outcome.ids(), ["5/0", "5/1", "5/2"]);
    assert_eq!(
        outcome.records[0].entry.get_str("ns").ok(),
        Some("shop.$cmd")
    );
}

#[test]
fn vectored_insert_multi_op_type_1() {
    let more = |number, previous| {
        [
            session(1, number),
            after(previous),
            doc! { "multiOpType": 1 },
        ]
    };
    let outcome = run(&[
        command(5, doc! { "applyOps": inserts(1..3) }, &more(8, 0)),
        command(6, doc! { "applyOps": inserts(3..5) }, &more(8, 5)),
    ]);
    assert_eq!(outcome.ids(), ["5/0", "5/1", "6/0", "6/1"]);
    assert_eq!(outcome.documents(), [1, 2, 3, 4]);
    let entry = &outcome.records[3].entry;
    assert!(entry.contains_key("lsid") && !entry.contains_key("txn"));
    assert_eq!(
        (outcome.counts.committed, outcome.counts.operations),
        (0, 4)
    );
}

#[test]
fn vectored_insert_without_session_and_batched_delete_apply_ops_no_lsid() {
    let deletes = [1, 2].map(|id| doc! { "op": "d", "ns": "shop.a", "o": { "_id": id } });
    let outcome = run(&[
        command(5, doc! { "applyOps": inserts(1..3) }, &[]),
        command(6, doc! { "applyOps": deletes.to_vec() }, &[]),
    ]);
    assert_eq!(outcome.ids(), ["5/0", "5/1", "6/0", "6/1"]);
    for record in &outcome.records {
        assert!(!record.entry.contains_key("lsid") && !record.entry.contains_key("txn"));
    }
}

#[test]
fn user_apply_ops_with_lsid_inside_o() {
    let mut o = doc! { "applyOps": inserts(1..2), "$db": "admin" };
    o.extend(session(1, 8));
    let outcome = run(&[command(5, o, &[])]);
    let entry = &outcome.records[0].entry;
    assert!(!entry.contains_key("lsid") && !entry.contains_key("txn"));
    assert_eq!(outcome.counts.committed, 0);
}

#[test]
fn nested_apply_ops_and_apply_ops_with_noop_inside() {
    let noop = doc! { "op": "n", "ns": "", "o": { "msg": "x" } };
    let nested = doc! { "op": "c", "ns": "shop.$cmd", "o": { "applyOps": [insert(2), insert(3)] } };
    let deeper = doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [nested] } };
    let o = doc! { "applyOps": [insert(1), noop, deeper, insert(4)] };
    let outcome = run(&[command(5, o, &[])]);
    assert_eq!(outcome.documents(), [1, 2, 3, 4]);
    assert_eq!(outcome.ids(), ["5/0", "5/2", "5/3", "5/4"]);
}

#[test]
fn txn_filtered_namespaces_inside() {
    let mut other = insert(2);
    other.insert("ns", "shop.secret");
    other.insert("ui", uuid(8));
    let entries = [command(
        5,
        doc! { "applyOps": [insert(1), other, insert(3)] },
        &[session(1, 8)],
    )];
    let start = Start {
        filter: NamespaceFilter::new([], ["shop.secret"]).unwrap(),
        ..Start::default()
    };
    let outcome = run_from(start, &entries).unwrap();
    assert_eq!(outcome.ids(), ["5/0", "5/2"]);
    assert_eq!(outcome.records[1].place(), Some((2, 3)));
}

#[test]
fn operations_are_encoded_in_every_format() {
    let entries = [command(
        5,
        doc! { "applyOps": inserts(1..40) },
        &[session(1, 8)],
    )];
    let expected = run(&entries);
    for format in [
        Format::Raw,
        Format::Json(oplog_relay_core::json::Mode::Canonical),
    ] {
        let mut encoder = encoder(Start {
            format,
            ..Start::default()
        });
        let mut chunk = Chunk::default();
        let batch = Batch::Bytes(entries.concat());
        encoder.encode(&batch, &mut chunk, &mut |_| Ok(())).unwrap();
        let (mut arena, mut found) = (chunk.arena.clone(), Vec::new());
        for record in chunk.records.iter().filter(|record| record.topic.0 == 1) {
            let value = record.value.clone();
            if format == Format::Raw {
                // The byte holds the flags of the frame's first document.
                assert_eq!(arena[value.start + 32 + 8], 1);
            }
            oplog_relay_core::format::decode(format, value, None, &mut arena, &mut found).unwrap();
        }
        found.sort_by_key(|decoded| decoded.id);
        assert_eq!(found.len(), expected.records.len());
        for (decoded, record) in found.iter().zip(&expected.records) {
            let document = decoded.document(&arena).unwrap();
            let mut entry = Doc::from_reader(document.as_bytes()).unwrap();
            let mut wanted = record.entry.clone();
            assert_eq!(format!("5/{}", decoded.id.ord), record.id);
            for field in ["o", "txn", "lsid", "txnNumber", "ns", "ui"] {
                assert_eq!(entry.remove(field), wanted.remove(field), "{field}");
            }
        }
    }
}

#[test]
fn damage_inside_is_reported_with_the_time_of_the_commit() {
    let session = [session(1, 8)];
    for (o, reason) in [
        (doc! { "applyOps": 1 }, "field \"applyOps\""),
        (doc! { "applyOps": [1] }, "field \"0\""),
        (
            doc! { "applyOps": inserts(1..3), "count": 3 },
            "the server reports 3 operations, but 2 were found",
        ),
        (doc! { "commitTransaction": 1 }, "names no prepared entry"),
    ] {
        let text = refusal(&[command(5, o, &session)]);
        assert!(text.contains("5:1") && text.contains(reason), "{text}");
    }
}
