//! The peak memory of each program for documents of 16 MB whose JSON is six times as large.

use anyhow::{Result, ensure};
use bson::doc;

use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::Program;

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The largest permitted memory for one document of 16 MB and everything else.
const MOST_KIB: u64 = 512 << 10;
/// Maximum for a consumer of such JSON: a fetch brings whole records of several partitions.
const MOST_OF_CONSUMER_KIB: u64 = 900 << 10;
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

/// Waits for a program that must succeed within the memory limit.
fn keeps_to_the_limit(name: &str, mut program: Program, limit_kib: u64) -> Result<()> {
    let (code, most) = program.wait_measured(LIMIT)?;
    ensure!(code == 0, "{name}: {code}: {}", program.stderr_text()?);
    ensure!(most > 0 && most < limit_kib, "{name}: {most} KiB");
    Ok(())
}

#[test]
fn json_of_control_characters_keeps_to_the_limit_of_memory() -> Result<()> {
    let topics = Topics::none("controls")?;
    let folder = tempfile::tempdir()?;
    let oplog = history()?.oplog()?;
    let producer = topics.start_producer(folder.path(), &oplog, &["--format=json"])?;
    keeps_to_the_limit("the producer", producer, MOST_KIB)?;
    let lines = folder.path().join("lines");
    let emit = Program::consumer([
        "emit",
        "--http=off",
        "--until-caught-up",
        "--group=emitted",
        &format!("--brokers={}", topics.brokers()),
        &format!("--topic-prefix={}", topics.prefix()),
        &format!("--to=file:{}", lines.display()),
    ])?;
    keeps_to_the_limit("emit", emit, MOST_OF_CONSUMER_KIB)?;
    let target = ModelServer::start(Model::default())?;
    let replay = topics.start(&target, "replayed", &["--until-caught-up"])?;
    keeps_to_the_limit("replay", replay, MOST_OF_CONSUMER_KIB)
}
