use std::sync::Arc;

use bson::{Timestamp as BsonTimestamp, doc};

use super::*;
use crate::prepare::lookup::fake::{Documents, counts};

fn update(seconds: u32, ns: &str, id: impl Into<bson::Bson>) -> Vec<u8> {
    let ts = BsonTimestamp {
        time: seconds,
        increment: 1,
    };
    let o = doc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    let entry = doc! { "ts": ts, "v": 2, "op": "u", "ns": ns, "o": o, "o2": { "_id": id.into() } };
    entry.to_vec().unwrap()
}

fn parse(entry: &[u8]) -> Entry<'_> {
    Entry::parse(Document::new(entry).unwrap()).unwrap()
}

/// Returns the number of the current document; `None` if it is gone.
fn number(lookup: &CurrentLookup) -> Option<i32> {
    let document = lookup.current().unwrap().document?;
    let number = document.get("n").unwrap().unwrap().integer().unwrap();
    Some(i32::try_from(number).unwrap())
}

fn ask(lookup: &mut CurrentLookup, entries: &[Vec<u8>], through: u32) {
    let mut wanted = lookup.wanted();
    for entry in entries {
        wanted.add(&parse(entry)).unwrap();
    }
    lookup.ask(&wanted, Timestamp::new(through, 1)).unwrap();
}

#[test]
fn documents_are_asked_for_once_and_found_by_an_equal_id() {
    let source = Documents::of(0..5);
    let asked = Arc::clone(&source.asked);
    let mut lookup = CurrentLookup::new(source.into());
    let entries = [
        update(1, "s.a", 3),
        update(2, "s.a", 1),
        update(3, "s.a", 3),
        update(4, "s.a", 9),
    ];
    ask(&mut lookup, &entries, 4);
    // A double equals the integer, as it does in MongoDB.
    let same = update(4, "s.a", 1.0);
    let numbers = [Some(3), Some(1), Some(3), None, Some(1)];
    for (entry, expected) in entries.iter().chain([&same]).zip(numbers) {
        lookup.look_up(&parse(entry)).unwrap();
        assert_eq!(number(&lookup), expected);
    }
    assert_eq!(*asked.lock().unwrap(), [(Timestamp::new(4, 1), 3)]);
    let at = lookup.current().unwrap().at;
    assert_eq!(at, Some(Timestamp::new(4, 7)));
    lookup.clear_current();
    assert!(lookup.current().is_none());
}

/// Such an entry may have changed the document after it was read.
#[test]
fn a_document_is_read_again_for_an_entry_after_the_read() {
    let source = Documents::of(0..5);
    let asked = Arc::clone(&source.asked);
    let mut lookup = CurrentLookup::new(source.into());
    ask(&mut lookup, &[update(1, "s.a", 3)], 1);
    let later = update(2, "s.a", 3);
    assert!(!lookup.covers(&parse(&later)).unwrap());
    lookup.look_up(&parse(&later)).unwrap();
    let asked = asked.lock().unwrap().clone();
    let expected = [1, 2].map(|seconds| (Timestamp::new(seconds, 1), 1));
    assert_eq!(asked, expected);
}

#[test]
fn a_document_for_which_a_reply_had_no_room_is_not_gone() {
    let source = Documents {
        room: Some(1),
        ..Documents::of(0..5)
    };
    let asked = Arc::clone(&source.asked);
    let mut lookup = CurrentLookup::new(source.into());
    // The document that is needed first is the last one in the order of the index.
    let entries = [4, 2, 0].map(|id| update(1, "s.a", id));
    ask(&mut lookup, &entries, 1);
    for (entry, id) in entries.iter().zip([4, 2, 0]) {
        lookup.look_up(&parse(entry)).unwrap();
        assert_eq!(number(&lookup), Some(id));
    }
    assert_eq!(counts(&asked), [3, 1, 1]);
}

#[test]
fn collections_with_the_same_ids_are_distinguished() {
    let mut lookup = CurrentLookup::new(Documents::of(0..5).into());
    let mut wanted = lookup.wanted();
    let entries = [update(1, "s.a", 1), update(1, "s.b", 1)];
    for entry in &entries {
        wanted.add(&parse(entry)).unwrap();
    }
    let names: Vec<_> = wanted.requests().iter().map(|it| it.ns.as_str()).collect();
    assert_eq!(names, ["s.a", "s.b"]);
    lookup.ask(&wanted, Timestamp::new(1, 1)).unwrap();
    let other = update(1, "s.c", 1);
    assert!(!lookup.covers(&parse(&other)).unwrap());
}

#[test]
fn fewer_large_documents_are_asked_for_at_a_time() {
    let mut source = Documents::default();
    let text = "x".repeat(2 << 20);
    source
        .by_id
        .insert(1, doc! { "_id": 1, "n": 1, "text": text });
    let mut lookup = CurrentLookup::new(source.into());
    let mut wanted = lookup.wanted();
    for id in 0..1000 {
        assert!(!wanted.is_full());
        wanted.add(&parse(&update(1, "s.a", id))).unwrap();
    }
    assert!(wanted.is_full());
    ask(&mut lookup, &[update(1, "s.a", 1)], 1);
    let mut wanted = lookup.wanted();
    for id in 0..3 {
        wanted.add(&parse(&update(1, "s.a", id))).unwrap();
    }
    assert!(wanted.is_full(), "three documents of 2 MiB");
}

#[test]
fn a_list_of_large_ids_is_full_early() {
    let mut wanted = Wanted::new(1000);
    for id in 0..2 {
        assert!(!wanted.is_full());
        let id = format!("{id}{}", "x".repeat(600_000));
        wanted.add(&parse(&update(1, "s.a", id))).unwrap();
    }
    assert!(wanted.is_full());
}
