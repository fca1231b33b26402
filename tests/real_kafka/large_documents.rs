//! The peak memory of the producer for documents of 16 MB whose JSON is six times as large.

use anyhow::{Result, ensure};
use bson::doc;

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The largest permitted memory for one document of 16 MB and everything else.
const MOST_KIB: u64 = 512 << 10;
/// Bytes of a large document, near the size limit of a server.
const BYTES: usize = (16 << 20) - 200;
const LARGE: i32 = 5;

/// Returns control characters for which JSON has no short escape, in an order that does not
/// compress well.
fn control_characters() -> String {
    let mut state = 7_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let number = u8::try_from(state % 16).unwrap_or_default();
        char::from(0x10 + number)
    };
    (0..BYTES).map(|_| next()).collect()
}

/// Returns large documents, with small ones between them.
fn history() -> Result<Made> {
    let (mut made, text) = (Made::default(), control_characters());
    for id in 0..LARGE {
        made.insert("s.a", 1, 1000 + id)?;
        made.insert_with("s.a", 1, doc! { "_id": id, "text": &text })?;
    }
    Ok(made)
}

#[test]
fn json_of_control_characters_stays_within_the_memory_limit() -> Result<()> {
    let topics = Topics::none("controls")?;
    let folder = tempfile::tempdir()?;
    let oplog = history()?.oplog()?;
    let mut producer = topics.start_producer(folder.path(), &oplog, &["--format=json"])?;
    let (code, most) = producer.wait_measured(LIMIT)?;
    ensure!(code == 0, "{code}: {}", producer.stderr_text()?);
    ensure!(most > 0 && most < MOST_KIB, "{most} KiB");
    Ok(())
}
