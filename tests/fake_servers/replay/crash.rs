//! Crashes at a step of a replay: the sink is dropped while the target holds the reply to a command, or
//! has not executed it.

use std::time::{Duration, Instant};

use super::*;

/// A step of a replay: the name of a command, and its collection.
pub(super) type Step = (&'static str, &'static str);

const ZERO: &str = r#"{"$timestamp":{"t":0,"i":0}}"#;

/// Applies a batch until the target holds the reply to a step. Returns false if the batch has no such
/// step.
pub(super) async fn crash_after(
    scene: &Scene,
    step: Step,
    log: &[(&str, i32, &str)],
) -> Result<bool> {
    scene.server.hold(step.0, step.1);
    crash_when(scene, &|| scene.server.held() > 0, log).await
}

/// Applies a batch until the target receives the command of a step, which it never executes. Returns
/// false if the batch has no such step.
pub(super) async fn crash_before(
    scene: &Scene,
    step: Step,
    log: &[(&str, i32, &str)],
) -> Result<bool> {
    scene.server.block(step.0, step.1);
    crash_when(scene, &|| scene.server.blocked() > 0, log).await
}

async fn crash_when(
    scene: &Scene,
    is_reached: &(dyn Fn() -> bool + Sync),
    log: &[(&str, i32, &str)],
) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    let reached = async {
        while !is_reached() {
            assert!(Instant::now() < deadline, "the step was not reached");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let crashed = tokio::select! {
        applied = scene.apply(log) => {
            assert_eq!(applied?, Applied::Done);
            false
        }
        () = reached => true,
    };
    scene.server.resume();
    Ok(crashed)
}

/// The document and its zero timestamps are too large for one command, if they are sent separately.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_document_is_stored_with_its_zero_timestamps_at_once() -> Result<()> {
    let scene = Scene::new("stop").await?;
    let large = "x".repeat(9 << 20);
    let before = format!(r#"{{"_id":1,"r":[1,2],"t":{ZERO},"x":"{large}"}}"#);
    scene.done(&[("i", 1, &before)]).await?;
    let update = [(
        "u",
        1,
        r#"{"$v":2,"diff":{"i":{"n":1},"sr":{"a":true,"l":1}}}"#,
    )];
    assert!(crash_after(&scene, ("update", "c"), &update).await?);
    let next = Scene::on(Arc::clone(&scene.server), &["--unmatched=stop"]).await?;
    next.rewind(1);
    next.done(&update).await?;
    let after = format!(r#"{{"_id":1,"r":[1],"t":{ZERO},"x":"{large}","n":1}}"#);
    assert!(
        next.documents()? == [after],
        "the document is not as it was"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_document_is_stored_with_its_zero_timestamps_at_once() -> Result<()> {
    let scene = Scene::new("stop").await?;
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
    )?;
    let before = format!(r#"{{"_id":1,"k":1,"t":{ZERO}}}"#);
    scene
        .done(&[("i", 1, &before), ("i", 2, r#"{"_id":2,"k":2}"#)])
        .await?;
    let update = ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#);
    scene.done(&[update]).await?;
    assert_eq!(scene.sink.held_since("t", 0), Some(0));
    let delete = ("d", 2, r#"{"_id":2}"#);
    assert!(crash_after(&scene, ("update", "c"), &[delete]).await?);
    let next = Scene::on(Arc::clone(&scene.server), &["--unmatched=stop"]).await?;
    next.rewind(2);
    next.done(&[update, delete]).await?;
    let after = format!(r#"{{"_id":1,"k":2,"t":{ZERO}}}"#);
    assert_eq!(next.documents()?, [after]);
    Ok(())
}

/// FerretDB 1.x accepts no update pipelines.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_pipelines_gets_zero_timestamps_in_a_second_statement() -> Result<()> {
    const NO_PIPELINES: i32 = 9;
    let model = Model::default();
    let server = ModelServer::start(model)?;
    server.refuse_next("update", NO_PIPELINES);
    let scene = Scene::on(server, &["--unmatched=stop"]).await?;
    let before = format!(r#"{{"_id":1,"r":[1,2],"t":{ZERO}}}"#);
    scene.done(&[("i", 1, &before)]).await?;
    scene
        .done(&[("u", 1, r#"{"$v":2,"diff":{"sr":{"a":true,"l":1}}}"#)])
        .await?;
    let after = format!(r#"{{"_id":1,"r":[1],"t":{ZERO}}}"#);
    assert_eq!(scene.documents()?, [after]);
    Ok(())
}
