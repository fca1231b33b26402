//! Records that a broker's disk has damaged.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};

use crate::made::Made;
use crate::topics::Topics;

/// Changes a byte in the middle of the first batch of a log; returns false if the log was empty.
fn damage(directory: &Path) -> Result<bool> {
    let log = directory.join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log)?;
    // A batch begins with its offset (8 bytes) and its length (4 bytes). The first batch has the
    // data; the second one is the marker of the transaction.
    let Some(length) = bytes.get(8..12) else {
        return Ok(false);
    };
    let length = usize::try_from(u32::from_be_bytes(length.try_into()?))?;
    let byte = bytes.get_mut(12 + length / 2).context("batch too short")?;
    *byte = !*byte;
    std::fs::write(&log, &bytes)?;
    Ok(true)
}

/// Left to itself, the Kafka client would skip the damaged batch, or fetch it again indefinitely.
#[test]
fn a_damaged_batch_is_reported_and_nothing_after_it_is_applied() -> Result<()> {
    let mut made = Made::default();
    for id in 0..100 {
        made.insert_with("s.a", 1, doc! { "_id": id, "text": "x".repeat(100) })?;
    }
    let first = made.oplog()?;
    for id in 100..200 {
        made.insert_with("s.a", 1, doc! { "_id": id, "text": "x".repeat(100) })?;
    }
    let topics = Topics::carry("disk", &first)?;
    topics.produce(&made.oplog()?, &[])?;
    let mut damaged = 0;
    for directory in topics.directories()? {
        damaged += usize::from(damage(&directory)?);
    }
    ensure!(damaged == 8, "{damaged} partitions");
    let target = ModelServer::start(Model::default())?;
    topics.refused(
        &target,
        "disk",
        &[],
        (1, "the batch is damaged: its checksum"),
    )?;
    let applied = target.model().state().get("s.a").map_or(0, Vec::len);
    ensure!(
        applied == 0,
        "{applied} documents after a damaged batch were applied"
    );
    Ok(())
}
