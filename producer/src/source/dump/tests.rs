use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::Position;

use super::*;

fn entry(seconds: u32) -> Vec<u8> {
    entry_of(seconds, 1)
}

fn entry_of(seconds: u32, term: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw(
        "ts",
        kind::TIMESTAMP,
        &Timestamp::new(seconds, 1).to_le_bytes(),
    );
    entry.int64("t", term).str("op", "n").str("ns", "");
    entry.finish();
    out
}

fn entries(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(entry).collect()
}

fn read(path: &Path, start: StartAt) -> Result<Vec<u32>, ProducerError> {
    read_open(path, start, None).map(|(_, wanted)| wanted)
}

/// Returns the seconds of the entries before the start, and of the entries from the start on.
fn read_open(
    path: &Path,
    start: StartAt,
    open: Option<u32>,
) -> Result<(Vec<u32>, Vec<u32>), ProducerError> {
    let dump = Dump::open(path.to_str().unwrap())?;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    let open = open.map(|open| Timestamp::new(open, 1));
    dump.run(start, open, &sender, &Shutdown::manual())?;
    drop(sender);
    let (mut earlier, mut wanted) = (Vec::new(), Vec::new());
    while let Some(event) = receiver.blocking_recv() {
        let (batch, seconds) = match event {
            SourceEvent::Earlier(batch) => (batch, &mut earlier),
            SourceEvent::Batch(batch) => (batch, &mut wanted),
            _ => continue,
        };
        for document in batch.documents()? {
            seconds.push(Entry::parse(document.unwrap())?.ts.seconds);
        }
    }
    Ok((earlier, wanted))
}

fn at(seconds: u32, term: i64) -> StartAt {
    StartAt::After(Position {
        ts: Timestamp::new(seconds, 1),
        term,
        ord: 0,
    })
}

#[test]
fn a_file_is_read_from_its_start_or_after_the_saved_position() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    std::fs::write(&path, entries(1..6)).unwrap();
    assert_eq!(read(&path, StartAt::Oldest).unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(read(&path, at(3, 1)).unwrap(), [4, 5]);
    assert_eq!(read(&path, at(9, 1)).unwrap(), Vec::<u32>::new());
    assert_eq!(
        read(&path, StartAt::At(Timestamp::new(4, 0))).unwrap(),
        [4, 5]
    );
    assert_eq!(read(folder.path(), StartAt::Oldest).unwrap().len(), 5);
    assert!(matches!(
        read(&path, at(3, 2)),
        Err(ProducerError::PositionLost(_))
    ));
    assert!(matches!(
        read(&path, at(0, 1)),
        Err(ProducerError::PositionLost(_))
    ));
}

#[test]
fn a_dump_is_read_again_from_the_start_of_an_open_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    std::fs::write(&path, entries(2..9)).unwrap();
    let read = |start, open| read_open(&path, start, open);
    let open = read(at(5, 1), Some(3)).unwrap();
    assert_eq!(open, (vec![3, 4, 5], vec![6, 7, 8]));
    let none = read(at(5, 1), None).unwrap();
    assert_eq!(none, (vec![], vec![6, 7, 8]));
    let StartAt::After(position) = at(5, 1) else {
        unreachable!()
    };
    let inside = StartAt::After(Position { ord: 7, ..position });
    let inside = read(inside, Some(3)).unwrap();
    assert_eq!(inside, (vec![3, 4], vec![5, 6, 7, 8]));
    let time = read(StartAt::At(Timestamp::new(4, 0)), None).unwrap();
    assert_eq!(time, (vec![2, 3], vec![4, 5, 6, 7, 8]));
    // The transaction may never have been committed; a commit that needs the entry reports it.
    let older = read(at(5, 1), Some(1)).unwrap();
    assert_eq!(older, (vec![2, 3, 4, 5], vec![6, 7, 8]));
}

#[test]
fn segments_are_read_in_time_order_and_shared_entries_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("b.bson"), entries(1..4)).unwrap();
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(&entries(3..7)).unwrap();
    std::fs::write(folder.path().join("a.bson.gz"), gz.finish().unwrap()).unwrap();
    std::fs::write(folder.path().join("notes.txt"), b"no segment").unwrap();
    assert_eq!(
        read(folder.path(), StartAt::Oldest).unwrap(),
        [1, 2, 3, 4, 5, 6]
    );
}

