use std::io::Write as _;

use bson::{Bson, doc};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;

const BSON: Rules = rules(Writer::MongoshakeBson);
const JSON: Rules = rules(Writer::MongoshakeJson);
const RAW: Rules = rules(Writer::MongoshakeRaw);

fn insert(increment: u32) -> Document {
    doc! { "ts": timestamp(7, increment), "t": 1_i64, "v": 2, "op": "i", "ns": "s.a", "o": { "_id": 1, "x": 2.5 } }
}

/// Returns a frame of these entries, which declares `count` entries.
fn frame(entries: &[Vec<u8>], count: usize, compress: u32) -> Vec<u8> {
    let sum = entries.iter().take(count).fold(0, |sum, entry| {
        let mut crc = flate2::Crc::new();
        crc.update(entry);
        sum ^ crc.sum()
    });
    let count = u32::try_from(count).unwrap();
    let mut frame = Vec::new();
    for number in [sum, 0x1000, 3, compress, count] {
        frame.extend_from_slice(&number.to_be_bytes());
    }
    for entry in entries {
        frame.extend_from_slice(&u32::try_from(entry.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(entry);
    }
    frame
}

#[test]
fn an_entry_stays_as_it_is() {
    let (id, entry) = entry_of(BSON, None, &bytes(&insert(3)));
    assert_eq!((id.as_str(), entry), ("7:3/40", insert(3)));
}

#[test]
fn an_operation_of_a_transaction_is_taken_out_of_its_wrapper() {
    let inner = doc! {
        "ts": timestamp(7, 2), "t": 1_i64, "h": Bson::Null, "v": 0, "op": "u", "ns": "s.a",
        "o": { "$set": { "x": 1 } }, "o2": { "_id": 1 },
    };
    let wrapped = doc! { "parsedlog": inner, "uniqueindexesupdates": Bson::Null, "rawsize": 0 };
    let (_, entry) = entry_of(BSON, None, &bytes(&wrapped));
    let expected = doc! {
        "ts": timestamp(7, 2), "t": 1_i64, "v": 2, "op": "u", "ns": "s.a",
        "o": { "$set": { "x": 1 } }, "o2": { "_id": 1 },
    };
    assert_eq!(entry, expected);
}

#[test]
fn a_command_that_is_sent_again_is_the_same_command() {
    let id = |more: Document, o: Document| {
        let mut entry = doc! { "ts": timestamp(7, 3), "v": 2, "op": "c", "ns": "s.$cmd", "o": o };
        entry.extend(more);
        entry_of(BSON, None, &bytes(&entry)).0
    };
    let first = id(doc! {}, doc! { "create": "a" });
    let again = id(doc! { "t": 2_i64, "rawsize": 7 }, doc! { "create": "a" });
    assert_eq!(first, again);
    // The commands of a transaction have the same timestamp.
    let other = id(doc! {}, doc! { "create": "b" });
    assert!(
        first.starts_with("7:3/") && first != other,
        "{first} {other}"
    );
}

#[test]
fn canonical_json_keeps_types() {
    let text = br#"{"ts":{"$timestamp":{"t":7,"i":1}},"t":{"$numberLong":"1"},"h":null,"v":{"$numberInt":"2"},"op":"i","ns":"s.a","o":{"_id":{"$oid":"63318f67024749a30fc12af6"},"b":{"$numberDouble":"3.0"},"n":{"$numberLong":"4"}},"o2":null,"ui":{"$binary":{"base64":"3p7boGbmTvqYSWp42PaZnw==","subType":"04"}}}"#;
    let strict = Rules {
        accepts_lossy: false,
        ..JSON
    };
    let (id, entry) = entry_of(strict, None, text);
    assert_eq!(id, "7:1/40");
    let o = entry.get_document("o").unwrap();
    let oid = bson::oid::ObjectId::parse_str("63318f67024749a30fc12af6").unwrap();
    assert_eq!(o, &doc! { "_id": oid, "b": 3.0, "n": 4_i64 });
    assert!(!entry.contains_key("o2") && !entry.contains_key("h"));
    assert!(matches!(entry.get("ui"), Some(Bson::Binary(_))));
}

#[test]
fn gos_own_json_is_read_with_consent() {
    let text = br#"{"ts":{"T":1664192510,"I":1},"t":1,"h":null,"v":0,"op":"u","ns":"test.car","o":[{"Key":"$v","Value":1},{"Key":"$set","Value":[{"Key":"a","Value":[1,[{"Key":"b","Value":2}]]},{"Key":"e","Value":[]},{"Key":"t","Value":{"T":5,"I":6}},{"Key":"r","Value":{"Pattern":"x","Options":"i"}},{"Key":"d","Value":{"Subtype":4,"Data":"3p7boGbmTvqYSWp42PaZnw=="}}]}],"o2":[{"Key":"_id","Value":"63318f67024749a30fc12af6"}],"PrevOpTime":null,"ui":{"Subtype":4,"Data":"3p7boGbmTvqYSWp42PaZnw=="}}"#;
    let strict = Rules {
        accepts_lossy: false,
        ..JSON
    };
    let refusal = entries_of(strict, None, text).unwrap_err();
    assert!(refusal.needs_consent() && text_of(&refusal).contains("--allow-lossy"));
    let (id, entry) = entry_of(JSON, None, text);
    assert_eq!(id, "1664192510:1/40");
    let set = entry
        .get_document("o")
        .unwrap()
        .get_document("$set")
        .unwrap();
    let empty: Vec<Bson> = Vec::new();
    assert_eq!(
        set.get("a"),
        Some(&Bson::Array(vec![1.into(), doc! { "b": 2 }.into()]))
    );
    assert_eq!(set.get("e"), Some(&Bson::Array(empty)));
    assert_eq!(set.get("t"), Some(&timestamp(5, 6)));
    assert!(matches!(set.get("r"), Some(Bson::RegularExpression(_))));
    assert!(matches!(set.get("d"), Some(Bson::Binary(_))));
    let o2 = entry.get_document("o2").unwrap();
    assert_eq!(o2, &doc! { "_id": "63318f67024749a30fc12af6" });
    let old =
        br#"{"ts":30064771073,"v":2,"op":"d","ns":"s.a","o":[{"Name":"_id","Value":1}],"o2":[]}"#;
    let (id, entry) = entry_of(JSON, None, old);
    assert_eq!(
        (id.as_str(), entry.get_document("o").ok()),
        ("7:1/40", Some(&doc! { "_id": 1 }))
    );
    assert!(entry.get_document("o2").unwrap().is_empty());
}

#[test]
fn a_value_without_a_type_in_gos_json_is_refused() {
    let text = br#"{"ts":{"T":7,"I":1},"v":2,"op":"i","ns":"s.a","o":[{"Key":"_id","Value":{}}]}"#;
    let error = entries_of(JSON, None, text).unwrap_err();
    assert!(text_of(&error).contains("minKey"), "{error}");
}

#[test]
fn a_frame_has_entries_of_any_compression() {
    let plain: Vec<Vec<u8>> = (1..=3).map(|it| bytes(&insert(it))).collect();
    let compressed = |compress: u32| -> Vec<Vec<u8>> {
        let one = |entry: &Vec<u8>| {
            let level = Compression::best();
            match compress {
                1 => {
                    let mut out = GzEncoder::new(Vec::new(), level);
                    out.write_all(entry).unwrap();
                    out.finish().unwrap()
                }
                3 => {
                    let mut out = ZlibEncoder::new(Vec::new(), level);
                    out.write_all(entry).unwrap();
                    out.finish().unwrap()
                }
                4 => {
                    let mut out = DeflateEncoder::new(Vec::new(), level);
                    out.write_all(entry).unwrap();
                    out.finish().unwrap()
                }
                _ => entry.clone(),
            }
        };
        plain.iter().map(one).collect()
    };
    for compress in 0..=4 {
        let value = frame(&compressed(compress), 3, compress);
        let entries = entries_of(RAW, None, &value).unwrap();
        let ids: Vec<&str> = entries.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(
            ids,
            ["7:1/1076363264", "7:2/1076363265", "7:3/1076363266"],
            "{compress}"
        );
        assert!(
            entries
                .iter()
                .all(|(_, entry)| entry.get_str("ns").ok() == Some("s.a"))
        );
    }
}

#[test]
fn a_frame_that_ends_early_repeats_the_frames_before_it() {
    let plain: Vec<Vec<u8>> = (1..=3).map(|it| bytes(&insert(it))).collect();
    let ids = |entries: &[Vec<u8>], count| -> Vec<String> {
        let value = frame(entries, count, 0);
        let entries = entries_of(RAW, None, &value).unwrap();
        entries.into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(ids(&plain[..1], 3), ["7:1/40"]);
    assert_eq!(ids(&plain[..2], 3), ["7:2/40"]);
    assert_eq!(ids(&plain, 3).len(), 3);
    assert_eq!(ids(&[], 0).len(), 0, "a probe");
}

#[test]
fn a_damaged_frame_is_refused() {
    let plain = vec![bytes(&insert(1))];
    let whole = frame(&plain, 1, 0);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut compressed = whole.clone();
    compressed[15] = 1;
    let mut unknown = whole.clone();
    unknown[15] = 9;
    let too_many = frame(&[plain[0].clone(), plain[0].clone()], 1, 0);
    for (value, part) in [
        (&flipped[..], "checksum"),
        (&whole[..whole.len() - 1], "ends after the frame"),
        (&whole[..9], "shorter than its header"),
        (&compressed, "decompressed"),
        (&unknown, "compression is unknown"),
        (&too_many, "more entries"),
    ] {
        let error = entries_of(RAW, None, value).unwrap_err();
        assert!(text_of(&error).contains(part), "{part}: {error}");
    }
}
