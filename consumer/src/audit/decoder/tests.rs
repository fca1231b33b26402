use bson::{Bson, doc};
use oplog_relay_core::format::Format;
use oplog_relay_core::format::fragment::cut;
use oplog_relay_core::format::raw::Frame;
use oplog_relay_core::json::Mode;
use oplog_relay_core::position::Timestamp;

use super::*;

/// A record: its value, the identity of its entry, and its fragment header.
type Made = (Vec<u8>, String, Option<String>);

fn entry(op: &str, increment: u32) -> Vec<u8> {
    let ts = bson::Timestamp { time: 1, increment };
    let document = doc! {
        "ts": ts, "t": 1_i64, "v": 2_i64, "op": op, "ns": "app.a",
        "o": { "_id": increment, "text": "x".repeat(50) },
    };
    document.to_vec().unwrap()
}

fn whole(op: &str, increment: u32) -> Made {
    let name = format!("made/1:{increment}/0");
    (entry(op, increment), name, None)
}

/// Returns an insert in fragments of forty bytes.
fn fragments(increment: u32) -> Vec<Made> {
    let (value, name, _) = whole("i", increment);
    let parts = cut(0..value.len(), 40);
    parts
        .map(|part| {
            let text = Some(part.fragment.to_string());
            (value[part.value].to_vec(), name.clone(), text)
        })
        .collect()
}

/// Returns the increments of the decoded entries, and the offsets at which faults start. The offset of
/// each record is its index.
fn read(topic: &Topic, records: &[Made]) -> (Vec<u32>, Vec<i64>) {
    let mut decoder = Decoder::new(topic);
    let (mut seen, mut faults) = (Vec::new(), Vec::new());
    for (offset, (value, name, fragment)) in (0..).zip(records) {
        let record = Record {
            offset,
            value: Some(value),
            oplog_id: (!name.is_empty()).then_some(name.as_bytes()),
            fragment: fragment.as_ref().map(String::as_bytes),
        };
        let found = decoder.entries(record, |entry| seen.push(entry.id.ts.increment));
        faults.extend(found.into_iter().map(|fault| fault.offset));
    }
    faults.extend(decoder.finish().map(|fault| fault.offset));
    (seen, faults)
}

fn topic(format: Format, earlier: &[Format]) -> Topic {
    Topic {
        source: "made".to_owned(),
        format,
        earlier: earlier.to_vec(),
        foreign: None,
    }
}

#[test]
fn fragments_are_reassembled_and_each_incomplete_record_is_reported_once() {
    let topic = topic(Format::Bson, &[]);
    let (first, second) = (fragments(1), fragments(2));
    let count = first.len();
    assert!(count > 3);
    let sound = [&first[..], &[whole("i", 7)], &second].concat();
    assert_eq!(read(&topic, &sound), (vec![1, 7, 2], vec![]));
    // The last fragments are missing before a whole record, and then at the end of the partition.
    let cut = [&first[..2], &[whole("i", 7)], &second[..2]].concat();
    assert_eq!(read(&topic, &cut), (vec![7], vec![0, 3]));
    // A fragment in the middle is missing. The remaining fragments are not reported again.
    let torn = [&first[..1], &first[2..], &second].concat();
    assert_eq!(read(&topic, &torn), (vec![2], vec![0]));
    // The first fragment is missing.
    let headless = [&first[1..], &second].concat();
    assert_eq!(read(&topic, &headless), (vec![2], vec![0]));
    // An aborted transaction is followed by the same records.
    let again = [&first[..2], &first].concat();
    assert_eq!(read(&topic, &again), (vec![1], vec![0]));
    let unreadable = (vec![1], String::new(), Some("x".to_owned()));
    let mixed = [&first[..1], &[unreadable], &second].concat();
    assert_eq!(read(&topic, &mixed), (vec![2], vec![0, 1]));
}

#[test]
fn a_record_is_read_in_the_format_that_it_was_written_in() {
    let (mut frame, mut value) = (Frame::default(), Vec::new());
    let document = entry("i", 1);
    let id = EntryId {
        ts: Timestamp::new(1, 1),
        ord: 0,
    };
    frame.push(id, Document::new(&document).unwrap(), false);
    frame.finish(&mut value);
    let raw = (value, String::new(), None);
    let records = [raw, whole("i", 2)];
    let json = Format::Json(Mode::Relaxed);
    let changed = topic(json, &[Format::Raw, Format::Bson]);
    assert_eq!(read(&changed, &records), (vec![1, 2], vec![]));
    let never = topic(json, &[Format::Bson]);
    assert_eq!(read(&never, &records), (vec![2], vec![0]));
}

#[test]
fn a_record_of_a_full_sync_has_the_key_of_its_document() {
    let (read, inserted) = (entry("r", 5), entry("i", 5));
    let id = EntryId {
        ts: Timestamp::new(1, 5),
        ord: 0,
    };
    let seen = |bytes| Seen::new(id, Document::new(bytes).unwrap()).unwrap();
    let (read, inserted) = (seen(&read).suspect(0), seen(&inserted).suspect(0));
    assert_eq!((read.kind, inserted.kind), (Kind::Snapshot, Kind::Change));
    assert_eq!(read.key, inserted.key);
    let mut numbers = Numbers::default();
    assert!(seen(&entry("r", 5)).count(&mut numbers));
    assert_eq!(numbers.entries.get("snapshot"), Some(&1));
    for field in ["ns", "o"] {
        let mut document = bson::Document::from_reader(&entry("r", 5)[..]).unwrap();
        document.insert(field, Bson::Null);
        let bytes = document.to_vec().unwrap();
        assert!(Seen::new(id, Document::new(&bytes).unwrap()).is_err());
    }
}
