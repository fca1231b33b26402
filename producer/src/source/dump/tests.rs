use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use oplog_relay_core::document::{DocumentBuilder, kind};

use super::*;

fn entry(seconds: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw(
        "ts",
        kind::TIMESTAMP,
        &Timestamp::new(seconds, 1).to_le_bytes(),
    );
    entry.int64("t", 1).str("op", "n").str("ns", "");
    entry.finish();
    out
}

fn entries(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(entry).collect()
}

fn read(path: &Path, start: StartAt) -> Result<Vec<u32>, ProducerError> {
    read_open(path, start, None).map(|(_, wanted)| wanted)
}

/// The seconds of the entries before the start, and of those from it on.
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
fn a_dump_is_read_again_from_where_a_transaction_is_open() {
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
    let gone = read(at(5, 1), Some(1));
    assert!(matches!(gone, Err(ProducerError::PositionLost(_))));
}

#[test]
fn segments_are_taken_in_time_order_and_what_they_share_once() {
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
fn what_lies_before_damage_is_sent() {
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
fn damage_is_told_with_the_file() {
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
        Err(ProducerError::Dump { .. })
    ));
}