#[test]
fn entries_before_damage_are_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    let mut bytes = entries(1..4);
    bytes.truncate(bytes.len() - 2);
    std::fs::write(&path, &bytes).unwrap();
    let dump = Dump::open(path.to_str().unwrap()).unwrap();
    let (sender, mut events) = tokio::sync::mpsc::channel(100);
    let ended = dump.run(StartAt::Oldest, None, &sender, &Shutdown::manual());
    assert!(ended.is_err());
    drop(sender);
    let Some(SourceEvent::Batch(batch)) = events.blocking_recv() else {
        panic!("no batch");
    };
    assert_eq!(batch.documents().unwrap().count(), 2);
    assert!(events.blocking_recv().is_none());
}

#[test]
fn an_error_about_damage_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    let mut bytes = entries(1..3);
    bytes.truncate(bytes.len() - 2);
    std::fs::write(&path, &bytes).unwrap();
    let error = read(&path, StartAt::Oldest).unwrap_err().to_string();
    assert!(
        error.contains("oplog.bson ends inside a document"),
        "{error}"
    );
    std::fs::write(&path, [1, 0, 0, 0]).unwrap();
    assert!(
        read(&path, StartAt::Oldest)
            .unwrap_err()
            .to_string()
            .contains("document of 1 bytes")
    );
    assert!(matches!(
        Dump::open("/no/such/path"),
        Err(ProducerError::File { .. })
    ));
}

/// Writes segments into a folder. Each segment is a name and the (second, term) of its entries.
fn segments(segments: &[(&str, &[(u32, i64)])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, entries) in segments {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|(seconds, term)| entry_of(*seconds, *term))
            .collect();
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn segments_beside_oplog_bson_are_read_too() {
    let folder = segments(&[
        ("oplog.bson", &[(1, 1), (2, 1)]),
        ("oplog.2.bson", &[(3, 1)]),
        ("empty.bson", &[]),
    ]);
    assert_eq!(read(folder.path(), StartAt::Oldest).unwrap(), [1, 2, 3]);
    std::fs::write(folder.path().join("oplog.bson.zst"), b"x").unwrap();
    let refused = read(folder.path(), StartAt::Oldest).unwrap_err();
    assert!(matches!(refused, ProducerError::Dump(_)), "{refused}");
    assert!(refused.to_string().contains("oplog.bson.zst"), "{refused}");
}

#[test]
fn entries_that_a_higher_term_rolled_back_are_left_out() {
    let old: &[(u32, i64)] = &[(1, 1), (2, 1), (3, 1), (5, 1), (7, 1)];
    for new in [
        // Each segment contains the common entries and those of the new primary.
        &[(2, 1), (3, 1), (4, 2), (7, 2), (9, 2)][..],
        &[(3, 1), (6, 2), (9, 2)],
        &[(1, 1), (2, 1), (3, 1), (4, 2)],
    ] {
        let folder = segments(&[("old.bson", old), ("new.bson", new)]);
        let expected: Vec<u32> = [1, 2, 3]
            .into_iter()
            .chain(
                new.iter()
                    .filter(|(_, term)| *term == 2)
                    .map(|(seconds, _)| *seconds),
            )
            .collect();
        assert_eq!(
            read(folder.path(), StartAt::Oldest).unwrap(),
            expected,
            "{new:?}"
        );
    }
}

#[test]
fn segments_whose_branch_point_is_unknown_are_refused() {
    for (old, new) in [
        (&[(1, 1), (2, 1), (3, 1)][..], &[(2, 2), (3, 2)][..]),
        (&[(1, 1), (2, 1), (4, 1)], &[(3, 2), (5, 2)]),
        // The replica set was initiated again in between.
        (&[(1, 5), (2, 5)], &[(3, 1), (4, 1)]),
    ] {
        let folder = segments(&[("old.bson", old), ("new.bson", new)]);
        let refused = read(folder.path(), StartAt::Oldest).unwrap_err();
        assert!(
            matches!(refused, ProducerError::Dump(_)),
            "{old:?} {new:?}: {refused}"
        );
    }
    // Both entries have the same time and term but different contents.
    let folder = segments(&[("a.bson", &[(1, 1), (2, 1)]), ("b.bson", &[(2, 1)])]);
    let mut other = Vec::new();
    let mut builder = DocumentBuilder::start(&mut other);
    for field in Document::new(&entry(2)).unwrap().elements() {
        builder.element(field.unwrap());
    }
    builder.str("more", "");
    builder.finish();
    std::fs::write(folder.path().join("b.bson"), &other).unwrap();
    let refused = read(folder.path(), StartAt::Oldest)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("different entries at 2:1"), "{refused}");
}

