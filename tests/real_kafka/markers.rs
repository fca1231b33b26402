//! The pause between a commit and the next transaction.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use oplog_relay_kit::http_status::metric;
use oplog_relay_kit::services::{Kafka, Port, Program, wait_until};
use oplog_relay_kit::stub::{Oplog, Recipe, Server, Shape};

use crate::topics::LIMIT;

/// Number of transactions until the pause has settled, and of those that are counted after it.
const SETTLING: f64 = 100.0;
const COUNTED: f64 = 300.0;
/// The line that librdkafka logs for each `AddPartitionsToTxn` that it sends.
const REQUEST: &str = "Registering partitions with transaction";

/// A transaction sends two requests: for the partitions of its records, and for that of the position.
/// Sometimes it sends a third one, for records that arrive after the first request. If a transaction
/// begins before the markers of the previous one are written, the coordinator refuses the first request,
/// and librdkafka repeats it after 20 ms: without the pause, three requests are the least. The markers of
/// several partitions take longer than those of one.
#[test]
fn a_transaction_begins_when_the_markers_of_the_last_one_are_written() -> Result<()> {
    let kafka = Kafka::shared()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let recipe = Recipe {
        first_second: u32::try_from(now.as_secs())?,
        ..Recipe::new(120_000, Shape::Updates)
    };
    let server = Server::start_live(Oplog::make(recipe))?;
    let port = Port::lease()?;
    let mut producer = Program::producer([
        "run",
        "--topic-prefix=markers",
        "--partitions=8",
        "--start=oldest",
        "--kafka-option=debug=eos",
        "--log-level=info,librdkafka=debug",
        &format!("--http=127.0.0.1:{}", port.number()),
        &format!("--brokers={}", kafka.brokers()),
        &format!("--source={}", server.uri()),
    ])?;
    let commits = || metric(port.number(), "oplog_producer_commits_total").unwrap_or(0.0);
    let requests = |producer: &Program| -> Result<f64> {
        let count = producer.stderr_text()?.matches(REQUEST).count();
        Ok(f64::from(u32::try_from(count)?))
    };
    wait_until("the first transactions", LIMIT, || commits() >= SETTLING)?;
    let (commits_before, requests_before) = (commits(), requests(&producer)?);
    wait_until("more transactions", LIMIT, || {
        commits() >= commits_before + COUNTED
    })?;
    let per_commit = (requests(&producer)? - requests_before) / (commits() - commits_before);
    ensure!(
        (1.5..3.0).contains(&per_commit),
        "{per_commit} requests for each transaction"
    );
    producer.terminate()?;
    producer.wait(LIMIT)?;
    Ok(())
}
