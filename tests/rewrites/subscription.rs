//! The namespaces of a group, which its members share.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser as _;
use oplog_consumer::args::{Arguments, Command};
use oplog_consumer::config::ReplayConfig;
use oplog_consumer::error::ConsumerError;
use oplog_consumer::metrics::Metrics;
use oplog_consumer::sink::mongo::MongoSink;
use oplog_consumer::status::Readiness;
use oplog_relay_core::runtime::exit::ExitCode;
use oplog_relay_core::runtime::http::Health;
use oplog_relay_core::runtime::shutdown::Shutdown;
use oplog_relay_tests::model::{Model, ModelServer};

async fn join(
    target: &ModelServer,
    group: &str,
    flags: &[&str],
) -> Result<Result<(), ConsumerError>> {
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
    let joined = MongoSink::connect(&config, metrics, readiness, Shutdown::manual()).await;
    Ok(joined.map(drop))
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
        let error = refused.err().context("it joined")?;
        let told = error.text();
        ensure!(error.exit_code() == ExitCode::Usage, "{told}");
        for part in ["bank,shop", "--change-subscription", "full sync"] {
            ensure!(told.contains(part), "{part}: {told}");
        }
    }
    // Another group has its own.
    join(&target, "h", all).await??;
    join(&target, "g", &["--change-subscription"]).await??;
    join(&target, "g", all).await??;
    ensure!(
        join(&target, "g", shop).await?.is_err(),
        "the old set joined"
    );
    Ok(())
}