#[test]
fn entries_of_one_term_from_several_segments_are_put_in_order() {
    let folder = segments(&[
        ("a.bson", &[(1, 1), (4, 1), (5, 1)]),
        ("b.bson", &[(2, 1), (3, 1), (5, 1), (6, 1)]),
    ]);
    let read = read(folder.path(), StartAt::Oldest).unwrap();
    assert_eq!(read, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_length_of_the_first_entry_is_not_mistaken_for_a_gzip_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    for length in [0x8b1f_usize, 0x0008_8b1f] {
        let mut bytes = Vec::new();
        let mut first = DocumentBuilder::start(&mut bytes);
        first.raw("ts", kind::TIMESTAMP, &Timestamp::new(1, 1).to_le_bytes());
        first.str("op", "n").str("ns", "");
        let filler = "x".repeat(length - 49);
        first.str("filler", &filler);
        first.finish();
        assert_eq!(bytes.len(), length);
        assert_eq!(bytes[..2], [0x1f, 0x8b]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path, StartAt::Oldest).unwrap(), [1], "{length}");
    }
}

/// Bytes 5 to 7 of the header are letters at such a time.
#[test]
fn the_time_in_a_gzip_header_is_not_mistaken_for_the_name_of_a_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson.gz");
    let mut entry = Vec::new();
    let mut first = DocumentBuilder::start(&mut entry);
    first.raw("ts", kind::TIMESTAMP, &Timestamp::new(1, 1).to_le_bytes());
    first.str("op", "n").str("ns", "");
    first.finish();
    for name in [None, Some("oplog.bson")] {
        let mut header = GzBuilder::new().mtime(0x6941_4200);
        if let Some(name) = name {
            header = header.filename(name);
        }
        let mut gz = header.write(Vec::new(), Compression::default());
        gz.write_all(&entry).unwrap();
        std::fs::write(&path, gz.finish().unwrap()).unwrap();
        assert_eq!(read(&path, StartAt::Oldest).unwrap(), [1], "{name:?}");
    }
}

#[test]
fn a_file_that_is_not_an_oplog_dump_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.bson");
    let mut bytes = Vec::new();
    let mut order = DocumentBuilder::start(&mut bytes);
    order.int32("_id", 1).str("name", "Ada");
    order.finish();
    std::fs::write(&path, &bytes).unwrap();
    for path in [path.as_path(), folder.path()] {
        let refused = read(path, StartAt::Oldest).unwrap_err();
        assert!(matches!(refused, ProducerError::Dump(_)), "{refused}");
        let text = refused.to_string();
        assert!(
            text.contains("orders.bson is not a dump of an oplog"),
            "{text}"
        );
    }
}

#[test]
fn a_lost_position_names_the_oldest_entry_of_the_dump() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    std::fs::write(&path, [entry(2), entry(4), entry(6)].concat()).unwrap();
    let text = |start| read(&path, start).unwrap_err().to_string();
    let lost = text(at(5, 1));
    assert!(
        lost.contains("6:1") && lost.contains("oldest entry: 2:1"),
        "{lost}"
    );
    let lost = text(at(4, 3));
    assert!(lost.contains("oldest entry: 2:1"), "{lost}");
    let lost = text(at(1, 1));
    assert!(
        lost.contains("the oldest entry of the source is 2:1"),
        "{lost}"
    );
}
