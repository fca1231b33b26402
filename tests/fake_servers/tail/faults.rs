//! A tail whose source fails.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, ensure};
use mongodb::Client;
use oplog_producer::error::{Directive, ProducerError};
use oplog_producer::source::oplog::{Oplog as Source, Tail};
use oplog_producer::source::{SourceEvent, StartAt};
use oplog_relay_kit::stub::{Fault, Oplog, Server, Shape};
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const ENTRIES: u64 = 2_000;

/// Tails until all entries have arrived or the tail ends, and checks the order of the entries.
async fn tail(faults: &[(u64, Fault)]) -> Result<Result<(), ProducerError>> {
    let oplog = Oplog::generate(ENTRIES, Shape::Mixed);
    let server = Server::start_failing(oplog, faults)?;
    let client = Client::with_uri_str(server.uri()).await?;
    let (shutdown, (events, mut given)) = (Shutdown::manual(), mpsc::channel(4));
    let tail = Tail::begin(Source::new(&client), StartAt::Oldest).await?;
    let signal = shutdown.clone();
    let mut running = JoinSet::new();
    let fails = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&fails);
    let note = move |reason: Option<&str>| {
        if let Ok(mut noted) = noted.lock() {
            noted.push(reason.is_some());
        }
    };
    running.spawn(async move { tail.run(&events, &signal, note).await });
    let mut next = 0;
    while let Some(event) = given.recv().await {
        let SourceEvent::Batch(batch) = event else {
            continue;
        };
        for entry in batch.documents()? {
            let expected = server
                .oplog()
                .entry(next)
                .context("more entries than the oplog has")?;
            ensure!(entry?.as_bytes() == expected, "entry {next} differs");
            next += 1;
        }
        if next == ENTRIES {
            shutdown.trigger();
        }
    }
    let ended = running.join_next().await.context("no tail is running")??;
    ensure!(server.has_failed(), "a requested failure has not occurred");
    ensure!(ended.is_err() || next == ENTRIES, "{next} entries");
    // The health state must show the failure, and then the recovery.
    let fails = fails.lock().map_err(|_| anyhow!("a panic"))?;
    let seen = (fails.first(), fails.last());
    ensure!(
        ended.is_err() || seen == (Some(&true), Some(&false)),
        "{fails:?}"
    );
    Ok(ended)
}

/// Returns the fault once near the start, twice before one entry, and once before the last entry.
fn faults(fault: Fault) -> Vec<(u64, Fault)> {
    [101, 500, 500, 1_999]
        .map(|number| (number, fault))
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_whose_cursor_is_gone_continues_after_the_last_entry() -> Result<()> {
    for code in [43, 175, 237, 314] {
        tail(&faults(Fault::Code(code))).await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_continues_after_elections_and_shutdowns() -> Result<()> {
    for code in [10107, 11600, 11602, 189, 91, 13435, 13436] {
        tail(&[(700, Fault::Code(code))]).await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_continues_after_an_operator_interrupted_it() -> Result<()> {
    const INTERRUPTED: i32 = 11601;
    tail(&faults(Fault::Code(INTERRUPTED))).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_continues_after_lost_connections() -> Result<()> {
    tail(&faults(Fault::Hangup)).await?.map_err(Into::into)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_overtaken_by_a_truncation_continues_while_its_position_exists() -> Result<()> {
    tail(&faults(Fault::Code(136))).await??;
    // The last entry that was fetched is the first one that remains.
    tail(&[(700, Fault::Truncated(136, 699))]).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_whose_position_is_truncated_ends_with_three() -> Result<()> {
    let ended = tail(&[(700, Fault::Truncated(136, 900))]).await?;
    let error = ended.err().context("the tail continued")?;
    ensure!(matches!(error, ProducerError::PositionLost(_)), "{error}");
    let stop = Directive::Stop(ExitCode::SourcePositionLost);
    ensure!(error.directive() == stop, "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_stops_at_a_permanent_error() -> Result<()> {
    let ended = tail(&[(700, Fault::Code(13))]).await?;
    ensure!(matches!(ended, Err(ProducerError::Source(_))), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_entry_is_queried_again_after_a_truncation() -> Result<()> {
    let server = Server::start(Oplog::generate(ENTRIES, Shape::Mixed))?;
    let client = Client::with_uri_str(server.uri()).await?;
    let source = Source::new(&client);
    let oldest = source.oldest().await?;
    server.fail_ends(&[136, 136]);
    ensure!(source.oldest().await? == oldest);
    // When the query keeps failing, another session tries again.
    server.fail_ends(&[136; 5]);
    let error = source.oldest().await.err().context("the query succeeded")?;
    ensure!(error.directive() == Directive::Retry, "{error}");
    ensure!(error.to_string().contains("on request"), "{error}");
    Ok(())
}
