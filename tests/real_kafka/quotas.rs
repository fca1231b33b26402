//! A broker with a low byte quota.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};

use crate::made::Made;
use crate::oversize::{noise, state};
use crate::topics::Topics;

/// The quota in bytes a second. A broker averages over 11 seconds, so the first 1.65 MB are not slowed
/// down. The entries have twice as many bytes: if all of them are in flight, the transaction expires.
const BYTES_A_SECOND: u32 = 150_000;
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time that the entries take under the quota. Without it they take a second.
const THROTTLED: Duration = Duration::from_secs(5);

#[test]
fn a_quota_slows_a_producer_down_and_does_not_stop_it() -> Result<()> {
    let topics = Topics::none("quota")?;
    let quota = format!("producer_byte_rate={BYTES_A_SECOND}");
    let client = ["--entity-type", "clients", "--entity-name", "quota"];
    let alter = ["--alter", "--add-config", &quota];
    topics.tool("kafka-configs", &[&alter[..], &client[..]].concat())?;
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..330 {
        let text = noise(10_000, u64::try_from(id)? + 7);
        made.insert_with("s.a", 1, doc! { "_id": id, "text": text })?;
    }
    let flags = [
        "--kafka-option=client.id=quota",
        &format!(
            "--kafka-option=transaction.timeout.ms={}",
            TRANSACTION_TIMEOUT.as_millis()
        ),
    ];
    let begun = Instant::now();
    topics.produce(&made.oplog()?, &flags)?;
    ensure!(begun.elapsed() > THROTTLED, "the quota had no effect");
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "quota", 1, &[])?;
    ensure!(state(&target) == made.expected()?.state());
    Ok(())
}
