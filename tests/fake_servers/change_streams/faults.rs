//! Errors of a change stream, sources that cannot be read through one, and the choice of the mode.

use anyhow::{Result, ensure};
use oplog_producer::error::{Directive, ProducerError};
use oplog_producer::position_lost::PositionLost;
use oplog_producer::source::origin::Origin;
use oplog_relay_kit::event_server::{EventServer, Events, Role};
use oplog_relay_kit::model::{Scenario, State};
use oplog_relay_runtime::exit::ExitCode;

use super::{Begin, MODE, Until, config, read, serve};

const MONGOS: Role = Role::Mongos([5, 0, 7]);
const PRIMARY: Role = Role::Primary([7, 0, 0]);

fn empty(role: Role) -> Result<EventServer> {
    Ok(EventServer::start(Events::default(), State::new(), role)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_oplog_and_an_unknown_token_are_a_lost_position() -> Result<()> {
    let server = serve(&Scenario::sharded(), MONGOS)?;
    let stream = config(&server.uri(), &[])?;
    let all = read(&stream, Begin::first(), Until::CaughtUp)
        .await?
        .entries;
    let last = &all[100];
    let expect_lost = |error: ProducerError, part: &str| {
        let text = error.to_string();
        ensure!(
            matches!(&error, ProducerError::PositionLost(lost) if matches!(**lost, PositionLost::StreamEnded { .. })),
            "{text}"
        );
        ensure!(
            error.directive() == Directive::Stop(ExitCode::SourcePositionLost),
            "{text}"
        );
        ensure!(
            text.contains(part) && text.contains(&last.id.ts.to_string()),
            "{text}"
        );
        Ok(())
    };
    server.truncate(200);
    let lost = read(&stream, last.after(), Until::CaughtUp)
        .await
        .unwrap_err();
    expect_lost(lost, "286")?;
    // The oplog may also be truncated while the stream is read.
    server.truncate(0);
    server.fail("getMore", 286);
    let lost = read(&stream, last.after(), Until::CaughtUp)
        .await
        .unwrap_err();
    expect_lost(lost, "286")?;
    let mut foreign = last.after();
    if let Some(point) = &mut foreign.point {
        point.token = r#"{"_data":"82AA"}"#.to_owned();
    }
    let lost = read(&stream, foreign, Until::CaughtUp).await.unwrap_err();
    expect_lost(lost, "280")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_change_streams_is_refused_with_advice() -> Result<()> {
    for (code, part) in [
        (40573, "standalone"),
        (40324, "--source-mode oplog"),
        (13, "changeStream"),
    ] {
        let server = empty(PRIMARY)?;
        server.fail("aggregate", code);
        let stream = config(&server.uri(), &[MODE])?;
        let refused = read(&stream, Begin::first(), Until::CaughtUp)
            .await
            .unwrap_err();
        let text = refused.to_string();
        ensure!(
            refused.directive() == Directive::Stop(ExitCode::Usage),
            "{text}"
        );
        ensure!(text.contains(part), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_follows_from_the_source() -> Result<()> {
    // The user may not read the oplog of this replica set.
    for role in [MONGOS, PRIMARY] {
        let server = empty(role)?;
        let origin = Box::pin(Origin::of(&config(&server.uri(), &[])?)).await?;
        ensure!(origin.is_change_stream(), "{role:?}");
    }
    let server = empty(MONGOS)?;
    let stream = config(&server.uri(), &["--source-mode=oplog"])?;
    let refused = Box::pin(Origin::of(&stream)).await.unwrap_err().to_string();
    ensure!(refused.contains("--source-mode change-stream"), "{refused}");
    Ok(())
}
