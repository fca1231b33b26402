use super::*;
use crate::record_position::Origin;
use crate::replay::writes::failure::WriteFailure;
use oplog_relay_core::document::kind;
use oplog_relay_core::json::parse_document;
use oplog_relay_core::position::{EntryId, Timestamp};

fn bson(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    parse_document(text.as_bytes(), &mut out).unwrap();
    out
}

fn write<'a>(increment: u32, id: &'a [u8], action: Action<'a>) -> Write<'a> {
    Write {
        id: EntryId {
            ts: Timestamp::new(1, increment),
            ord: 0,
        },
        origin: Origin::NONE,
        document_id: Element {
            name: b"_id",
            kind: kind::INT32,
            value: id,
        },
        action,
        routing: Routing::NONE,
    }
}

/// Calls `outcome` for updates that can all be applied.
fn found_outcome<'a>(
    ns: &str,
    stored: &[u8],
    pending: &mut Pending<'_, 'a>,
) -> Result<Option<Outcome<'a>>, ConsumerError> {
    let refuse = |_: &Write<'_>, failure: WriteFailure| Err(failure.into());
    outcome(ns, stored, pending, &refuse)
}

#[test]
fn an_inapplicable_update_is_refused_and_the_next_one_applied() {
    let (damaged, next) = (
        bson(r#"{"sa":{"a":true,"sx":{}}}"#),
        bson(r#"{"u":{"b":2}}"#),
    );
    let id = [1, 0, 0, 0];
    let writes = [&damaged, &next].map(|diff| Document::new(diff).unwrap());
    let writes = [(1, writes[0]), (2, writes[1])];
    let writes = writes.map(|(number, diff)| write(number, &id, Action::Diff(diff)));
    let mut pending = Pending::default();
    take(&writes, &mut pending).unwrap();
    let refused = std::cell::RefCell::new(Vec::new());
    let refuse = |write: &Write<'_>, _| {
        refused.borrow_mut().push(write.id);
        Ok(())
    };
    let stored = bson(r#"{"_id":1,"b":1}"#);
    let found = outcome("db.c", &stored, &mut pending, &refuse).unwrap();
    assert_eq!(found.unwrap().document, bson(r#"{"_id":1,"b":2}"#));
    assert_eq!(refused.into_inner(), [writes[0].id]);
}

#[test]
fn a_documents_writes_become_one_replacement_in_their_order() {
    let insert_z = bson(r#"{"i":{"z":1}}"#);
    let modify = bson(r#"{"$v":1,"$set":{"a.b":1,"c":1}}"#);
    let again = bson(r#"{"i":{"a":2}}"#);
    let writes = [
        write(
            1,
            &[1, 0, 0, 0],
            Action::Diff(Document::new(&insert_z).unwrap()),
        ),
        write(
            2,
            &[2, 0, 0, 0],
            Action::Diff(Document::new(&insert_z).unwrap()),
        ),
        write(
            3,
            &[1, 0, 0, 0],
            Action::Modify(Document::new(&modify).unwrap()),
        ),
        write(
            4,
            &[1, 0, 0, 0],
            Action::Diff(Document::new(&again).unwrap()),
        ),
    ];
    let mut pending = Pending::default();
    assert_eq!(take(&writes, &mut pending).unwrap(), 4);
    // The same `_id` with another numeric type.
    let stored = bson(r#"{"_id":1.0,"a":0,"k":1}"#);
    let found = found_outcome("db.c", &stored, &mut pending)
        .unwrap()
        .unwrap();
    assert_eq!(
        found.document,
        bson(r#"{"_id":1.0,"k":1,"z":1,"c":1,"a":2}"#)
    );
    assert_eq!(found.last.id, writes[3].id);
    assert_eq!(pending.len(), 1);
    // A document that is not pending.
    assert!(
        found_outcome("db.c", &bson(r#"{"_id":9}"#), &mut pending)
            .unwrap()
            .is_none()
    );
    // A document that has the result already.
    let there = bson(r#"{"_id":2,"z":1}"#);
    assert!(
        found_outcome("db.c", &there, &mut pending)
            .unwrap()
            .is_none()
    );
    assert!(pending.is_empty());
}

#[test]
fn a_part_ends_at_the_maximum_number_of_documents() {
    let diff = bson(r#"{"i":{"z":1}}"#);
    let ids: Vec<[u8; 4]> = (0..1_100_i32).map(i32::to_le_bytes).collect();
    let action = Action::Diff(Document::new(&diff).unwrap());
    let mut writes: Vec<Write<'_>> = ids.iter().map(|id| write(1, id, action)).collect();
    writes.insert(1_000, writes[0]);
    let mut pending = Pending::default();
    assert_eq!(take(&writes, &mut pending).unwrap(), 1_001);
    assert_eq!(pending.len(), AT_ONCE);
}

#[test]
fn timestamp_zero_top_level_preserved() {
    let diff = bson(r#"{"i":{"z":1}}"#);
    let writes = [write(
        1,
        &[1, 0, 0, 0],
        Action::Diff(Document::new(&diff).unwrap()),
    )];
    let zero = r#"{"$timestamp":{"t":0,"i":0}}"#;
    let fields = format!(r#""t":{zero},"in":{{"t":{zero}}}"#);
    let hidden = format!(r#"{fields},"a.b":{zero}"#);
    // A literal keeps all zero timestamps, including those that a `$set` cannot reach.
    for (fields, sets_zeros) in [(fields, true), (hidden, false)] {
        let mut pending = Pending::default();
        take(&writes, &mut pending).unwrap();
        let stored = bson(&format!(r#"{{"_id":1,{fields}}}"#));
        let found = found_outcome("db.c", &stored, &mut pending)
            .unwrap()
            .unwrap();
        let document = Document::new(&found.document).unwrap();
        for accepts_literals in [true, false] {
            let rewritten = Action::Rewritten(document);
            let restoring = restoring_zeros(rewritten, accepts_literals).unwrap();
            let is_set = sets_zeros && !accepts_literals;
            let expected = is_set.then_some(Action::Zeros(document));
            assert_eq!(restoring, expected, "{fields}");
        }
        // An insert has no literal form.
        let after_insert = restoring_zeros(Action::Insert(document), true).unwrap();
        assert!(after_insert.is_some(), "{fields}");
    }
    let after = bson(&format!(r#"{{"_id":1,"t":{zero}}}"#));
    let write = write(
        1,
        &[1, 0, 0, 0],
        Action::Zeros(Document::new(&after).unwrap()),
    );
    let stored = bson(r#"{"_id":1,"t":1,"z":1}"#);
    let set = rewritten(Document::new(&stored).unwrap(), [&write]).unwrap();
    assert_eq!(set, bson(&format!(r#"{{"_id":1,"t":{zero},"z":1}}"#)));
}

#[test]
fn a_missing_document_is_created_from_its_updates() {
    let diff = bson(r#"{"u":{"a":1},"i":{"b":2}}"#);
    let write = write(
        1,
        &[1, 0, 0, 0],
        Action::Diff(Document::new(&diff).unwrap()),
    );
    let refuse = |_: &Write<'_>, failure: WriteFailure| Err(failure.into());
    let made = from_updates("db.c", write.document_id, &mut vec![&write], &refuse).unwrap();
    assert_eq!(made, bson(r#"{"_id":1,"a":1,"b":2}"#));
}
