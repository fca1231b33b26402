//! Entries for the pieces.

use bson::{Bson, Document, doc};

use super::ENTRIES;
use oplog_relay_kit::stub::{Oplog, Shape};

/// Returns the stub's entries of a shape.
pub(super) fn stub(shape: Shape) -> Vec<Vec<u8>> {
    let oplog = Oplog::generate(ENTRIES, shape);
    (0..ENTRIES)
        .map(|number| oplog.entry(number).unwrap().to_vec())
        .collect()
}

/// Returns deletes: the last two of ten entries of the mixed shape.
pub(super) fn deletes() -> Vec<Vec<u8>> {
    let oplog = Oplog::generate(ENTRIES * 5, Shape::Mixed);
    (0..ENTRIES * 5)
        .filter(|number| number % 10 >= 8)
        .map(|number| oplog.entry(number).unwrap().to_vec())
        .collect()
}

/// Returns updates as servers up to 4.4 log them: `$set` and `$unset`.
pub(super) fn modifiers() -> Vec<Vec<u8>> {
    updates(|random| {
        doc! {
            "$v": 1,
            "$unset": { "gift": true },
            "$set": { "state": "paid", "address.city": "river", "total": random },
        }
    })
}

/// Returns updates as servers from 5.0 on log them (`$v: 2`): they change fields of a nested
/// document, and truncate and change an array.
pub(super) fn nested_diffs() -> Vec<Vec<u8>> {
    updates(|random| {
        doc! {
            "$v": 2,
            "diff": {
                "u": { "total": random },
                "saddress": { "u": { "city": "river" }, "i": { "zip": "8001" } },
                "stags": { "a": true, "l": 2, "u1": "silver" },
            },
        }
    })
}

/// Returns a document that all these updates change.
pub(super) fn document() -> Vec<u8> {
    let inserts = stub(Shape::Inserts);
    let entry = Document::from_reader(inserts[0].as_slice()).unwrap();
    entry.get_document("o").unwrap().to_vec().unwrap()
}

fn updates(change: impl Fn(f64) -> Document) -> Vec<Vec<u8>> {
    let inserts = stub(Shape::Inserts);
    let update = |insert: &Vec<u8>| {
        let mut entry = Document::from_reader(insert.as_slice()).unwrap();
        let id: Bson = entry.get_document("o").unwrap().get("_id").unwrap().clone();
        let random = entry.get_document("o").unwrap().get_f64("total").unwrap();
        entry.insert("op", "u");
        entry.insert("o", change(random));
        entry.insert("o2", doc! { "_id": id });
        entry.to_vec().unwrap()
    };
    inserts.iter().map(update).collect()
}
