//! Transaction chains that are missing an entry at the source, or that are malformed.

use anyhow::{Context as _, Result, ensure};
use bson::doc;
use oplog_producer::error::{Directive, ProducerError};
use oplog_producer::position_lost::PositionLost;
use oplog_producer::source::StartAt;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_kit::stream::{Begin, Stream};
use oplog_relay_runtime::exit::ExitCode;

use crate::transactions::made::{Made, TERM, history, part};

fn after(seconds: u32, ord: u32) -> Begin {
    Begin::at(StartAt::After(Position {
        ts: Timestamp::new(seconds, 1),
        term: TERM,
        ord,
    }))
}

fn ids(stream: &Stream) -> Result<Vec<i32>> {
    let id = |bytes: &[u8]| -> Result<i32> {
        let entry = Entry::parse(Document::new(bytes)?)?;
        Ok(i32::try_from(entry.document_id()?.integer()?)?)
    };
    let records = stream.records.iter();
    records.map(|(_, _, _, bytes)| id(bytes)).collect()
}

/// Returns the error that a stream ended with.
fn failed(stream: Result<Stream>) -> Result<ProducerError> {
    let error = stream.err().context("the stream did not fail")?;
    error.downcast::<ProducerError>()
}

#[tokio::test(flavor = "multi_thread")]
async fn txn_chain_left_oplog_217_before_start_oldest_is_skipped() -> Result<()> {
    let made = history();
    let oplog = made.without(|seconds| seconds < 8);
    let server = made.serve_without(|seconds| seconds < 8)?;
    let live = Stream::live(&server, Begin::oldest()).await?;
    ensure!(ids(&live)? == [3, 4, 5, 6], "{:?}", ids(&live));
    // The large, the prepared and the small transaction; the aborted one does not count.
    let counts = live.counts;
    ensure!((counts.incomplete, counts.aborted, counts.committed) == (3, 1, 0));
    for end in &live.ends {
        ensure!(end.history.begin == Some(Timestamp::new(8, 1)));
    }
    let dump = Stream::dump(&oplog, Begin::oldest()).await?;
    ensure!((dump.records, dump.counts) == (live.records, live.counts));
    // A restart knows the start of the stream.
    let mut begin = Begin {
        history: live.ends[0].history,
        ..after(12, 0)
    };
    let again = Stream::live(&server, begin.clone()).await?;
    ensure!(ids(&again)? == [5, 6] && again.counts.incomplete == 3);
    begin.history.open = Some(Timestamp::new(11, 1));
    let again = Stream::dump(&oplog, begin).await?;
    ensure!(ids(&again)? == [5, 6] && again.counts.incomplete == 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_left_the_oplog_during_normal_operation_is_a_lost_position() -> Result<()> {
    let made = history();
    let server = made.serve_without(|seconds| seconds < 8)?;
    // Restarts at an entry, at a time, and inside the transaction itself.
    let at = Begin::at(StartAt::At(Timestamp::new(9, 0)));
    for begin in [after(8, 0), at, after(15, 12_000)] {
        let error = failed(Stream::live(&server, begin).await)?;
        let stop = Directive::Stop(ExitCode::SourcePositionLost);
        ensure!(error.directive() == stop, "{error}");
        let text = error.to_string();
        ensure!(
            text.contains("committed at 15:1") && text.contains("at 7:1"),
            "{text}"
        );
    }
    let oplog = made.without(|seconds| seconds < 8);
    let error = failed(Stream::dump(&oplog, after(8, 0)).await)?;
    let ProducerError::PositionLost(lost) = error else {
        anyhow::bail!("{error}");
    };
    ensure!(matches!(*lost, PositionLost::ChainGone { .. }), "{lost}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lags_is_asked_again_by_the_next_session() -> Result<()> {
    let server = history().serve_without(|seconds| seconds == 11)?;
    let error = failed(Stream::live(&server, Begin::oldest()).await)?;
    ensure!(error.directive() == Directive::Retry, "{error}");
    ensure!(
        matches!(error, ProducerError::Behind(ts) if ts.seconds == 11),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retryable_write_with_prev_op_time_ends_the_walk() -> Result<()> {
    let mut made = Made::default();
    made.retryable(1, 1, part(1, 0))
        .retryable(2, 2, part(1, 1))
        .operations(3, 3..5, doc! {}, part(1, 2))
        .operations(4, 5..6, doc! { "prepare": true }, part(2, 0))
        // A prepared transaction is not continued by an `applyOps`.
        .operations(5, 6..8, doc! {}, part(2, 4));
    let stream = Stream::live(&made.serve()?, Begin::oldest()).await?;
    ensure!(ids(&stream)? == [1, 2, 3, 4, 6, 7], "{:?}", ids(&stream));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_what_was_not_prepared_is_refused() -> Result<()> {
    let mut made = Made::default();
    made.insert(1, 1)
        .command(2, doc! { "commitTransaction": 1 }, part(1, 1));
    let error = failed(Stream::live(&made.serve()?, Begin::oldest()).await)?;
    ensure!(
        error.directive() == Directive::Stop(ExitCode::StoppedByPolicy),
        "{error}"
    );
    ensure!(
        error.to_string().contains("names no prepared entry"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_replaced_by_another_history_is_a_lost_position() -> Result<()> {
    let mut made = Made::default();
    let other =
        doc! { "prevOpTime": { "ts": bson::Timestamp { time: 1, increment: 1 }, "t": TERM - 1 } };
    made.operations(1, 1..3, doc! { "partialTxn": true }, part(1, 0))
        .insert(2, 9)
        .operations_with(3, 3..4, other);
    for begin in [Begin::oldest(), after(2, 0)] {
        let error = failed(Stream::live(&made.serve()?, begin).await)?;
        ensure!(matches!(error, ProducerError::PositionLost(_)), "{error}");
    }
    Ok(())
}
