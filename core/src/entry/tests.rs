use super::*;
use crate::document::DocumentBuilder;

fn document(fill: impl FnOnce(&mut DocumentBuilder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    fill(&mut builder);
    builder.finish();
    out
}

fn update(o: &[u8], o2: &[u8]) -> Vec<u8> {
    document(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &Timestamp::new(9, 2).to_le_bytes());
        entry
            .int64("t", 4)
            .int32("v", 2)
            .str("op", "u")
            .str("ns", "db.c.d");
        entry.document("o", Document::new(o).unwrap());
        entry.document("o2", Document::new(o2).unwrap());
        entry.str("somethingNew", "kept");
    })
}

#[test]
fn header_fields_are_read_and_unknown_ones_kept() {
    let o = document(|o| {
        o.int32("_id", 1);
    });
    let bytes = update(&o, &o);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert_eq!((entry.ts, entry.term), (Timestamp::new(9, 2), 4));
    assert_eq!(entry.namespace(), Namespace::split("db.c.d"));
    assert_eq!(entry.document_id().unwrap().integer(), Ok(1));
    assert!(entry.raw.get("somethingNew").unwrap().is_some());
}

#[test]
fn v_missing_is_1_and_first_entry_without_term_has_minus_one() {
    let bytes = document(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0]);
        entry.str("op", "n").str("ns", "");
    });
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert_eq!((entry.term, entry.operation), (-1, Operation::Noop));
    assert!(entry.o.is_empty());
}

#[test]
fn unknown_op_letter_and_version_stop() {
    for (op, version) in [("xi", 2), ("km", 2), ("i", 3)] {
        let bytes = document(|entry| {
            entry.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0]);
            entry.int32("v", version).str("op", op).str("ns", "a.b");
            entry.document("o", Document::EMPTY);
        });
        assert!(
            Entry::parse(Document::new(&bytes).unwrap()).is_err(),
            "{op} {version}"
        );
    }
}

#[test]
fn updates_are_distinguished_by_id_first() {
    let key = document(|o| {
        o.int32("_id", 1);
    });
    let replacement_with_dollar_v = document(|o| {
        o.int32("_id", 1).int32("$v", 2);
    });
    let bytes = update(&replacement_with_dollar_v, &key);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert!(matches!(entry.update(), Ok(Update::Replacement(_))));

    let modifiers = document(|o| {
        o.nested("$set", kind::DOCUMENT, |set| {
            set.int32("a", 1);
        });
    });
    let bytes = update(&modifiers, &key);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert!(matches!(entry.update(), Ok(Update::Modifiers(_))));

    let diff = document(|o| {
        o.int32("$v", 2).nested("diff", kind::DOCUMENT, |diff| {
            diff.nested("d", kind::DOCUMENT, |d| {
                d.boolean("a", false);
            });
        });
    });
    let bytes = update(&diff, &key);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert!(matches!(entry.update(), Ok(Update::Diff(_))));

    let unknown = document(|o| {
        o.int32("$v", 3);
    });
    let bytes = update(&unknown, &key);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert!(matches!(
        entry.update(),
        Err(EntryError::UnknownUpdate { version: 3, .. })
    ));
}

#[test]
fn ferretdb_set_whole_document_is_a_replacement() {
    let key = document(|o| {
        o.int32("_id", 1);
    });
    let disguised = document(|o| {
        o.int32("$v", 1).nested("$set", kind::DOCUMENT, |set| {
            set.int32("_id", 1).int32("a", 2);
        });
    });
    let bytes = update(&disguised, &key);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    let Ok(Update::Replacement(whole)) = entry.update() else {
        panic!("no replacement")
    };
    assert_eq!(whole.get("a").unwrap().unwrap().integer(), Ok(2));

    // With another `_id` in `o2`, the update is an ordinary modifier.
    let other = document(|o| {
        o.int32("_id", 2);
    });
    let bytes = update(&disguised, &other);
    let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    assert!(matches!(entry.update(), Ok(Update::Modifiers(_))));
}
