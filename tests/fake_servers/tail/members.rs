//! A tail over replica set members that do not have all entries of the set.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::Client;
use oplog_producer::error::ProducerError;
use oplog_producer::source::oplog::{Oplog as Source, Tail};
use oplog_producer::source::{SourceEvent, StartAt};
use oplog_relay_core::position::Position;
use oplog_relay_kit::stub::{Oplog, Server, Shape};
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::watch;
use tokio::task::JoinSet;

const ENTRIES: u64 = 2_000;

fn serve() -> Result<Server> {
    Ok(Server::start(Oplog::generate(ENTRIES, Shape::Mixed))?)
}

/// A tail in its own task, and the events that it sends.
struct Running {
    events: Receiver<SourceEvent>,
    task: JoinSet<Result<(), ProducerError>>,
}

impl Running {
    fn start(tail: Tail) -> Self {
        let (sender, events) = mpsc::channel(4);
        let mut task = JoinSet::new();
        task.spawn(async move { tail.run(&sender, &Shutdown::manual(), |_| {}).await });
        Self { events, task }
    }

    async fn event(&mut self) -> Result<SourceEvent> {
        if let Some(event) = self.events.recv().await {
            return Ok(event);
        }
        let ended = self
            .task
            .join_next()
            .await
            .context("no tail is running")??;
        ended?;
        anyhow::bail!("the tail ended")
    }

    /// Reads until the given number of entries arrived.
    async fn entries(&mut self, count: u64) -> Result<()> {
        let mut found = 0;
        while found < count {
            if let SourceEvent::Batch(batch) = self.event().await? {
                found += u64::try_from(batch.documents()?.count())?;
            }
        }
        ensure!(found == count, "{found} entries");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_behind_its_set_is_not_caught_up() -> Result<()> {
    let server = serve()?;
    server.fall_behind(10);
    let client = Client::with_uri_str(server.uri()).await?;
    let tail = Tail::begin(Source::new(&client), StartAt::Oldest).await?;
    let mut tail = Running::start(tail);
    tail.entries(ENTRIES).await?;
    // The first event may result from the silence before an empty reply, the others result from
    // empty replies.
    for _ in 0..3 {
        let event = tail.event().await?;
        ensure!(matches!(event, SourceEvent::Idle), "{event:?}");
    }
    server.fall_behind(0);
    while !matches!(tail.event().await?, SourceEvent::CaughtUp) {}
    // The tail queries the majority again, because a member may stop at any time.
    server.fall_behind(10);
    while !matches!(tail.event().await?, SourceEvent::Idle) {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_behind_its_set_is_reported_after_the_configured_time() -> Result<()> {
    let server = serve()?;
    server.fall_behind(10);
    let client = Client::with_uri_str(server.uri()).await?;
    let tail = Tail::begin(Source::new(&client), StartAt::Oldest).await?;
    let tail = tail.reporting_stalls_after(Duration::from_millis(50));
    let (reasons_in, mut reasons) = watch::channel(None);
    let (sender, mut events) = mpsc::channel(4);
    let mut parts = JoinSet::new();
    parts.spawn(async move {
        let failing = |reason: Option<&str>| drop(reasons_in.send(reason.map(str::to_owned)));
        tail.run(&sender, &Shutdown::manual(), failing).await
    });
    parts.spawn(async move {
        while events.recv().await.is_some() {}
        Ok(())
    });
    let reported = reasons.wait_for(|reason: &Option<String>| reason.is_some());
    let reported = tokio::time::timeout(Duration::from_secs(30), reported).await??;
    let reason = reported.as_deref().unwrap_or_default();
    ensure!(reason.contains("has returned no entries"), "{reason}");
    drop(reported);
    server.fall_behind(0);
    let recovered = reasons.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_secs(30), recovered).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_a_new_member_does_not_have_is_read_from_the_primary() -> Result<()> {
    let server = serve()?;
    server.shorten_secondaries(1_500);
    let number = 700;
    let start = StartAt::After(Position {
        ts: server.oplog().time(number),
        term: server.oplog().term(),
        ord: 0,
    });
    let uri = format!("{}&readPreference=secondaryPreferred", server.uri());
    let client = Client::with_uri_str(uri).await?;
    let tail = Tail::begin(Source::new(&client), start).await?;
    Running::start(tail).entries(ENTRIES - number - 1).await?;
    // The secondaries are synced again after the tail began.
    server.shorten_secondaries(0);
    let tail = Tail::begin(Source::new(&client), start).await?;
    server.shorten_secondaries(1_500);
    Running::start(tail).entries(ENTRIES - number - 1).await
}
