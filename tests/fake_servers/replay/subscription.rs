//! The namespaces of a group, which its members share.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser as _;
use oplog_consumer::config::ReplayConfig;
use oplog_consumer::config::arguments::{Arguments, Command};
use oplog_consumer::error::ConsumerError;
use oplog_consumer::replay::MongoSink;
use oplog_consumer::replay::catalog::Subscription;
use oplog_consumer::telemetry::metrics::Metrics;
use oplog_consumer::telemetry::readiness::Readiness;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::shutdown::Shutdown;

use super::{LIMIT, Scene};

/// A member that has joined its group.
struct Member {
    sink: MongoSink,
    subscription: Subscription,
    shutdown: Shutdown,
}

impl Member {
    async fn watch(&self) -> Result<(), ConsumerError> {
        self.sink.watch_subscription(&self.subscription).await
    }
}

async fn join(
    target: &ModelServer,
    group: &str,
    flags: &[&str],
) -> Result<Result<Member, ConsumerError>> {
    let uri = target.uri();
    let common = [
        "oplog-consumer",
        "replay",
        "--brokers=127.0.0.1:1",
        "--topic-prefix=p",
        "--group",
        group,
        "--target",
        &uri,
    ];
    let arguments = Arguments::try_parse_from(common.iter().chain(flags))?;
    let Command::Replay(arguments) = arguments.command else {
        bail!("another command");
    };
    let config = ReplayConfig::check(&arguments)?;
    let metrics = Arc::new(Metrics::new()?);
    let readiness = Arc::new(Readiness::new(Health::default()));
    let shutdown = Shutdown::manual();
    let joined = MongoSink::connect(&config, metrics, readiness, shutdown.clone()).await;
    Ok(joined.map(|sink| Member {
        sink,
        subscription: config.group.subscription,
        shutdown,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_other_namespaces_stops_until_the_group_is_changed() -> Result<()> {
    let target = ModelServer::start(Model::default())?;
    let (shop, all) = (&["--include-namespaces=shop,bank"][..], &[][..]);
    join(&target, "g", shop).await??;
    let (order, again) = ("--include-namespaces=bank", "--include-namespaces=shop");
    join(&target, "g", &[order, again]).await??;
    for others in [
        all,
        &[
            "--include-namespaces=shop,bank",
            "--exclude-namespaces=bank.x",
        ],
    ] {
        let refused = join(&target, "g", others).await?;
        let error = refused.err().context("the member joined")?;
        let text = error.text();
        ensure!(error.exit_code() == ExitCode::Usage, "{text}");
        for part in ["bank,shop", "--change-subscription", "full sync"] {
            ensure!(text.contains(part), "{part}: {text}");
        }
    }
    // Another group has its own subscription.
    join(&target, "h", all).await??;
    join(&target, "g", &["--change-subscription"]).await??;
    join(&target, "g", all).await??;
    ensure!(
        join(&target, "g", shop).await?.is_err(),
        "a member with the old namespaces joined"
    );
    Ok(())
}

/// Members write the note after their first commits, which may be at the same time. The target then
/// refuses one of the two inserts.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_another_member_inserts_at_the_same_time_is_not_a_failure() -> Result<()> {
    const DUPLICATE_KEY: i32 = 11000;
    let target = ModelServer::start(Model::default())?;
    let member = join(&target, "g", &[]).await??;
    target.refuse_next("update", DUPLICATE_KEY);
    member.sink.note_begun("p").await?;
    let state = target.model().state();
    let notes = state.get("oplog_relay.catalog").context("no notes")?;
    let begun = b"g/begun/p";
    let is_noted = |note: &Vec<u8>| note.windows(begun.len()).any(|part| part == begun);
    ensure!(notes.iter().any(is_noted), "the note is missing");
    Ok(())
}

/// The first group has since renamed the collection: if the create ran again, a collection would
/// remain that the source does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_does_not_replay_into_collections_of_another_group() -> Result<()> {
    let first = Scene::new("count").await?;
    let create = [("c", 0, r#"{"create":"c"}"#)];
    first.done(&create).await?;
    let rename = r#"{"renameCollection":"db.c","to":"db.d"}"#;
    first.done(&[("c", 0, rename)]).await?;
    let second = Scene::on(Arc::clone(&first.server), &["--group=h"]).await?;
    let refused = second.refused(&create).await?;
    for part in [
        "group h is new",
        "group g has run",
        "--if-target-not-empty merge",
    ] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    let state = first.server.model().state();
    ensure!(!state.contains_key("db.c"), "{state:?}");
    let merging = ["--group=h", "--if-target-not-empty=merge"];
    Scene::on(Arc::clone(&first.server), &merging)
        .await?
        .done(&create)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_member_ends_when_the_namespaces_are_changed() -> Result<()> {
    let target = ModelServer::start(Model::default())?;
    let old = join(&target, "g", &["--include-namespaces=shop"]).await??;
    let other = join(&target, "h", &[]).await??;
    let new = join(&target, "g", &["--change-subscription"]).await??;
    let ended = tokio::time::timeout(LIMIT, old.watch()).await?;
    let error = ended.err().context("the member continues")?;
    ensure!(error.exit_code() == ExitCode::Usage, "{error}");
    ensure!(error.text().contains("all namespaces"), "{error}");
    for member in [new, other] {
        member.shutdown.trigger();
        member.watch().await?;
    }
    Ok(())
}
