//! The memory of a full sync with its default settings, with many documents and with large ones.

use std::time::Duration;

use anyhow::{Result, ensure};
use oplog_relay_kit::services::{Kafka, Program};
use oplog_relay_kit::stub::{Contents, StubProcess};
use oplog_relay_kit::topic_reader::count_keys;

/// The longest duration of a copy: half a gigabyte through a debug build, on a busy machine.
const COPIED_WITHIN: Duration = Duration::from_secs(400);

/// Copies these documents, and returns the producer's peak memory in KiB.
fn copy(contents: Contents, prefix: &str) -> Result<u64> {
    let kafka = Kafka::shared()?;
    let source = StubProcess::with_documents(contents)?;
    let line = [
        "run".to_owned(),
        "--sync=full".to_owned(),
        "--http=off".to_owned(),
        format!("--source={}", source.uri()),
        format!("--brokers={}", kafka.brokers()),
        format!("--topic-prefix={prefix}"),
    ];
    let mut producer = Program::producer(line)?;
    let (code, most) = producer.wait_measured(COPIED_WITHIN)?;
    ensure!(code == 0, "{code}: {}", producer.stderr_text()?);
    let count = count_keys(&kafka.brokers(), prefix)?;
    ensure!(count == contents.documents, "{count} documents in Kafka");
    Ok(most)
}

#[test]
fn a_million_documents_are_copied_in_little_memory() -> Result<()> {
    let contents = Contents {
        documents: 1_000_000,
        large_every: 0,
    };
    let most = copy(contents, "manycopied")?;
    ensure!(most > 0 && most < 256 << 10, "{most} KiB");
    Ok(())
}

#[test]
fn documents_of_sixteen_megabytes_among_others_are_copied_in_little_memory() -> Result<()> {
    let contents = Contents {
        documents: 200_000,
        large_every: 5_000,
    };
    let most = copy(contents, "largecopied")?;
    ensure!(most > 0 && most < 512 << 10, "{most} KiB");
    Ok(())
}
