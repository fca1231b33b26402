//! Documents that are held, because a unique index of the target refuses them.

use anyhow::Result;
use oplog_consumer::worker::applied::Applied;
use oplog_consumer::worker::assignment::Token;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_kit::services::wait_until_async;

use super::{LIMIT, NOT_PRIMARY, Scene};

const UNIQUE: &str =
    r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_held_document_survives_a_failure_and_keeps_its_zeros() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(UNIQUE)?;
    let zero = r#""t":{"$timestamp":{"t":0,"i":0}}"#;
    let waiting = format!(r#"{{"_id":2,"k":1,{zero}}}"#);
    scene
        .done(&[("i", 1, r#"{"_id":1,"k":1}"#), ("i", 2, &waiting)])
        .await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":1}"#]);
    // The first attempt to write the held document fails for a reason other than the index.
    scene.server.fail_next("update", NOT_PRIMARY);
    scene.done(&[("d", 1, r#"{"_id":1}"#)]).await?;
    assert_eq!(scene.documents()?, [waiting]);
    Ok(())
}

/// A held document belongs to the partition's next owner. If the old owner kept it, every later
/// write of the document would only change the held document.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_held_by_a_batch_that_was_abandoned_is_forgotten() -> Result<()> {
    let mut scene = Scene::new("count").await?;
    scene.on_target(UNIQUE)?;
    scene.done(&[("i", 1, r#"{"_id":1,"k":1}"#)]).await?;
    scene.server.hold("insert", "c");
    let log = [
        ("i", 2, r#"{"_id":2,"k":1}"#),
        ("u", 1, r#"{"$v":1,"$set":{"x":1}}"#),
    ];
    let revoked = async {
        let is_held = async || scene.server.held() > 0;
        wait_until_async("the insert to be sent", LIMIT, is_held).await?;
        scene.token.invalidate();
        scene.server.resume();
        anyhow::Ok(())
    };
    let (applied, revoked) = tokio::join!(scene.apply(&log), revoked);
    revoked?;
    assert_eq!(applied?, Applied::Abandoned);
    scene.sink.forget_held("t", 0);

    // The partition is assigned to this member again, after writes of another member.
    scene.token = Token::default();
    scene.done(&[("i", 2, r#"{"_id":2,"k":5}"#)]).await?;
    let found = scene.documents()?;
    assert!(
        found.contains(&r#"{"_id":2,"k":5}"#.to_owned()),
        "{found:?}"
    );
    Ok(())
}

/// Each of three documents receives the value of the next one, and the target is ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_document_is_taken_over_by_the_next_owner() -> Result<()> {
    let scene = Scene::new("stop").await?;
    scene.on_target(UNIQUE)?;
    let documents = r#"[{"_id":1,"k":1,"x":1},{"_id":2,"k":2,"x":2},{"_id":3,"k":3,"x":3}]"#;
    scene.on_target(&format!(r#"{{"insert":"c","documents":{documents}}}"#))?;
    let first = ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#);
    let second = ("u", 2, r#"{"$v":1,"$set":{"k":3}}"#);
    scene.done(&[first, second]).await?;
    // The second document was parked to free its value for the first, and waits for the value of
    // the third.
    let left = [r#"{"_id":1,"k":2,"x":1}"#, r#"{"_id":3,"k":3,"x":3}"#];
    assert_eq!(scene.documents()?, left);
    assert_eq!(scene.sink.held_since("t", 0), Some(1));

    // The owner is killed; the next one starts at the entry of the first held document.
    let Scene { server, .. } = scene;
    let scene = Scene::on(server, &["--unmatched", "stop"]).await?;
    scene.sink.recall_held("t", 1).await?;
    assert_eq!(scene.sink.held_since("t", 1), None, "another partition");
    scene.sink.recall_held("t", 0).await?;
    assert_eq!(scene.sink.held_since("t", 0), Some(1));
    let third = ("u", 3, r#"{"$v":1,"$set":{"k":1}}"#);
    scene.done(&[second, third]).await?;
    let whole = [
        r#"{"_id":1,"k":2,"x":1}"#,
        r#"{"_id":3,"k":1,"x":3}"#,
        r#"{"_id":2,"k":3,"x":2}"#,
    ];
    let mut found = scene.documents()?;
    found.sort_unstable();
    let mut whole = whole.map(str::to_owned);
    whole.sort_unstable();
    assert_eq!(found, whole);
    assert_eq!(scene.sink.held_since("t", 0), None);
    let state = scene.server.model().state();
    let notes = state.get(&format!("{CATALOG_DB}.held"));
    assert!(notes.is_none_or(Vec::is_empty), "a note remains");
    Ok(())
}
