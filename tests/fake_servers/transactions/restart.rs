//! The producer is killed and started again, or starts in the middle.

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oplog_producer::source::StartAt;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_kit::model::Scenario;
use oplog_relay_kit::stream::{Begin, Stream};
use oplog_relay_kit::stub::{Oplog, Server};

use crate::transactions::made::{TERM, history};

/// Resumes from every end of a chunk and checks that exactly the rest follows. A dump is also
/// resumed from the positions of a live source.
async fn continues_from_every_end(oplog: &[u8]) -> Result<usize> {
    let server = Server::start(Oplog::given(oplog)?)?;
    let live = Stream::live(&server, Begin::oldest()).await?;
    let dump = Stream::dump(oplog, Begin::oldest()).await?;
    // A tail waits a second at the end, so several run at once.
    let (server, live) = (&server, &live);
    let rests = live.ends.iter().map(|end| async move {
        let rest = Stream::live(server, Begin::after(end)).await?;
        ensure!(rest.records == live.records[end.records..], "{end:?}");
        Ok(usize::from(end.position.ord > 0))
    });
    let rests = stream::iter(rests).buffer_unordered(6).try_collect();
    let inside: Vec<usize> = rests.await?;
    for end in dump.ends.iter().chain(&live.ends) {
        let rest = Stream::dump(oplog, Begin::after(end)).await?;
        ensure!(rest.records == dump.records[end.records..], "{end:?}");
    }
    Ok(inside.into_iter().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_inside_a_transaction_finds_exactly_the_rest() -> Result<()> {
    let inside = continues_from_every_end(&history().bytes()).await?;
    ensure!(inside >= 2, "{inside} chunks ended inside");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_transactions_continue_from_every_chunk() -> Result<()> {
    for name in ["transactions", "transactions-prepared"] {
        let inside = continues_from_every_end(&Scenario::new(name).oplog()?).await?;
        ensure!(inside >= 5, "{name}: {inside} chunks ended inside");
    }
    Ok(())
}

/// The seconds of the first and the last entry of the history.
const SECONDS: std::ops::RangeInclusive<u32> = 1..=19;

#[tokio::test(flavor = "multi_thread")]
async fn txn_open_at_start_position() -> Result<()> {
    let made = history();
    let server = made.serve()?;
    let whole = Stream::live(&server, Begin::oldest()).await?;
    for start in SECONDS.step_by(2) {
        let begin = Begin::at(StartAt::At(Timestamp::new(start, 1)));
        let expected = whole.records.iter();
        let expected = expected.filter(|(_, _, id, _)| id.ts.seconds >= start);
        let live = Stream::live(&server, begin.clone()).await?;
        ensure!(
            live.records.iter().eq(expected.clone()),
            "live from {start}"
        );
        let dump = Stream::dump(&made.bytes(), begin).await?;
        ensure!(dump.records.iter().eq(expected), "dump from {start}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_back_reads_operations_once_and_only_asks_for_what_the_tail_missed() -> Result<()>
{
    let made = history();
    let after = |seconds| {
        Begin::at(StartAt::After(Position {
            ts: Timestamp::new(seconds, 1),
            term: TERM,
            ord: 0,
        }))
    };
    // The second of the start, the number of chained entries queried, the number of entries read.
    for (seconds, links, entries) in [(1, 0, 4), (8, 3, 4), (12, 4, 4), (17, 1, 1)] {
        let server = made.serve()?;
        Stream::live(&server, after(seconds)).await?;
        ensure!(
            server.points() == (links, entries),
            "{seconds} {:?}",
            server.points()
        );
    }
    Ok(())
}
