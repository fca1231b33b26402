//! Positions that exist at the source, that no longer exist, or that have another history.

use anyhow::{Context as _, Result, bail, ensure};
use oplog_producer::error::ProducerError;
use oplog_producer::position_lost::PositionLost;
use oplog_producer::source::StartAt;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_kit::stream::{Begin, Stream};
use oplog_relay_kit::stub::Server;

use crate::transactions::made::{Made, TERM};

/// Returns a server with entries at 5, 6 and 8.
fn server() -> Result<Server> {
    let mut made = Made::default();
    made.insert(5, 1).insert(6, 2).insert(8, 3);
    made.serve()
}

async fn after(server: &Server, seconds: u32, term: i64) -> Result<Stream> {
    let position = Position {
        ts: Timestamp::new(seconds, 1),
        term,
        ord: 0,
    };
    Stream::live(server, Begin::at(StartAt::After(position))).await
}

async fn lost(server: &Server, seconds: u32, term: i64) -> Result<PositionLost> {
    let error = after(server, seconds, term).await.err();
    let error = error.context("no failure")?.downcast::<ProducerError>()?;
    match error {
        ProducerError::PositionLost(lost) => Ok(*lost),
        other => Err(other.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_gte_first_entry_must_match_ts_and_term() -> Result<()> {
    let stream = after(&server()?, 6, TERM).await?;
    let times = stream.records.iter().map(|(_, _, id, _)| id.ts.seconds);
    ensure!(times.eq([8]), "{:?}", stream.records);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_entry_rolled_back() -> Result<()> {
    // The same time in another term, and a time between two entries.
    for (seconds, term, shared) in [
        (6, TERM - 1, None),
        (7, TERM, Some(6)),
        (6, TERM + 1, Some(5)),
    ] {
        let lost = lost(&server()?, seconds, term).await?;
        let PositionLost::RolledBack { range, .. } = &lost else {
            bail!("{lost}");
        };
        let found = range.shared.map(|shared| shared.ts.seconds);
        ensure!(found == shared, "{lost}");
        let stretch = shared.map_or_else(
            || format!("no earlier entry of term {term}"),
            |shared| format!("sent after {shared}:1 up to {seconds}:1"),
        );
        ensure!(lost.to_string().contains(&stretch), "{lost}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_before_oldest_stops() -> Result<()> {
    let lost = lost(&server()?, 4, TERM).await?;
    ensure!(matches!(lost, PositionLost::RolledOver { .. }), "{lost}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_after_newest_waits() -> Result<()> {
    let stream = after(&server()?, 9, TERM).await?;
    ensure!(stream.records.is_empty(), "{:?}", stream.records);
    Ok(())
}
