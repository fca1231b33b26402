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
    let dump = Dump::open(path.to_str().unwrap())?;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    dump.run(start, &sender, &Shutdown::manual())?;
    drop(sender);
    let mut seconds = Vec::new();
    while let Some(event) = receiver.blocking_recv() {
        if let SourceEvent::Batch(batch) = event {
            for document in batch.documents()? {
                seconds.push(Entry::parse(document.unwrap())?.ts.seconds);
            }
        }
    }
    Ok(seconds)
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
