use super::*;
use crate::document::{DocumentBuilder, kind};
use crate::entry::Entry;
use crate::position::Timestamp;

pub(super) fn document(fill: impl FnOnce(&mut DocumentBuilder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    fill(&mut builder);
    builder.finish();
    out
}

pub(super) fn entry(increment: u32, op: &str, o: &[u8], o2: Option<&[u8]>) -> Vec<u8> {
    document(|entry| {
        entry.raw(
            "ts",
            kind::TIMESTAMP,
            &Timestamp::new(1_700_000_000, increment).to_le_bytes(),
        );
        entry
            .int64("t", 1)
            .int32("v", 2)
            .str("op", op)
            .str("ns", "shop.orders");
        let mut ui = vec![16, 0, 0, 0, 4];
        ui.extend([7; 16]);
        entry
            .raw("ui", kind::BINARY, &ui)
            .date("wall", 1_700_000_000_123);
        entry.document("o", Document::new(o).unwrap());
        if let Some(o2) = o2 {
            entry.document("o2", Document::new(o2).unwrap());
        }
    })
}

pub(super) fn insert() -> Vec<u8> {
    entry(
        1,
        "i",
        &document(|o| {
            o.int32("_id", 1).str("name", "Ada");
        }),
        None,
    )
}

pub(super) fn update() -> Vec<u8> {
    let key = document(|o| {
        o.int32("_id", 1);
    });
    let modifiers = document(|o| {
        o.int32("$v", 1).nested("$set", kind::DOCUMENT, |set| {
            set.int64("a.b", 5);
        });
        o.nested("$unset", kind::DOCUMENT, |unset| {
            unset.boolean("name", true);
        });
    });
    entry(2, "u", &modifiers, Some(&key))
}

fn event(bytes: &[u8], mode: Mode) -> String {
    let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
    let mut out = Vec::new();
    json::write_change_event(&entry, "rs0", 0, mode, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn change_events_have_their_frozen_form() {
    assert_eq!(
        event(&insert(), Mode::Relaxed),
        r#"{"_id":{"source":"rs0","ts":"1700000000:1","ord":0},"operationType":"insert","clusterTime":{"$timestamp":{"t":1700000000,"i":1}},"wallTime":{"$date":"2023-11-14T22:13:20.123Z"},"ns":{"db":"shop","coll":"orders"},"collectionUUID":{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"04"}},"documentKey":{"_id":1},"fullDocument":{"_id":1,"name":"Ada"},"formatVersion":1}"#
    );
    assert_eq!(
        event(&update(), Mode::Canonical),
        r#"{"_id":{"source":"rs0","ts":"1700000000:2","ord":0},"operationType":"update","clusterTime":{"$timestamp":{"t":1700000000,"i":2}},"wallTime":{"$date":{"$numberLong":"1700000000123"}},"ns":{"db":"shop","coll":"orders"},"collectionUUID":{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"04"}},"documentKey":{"_id":{"$numberInt":"1"}},"updateDescription":{"updatedFields":{"a.b":{"$numberLong":"5"}},"removedFields":["name"],"truncatedArrays":[]},"rawUpdateDescription":{"$v":{"$numberInt":"1"},"$set":{"a.b":{"$numberLong":"5"}},"$unset":{"name":true}},"formatVersion":1}"#
    );
}

/// Returns the `updateDescription` of a diff.
fn description(diff: &str, mode: Mode) -> String {
    let mut o = Vec::new();
    let text = format!(r#"{{"$v":2,"diff":{diff}}}"#);
    crate::json::parse_document(text.as_bytes(), &mut o).unwrap();
    let key = document(|key| {
        key.int32("_id", 1);
    });
    let text = event(&entry(3, "u", &o, Some(&key)), mode);
    let (before, raw) = text
        .split_once(r#","rawUpdateDescription":{"$v":"#)
        .unwrap();
    assert!(raw.contains(r#""diff":{"#));
    let (_, description) = before
        .split_once(r#","updateDescription":"#)
        .unwrap_or_default();
    description.to_owned()
}

#[test]
fn diffs_are_described_as_mongodb_describes_them() {
    let plain =
        r#"{"d":{"a":false},"u":{"b":1},"i":{"c":"x"},"so":{"d":{"p":false},"u":{"q":{"z":1}}}}"#;
    assert_eq!(
        description(plain, Mode::Relaxed),
        r#"{"updatedFields":{"b":1,"c":"x","o.q":{"z":1}},"removedFields":["a","o.p"],"truncatedArrays":[]}"#
    );
    let array = r#"{"sr":{"a":true,"l":2,"u0":9,"s1":{"u":{"k":1}}},"st":{"a":true,"l":0}}"#;
    assert_eq!(
        description(array, Mode::Canonical),
        r#"{"updatedFields":{"r.0":{"$numberInt":"9"},"r.1.k":{"$numberInt":"1"}},"removedFields":[],"truncatedArrays":[{"field":"r","newSize":{"$numberInt":"2"}},{"field":"t","newSize":{"$numberInt":"0"}}],"disambiguatedPaths":{"r.0":["r",{"$numberInt":"0"}],"r.1.k":["r",{"$numberInt":"1"},"k"]}}"#
    );
}

#[test]
fn disambiguated_numeric_field() {
    let diff = r#"{"u":{"0":1,"a.b":2},"sa":{"u":{"b":3}},"sc":{"a":true,"s1":{"d":{"2":false}}}}"#;
    assert_eq!(
        description(diff, Mode::Relaxed),
        r#"{"updatedFields":{"0":1,"a.b":2,"a.b":3},"removedFields":["c.1.2"],"truncatedArrays":[],"disambiguatedPaths":{"a.b":["a.b"],"c.1.2":["c",1,"2"]}}"#
    );
}

#[test]
fn a_damaged_diff_has_no_description() {
    assert_eq!(description(r#"{"x":{"a":1}}"#, Mode::Canonical), "");
}

#[test]
fn canonical_change_events_restore_what_replay_needs() {
    let mut diff = Vec::new();
    let text =
        r#"{"$v":2,"diff":{"u":{"a.b":1,"":2},"s$d":{"a":true,"l":1,"u0":{"$numberLong":"3"}}}}"#;
    crate::json::parse_document(text.as_bytes(), &mut diff).unwrap();
    let key = document(|key| {
        key.int32("_id", 1);
    });
    for bytes in [insert(), update(), entry(5, "u", &diff, Some(&key))] {
        let mut arena = event(&bytes, Mode::Canonical).into_bytes();
        let mut found = Vec::new();
        let value = 0..arena.len();
        decode(
            Format::Json(Mode::Canonical),
            value,
            None,
            &mut arena,
            &mut found,
        )
        .unwrap();
        let before = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
        let after = Entry::parse(found[0].document(&arena).unwrap()).unwrap();
        assert_eq!(
            (after.o, after.ns, after.ui),
            (before.o, before.ns, before.ui)
        );
        assert_eq!((after.ts, after.wall), (before.ts, before.wall));
        assert_eq!(after.document_id(), before.document_id());
        assert_eq!(
            found[0].id,
            EntryId {
                ts: before.ts,
                ord: 0
            }
        );
    }
}

#[test]
fn an_entry_that_text_cannot_hold_travels_in_raw_entry() {
    let o = document(|o| {
        o.int32("_id", 1)
            .raw("s", kind::STRING, &[2, 0, 0, 0, 0xff, 0]);
    });
    let damaged = entry(3, "i", &o, None);
    // The event cannot express a bucket, and a replay must not treat it as a plain document.
    let bucket = document(|bucket| {
        for element in Document::new(&insert()).unwrap().elements() {
            bucket.element(element.unwrap());
        }
        bucket.boolean("isTimeseries", true);
    });
    for bytes in [damaged, bucket] {
        let mut arena = event(&bytes, Mode::Canonical).into_bytes();
        let mut found = Vec::new();
        let value = 0..arena.len();
        let format = Format::Json(Mode::Canonical);
        decode(format, value, None, &mut arena, &mut found).unwrap();
        assert_eq!(found[0].document(&arena).unwrap().as_bytes(), bytes);
    }
}

/// Returns the entry that a consumer decodes from the event of an entry, and true if the event has
/// `rawEntry`.
fn carried(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut arena = event(bytes, Mode::Canonical).into_bytes();
    let has_raw_entry = String::from_utf8_lossy(&arena).contains(r#","rawEntry":""#);
    let mut found = Vec::new();
    let (value, format) = (0..arena.len(), Format::Json(Mode::Canonical));
    decode(format, value, None, &mut arena, &mut found).unwrap();
    let entry = found[0].document(&arena).unwrap();
    (entry.as_bytes().to_vec(), has_raw_entry)
}

#[test]
fn an_entry_with_a_name_twice_in_one_object_has_raw_entry() {
    let key = document(|key| {
        key.int32("_id", 1);
    });
    let twice = document(|twice| {
        twice.int32("a", 1).int32("b", 1).int32("a", 2);
    });
    let twice = Document::new(&twice).unwrap();
    let whole = |fill: &dyn Fn(&mut DocumentBuilder<'_>)| {
        let o = document(|o| {
            o.int32("_id", 1);
            fill(o);
        });
        entry(3, "i", &o, None)
    };
    let update = |text: &str| {
        let mut o = Vec::new();
        crate::json::parse_document(text.as_bytes(), &mut o).unwrap();
        entry(3, "u", &o, Some(&key))
    };
    let of_id = document(|o| {
        o.document("_id", twice);
    });
    for entry in [
        whole(&|o| {
            o.int32("x", 1).int32("y", 1).int32("x", 1);
        }),
        whole(&|o| {
            o.document("sub", twice);
        }),
        whole(&|o| {
            o.nested("list", kind::ARRAY, |list| {
                list.document("0", twice);
            });
        }),
        entry(3, "d", &of_id, None),
        update(r#"{"$v":1,"$set":{"b":1,"b":2}}"#),
        update(r#"{"$v":1,"$unset":{"b":true,"b":true}}"#),
        update(r#"{"$v":1,"$set":{"b":1},"$set":{"c":1}}"#),
        update(r#"{"$v":2,"diff":{"u":{"b":{"c":1,"c":2}}}}"#),
        update(r#"{"$v":2,"diff":{"u":{"a.b":2},"sa":{"u":{"b":3}}}}"#),
    ] {
        assert_eq!(
            carried(&entry),
            (entry.clone(), true),
            "{}",
            event(&entry, Mode::Relaxed)
        );
    }
    for entry in [
        whole(&|o| {
            o.int32("a", 1).nested("sub", kind::DOCUMENT, |sub| {
                sub.int32("a", 1);
            });
        }),
        update(r#"{"$v":1,"$set":{"b":1},"$unset":{"b":true}}"#),
        update(r#"{"$v":2,"diff":{"u":{"a.b":2},"sa":{"u":{"c":3}}}}"#),
    ] {
        assert!(!carried(&entry).1, "{}", event(&entry, Mode::Relaxed));
    }
}

#[test]
fn a_command_keeps_its_whole_entry() {
    let bytes = entry(
        4,
        "c",
        &document(|o| {
            o.str("renameCollection", "shop.a").str("to", "other.b");
        }),
        None,
    );
    let text = event(&bytes, Mode::Relaxed);
    assert!(text.contains(r#""operationType":"rename""#), "{text}");
    assert!(text.contains(r#""ns":{"db":"shop","coll":"a"},"to":{"db":"other","coll":"b"}"#));
    let mut arena = text.into_bytes();
    let mut found = Vec::new();
    let value = 0..arena.len();
    decode(
        Format::Json(Mode::Relaxed),
        value,
        None,
        &mut arena,
        &mut found,
    )
    .unwrap();
    assert_eq!(found[0].document(&arena).unwrap().as_bytes(), bytes);
}

#[test]
fn raw_frames_have_their_frozen_form_and_keep_every_byte() {
    let small = document(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &Timestamp::new(2, 1).to_le_bytes());
        entry.str("op", "n").str("ns", "");
    });
    let mut frame = raw::Frame::default();
    let id = EntryId {
        ts: Timestamp::new(2, 1),
        ord: 3,
    };
    frame.push(id, Document::new(&small).unwrap(), false);
    frame.push(id, Document::new(&small).unwrap(), true);
    assert_eq!(
        (frame.first(), frame.last(), frame.count()),
        (id.ts, id.ts, 2)
    );
    let mut arena = b"before".to_vec();
    frame.finish(&mut arena);
    assert!(frame.is_empty());

    let hex: String = arena[6..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let golden = concat!(
        "4f504c52010000000200000001000000020000000100000002000000ec773c932400000003000000",
        "0024000000117473000100000002000000026f7000020000006e00026e7300010000000000240000",
        "00030000000124000000117473000100000002000000026f7000020000006e00026e730001000000",
        "0000",
    );
    assert_eq!(hex, golden);

    let mut found = Vec::new();
    let value = 6..arena.len();
    decode(Format::Raw, value.clone(), None, &mut arena, &mut found).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].id, id);
    assert_eq!(found[1].document(&arena).unwrap().as_bytes(), small);

    for at in value.clone() {
        let mut damaged = arena.clone();
        damaged[at] ^= 0x40;
        let reserved = at - 6 == 6 || at - 6 == 7 || (12..28).contains(&(at - 6));
        let result = decode(
            Format::Raw,
            value.clone(),
            None,
            &mut damaged,
            &mut Vec::new(),
        );
        assert!(result.is_err() || reserved, "byte {at}");
    }
}

#[test]
fn bson_records_are_identified_by_their_header() {
    let mut arena = insert();
    let mut found = Vec::new();
    let value = 0..arena.len();
    let header = b"rs0/1700000000:1/0";
    decode(
        Format::Bson,
        value.clone(),
        Some(header),
        &mut arena,
        &mut found,
    )
    .unwrap();
    assert_eq!(found[0].range, value);
    for header in [None, Some(&b"rs0/1700000000/0"[..]), Some(b"\xff")] {
        assert!(decode(Format::Bson, value.clone(), header, &mut arena, &mut found).is_err());
    }
    let cut = 0..value.end - 1;
    assert!(decode(Format::Bson, cut, Some(b"a/1:1/0"), &mut arena, &mut found).is_err());
}

#[test]
fn a_record_identifies_its_format_and_its_first_entry() {
    let entry_bytes = insert();
    let id = EntryId {
        ts: Timestamp::new(1_700_000_000, 1),
        ord: 0,
    };
    let mut frame = raw::Frame::default();
    frame.push(id, Document::new(&entry_bytes).unwrap(), false);
    let mut framed = Vec::new();
    frame.finish(&mut framed);
    let mut header = Vec::new();
    id.write_header("rs0", &mut header);
    let text = event(&entry_bytes, Mode::Relaxed).into_bytes();
    let mut of_oplog = Vec::new();
    let document = Document::new(&entry_bytes).unwrap();
    oplog::write_oplog_entry(document, Mode::Relaxed, &mut of_oplog).unwrap();
    let debezium = Format::Debezium(Debezium {
        mode: Mode::Relaxed,
        with_schema: true,
    });
    let formats = [
        Format::Raw,
        Format::Bson,
        Format::Oplog(Mode::Canonical),
        Format::Json(Mode::Canonical),
        debezium,
        debezium,
    ];
    let records: [(&[u8], Option<&[u8]>); 6] = [
        (&framed, None),
        (&entry_bytes, Some(&header)),
        (&of_oplog, Some(&header)),
        (&text, None),
        (b"{\"before\":null}", None),
        (b"{\"schema\":{}}", None),
    ];
    for (index, (value, oplog_id)) in records.iter().enumerate() {
        let fits = formats.map(|format| format.fits(value, oplog_id.is_some()));
        let expected = formats.map(|other| other == formats[index]);
        assert_eq!(fits, expected, "{index}");
    }
    for (value, oplog_id) in &records[..3] {
        assert_eq!(first_entry(value, *oplog_id), Some(id));
    }
    assert_eq!(first_entry(b"OPLR", None), None);
}
