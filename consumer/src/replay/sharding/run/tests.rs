use super::*;
use crate::record_position::Origin;
use crate::replay::plan::Routing;
use mongodb::bson::{Document as Bson, doc};
use oplog_relay_core::document::{Element, kind};
use oplog_relay_core::position::{EntryId, Timestamp};

const ID: [u8; 4] = 1_i32.to_le_bytes();

fn write(increment: u32, action: Action<'_>) -> Write<'_> {
    Write {
        id: EntryId {
            ts: Timestamp::new(1, increment),
            ord: 0,
        },
        origin: Origin::NONE,
        document_id: Element {
            name: b"_id",
            kind: kind::INT32,
            value: &ID,
        },
        action,
        routing: Routing::NONE,
    }
}

fn bytes(document: &Bson) -> Vec<u8> {
    document.to_vec().unwrap()
}

fn values(k: i32) -> Values {
    bytes(&doc! { "k": k }).into()
}

/// Pushes writes to the document `_id: 1`, and returns what happened to the last one.
fn push<'w, 'a>(run: &mut Run<'w, 'a>, places: &mut Places, writes: &[&'w Write<'a>]) -> Pushed {
    let key = ShardKey::new(&doc! { "k": 1 }, false).unwrap();
    let rules = Rules {
        key: &key,
        rewrites: false,
        creates_unmatched: false,
    };
    let mut pushed = Pushed::Added;
    for write in writes {
        pushed = run.push(write, b"1", places, rules).unwrap();
    }
    pushed
}

#[test]
fn a_document_that_stays_is_routed_and_one_that_moves_is_changed() {
    let (one, two) = (
        bytes(&doc! { "_id": 1, "k": 1 }),
        bytes(&doc! { "_id": 1, "k": 2 }),
    );
    let stays = write(1, Action::Replace(Document::new(&one).unwrap()));
    let moves = write(2, Action::Insert(Document::new(&two).unwrap()));
    let mut places = Places::from_iter([(b"1".to_vec(), Place::At(values(1)))]);
    let mut run = Run::default();
    push(&mut run, &mut places, &[&stays, &moves]);
    assert_eq!(run.routed.len(), 1);
    assert_eq!(run.routed[0].values, values(1));
    assert_eq!(run.changes.len(), 1);
    assert_eq!(run.changes[0].stored, [values(1)]);
}

#[test]
fn a_missing_document_is_inserted_and_a_stored_one_is_not() {
    let one = bytes(&doc! { "_id": 1, "k": 1 });
    let insert = write(1, Action::Insert(Document::new(&one).unwrap()));
    let mut places = Places::default();
    let mut run = Run::default();
    push(&mut run, &mut places, &[&insert, &insert]);
    let kinds: Vec<BulkKind> = run.routed.iter().map(|routed| routed.kind).collect();
    assert_eq!(kinds, [BulkKind::Insert, BulkKind::Update]);
}

#[test]
fn later_updates_of_a_changing_document_join_it_and_its_delete_waits() {
    let set = bytes(&doc! { "$set": { "k": 2 } });
    let other = bytes(&doc! { "$set": { "x": 2 } });
    let moves = write(1, Action::Modify(Document::new(&set).unwrap()));
    let update = write(2, Action::Modify(Document::new(&other).unwrap()));
    let delete = write(3, Action::Delete);
    let mut places = Places::from_iter([(b"1".to_vec(), Place::At(values(1)))]);
    let mut run = Run::default();
    push(&mut run, &mut places, &[&moves, &update]);
    assert_eq!((run.routed.len(), run.changes[0].writes.len()), (0, 2));
    assert_eq!(push(&mut run, &mut places, &[&delete]), Pushed::SendFirst);
}

#[test]
fn all_stored_forms_of_a_document_are_deleted_and_none_is_updated() {
    let set = bytes(&doc! { "$set": { "x": 2 } });
    let update = write(1, Action::Modify(Document::new(&set).unwrap()));
    let delete = write(2, Action::Delete);
    let both = Place::Several(vec![values(1), values(2)]);
    let mut places = Places::from_iter([(b"1".to_vec(), both)]);
    let mut run = Run::default();
    push(&mut run, &mut places, &[&update, &delete, &update]);
    assert_eq!((run.ambiguous.len(), run.unmatched.len()), (1, 1));
    let deleted: Vec<&Values> = run.routed.iter().map(|routed| &routed.values).collect();
    assert_eq!(deleted, [&values(1), &values(2)]);
}
