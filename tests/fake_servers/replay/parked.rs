//! Documents that a replay removes for a moment, to free a value of a unique index for another document.

use anyhow::{Result, ensure};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_kit::services::wait_until_async;

use super::{LIMIT, Scene};

/// A document that another partition holds is not parked.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_document_of_the_same_partition_is_parked() -> Result<()> {
    let scene = Scene::new("stop").await?;
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
    )?;
    let documents = r#"[{"_id":1,"k":1},{"_id":2,"k":2},{"_id":3,"k":3}]"#;
    scene.on_target(&format!(r#"{{"insert":"c","documents":{documents}}}"#))?;
    // The other partition holds the second document.
    let update = ("u", 2, r#"{"$v":1,"$set":{"k":3}}"#);
    scene.done_in(1, &[update]).await?;
    ensure!(scene.sink.held_since("t", 1) == Some(0));
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    let left = [
        r#"{"_id":1,"k":1}"#,
        r#"{"_id":2,"k":2}"#,
        r#"{"_id":3,"k":3}"#,
    ];
    ensure!(scene.documents()? == left, "{:?}", scene.documents()?);
    // The partition that holds the document may park it.
    scene.sink.forget_held("t", 0);
    scene
        .done_in(1, &[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    let left = [r#"{"_id":1,"k":2}"#, r#"{"_id":3,"k":3}"#];
    ensure!(scene.documents()? == left, "{:?}", scene.documents()?);
    Ok(())
}

/// Returns a target whose document 2 is held, because document 3 has its new value. The next update
/// gives document 1 the value with which document 2 is stored.
async fn holding_two() -> Result<Scene> {
    let scene = Scene::new("stop").await?;
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
    )?;
    let documents = r#"[{"_id":1,"k":1},{"_id":2,"k":2,"v":1},{"_id":3,"k":3}]"#;
    scene.on_target(&format!(r#"{{"insert":"c","documents":{documents}}}"#))?;
    scene
        .done(&[("u", 2, r#"{"$v":1,"$set":{"k":3}}"#)])
        .await?;
    Ok(scene)
}

/// Another client changes the document between its read and its removal. The changed document must
/// not be lost, whether a field was changed or added.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_changes_before_its_removal_is_not_parked() -> Result<()> {
    let changes = [
        (r#"{"v":2}"#, r#"{"_id":2,"k":2,"v":2}"#),
        (r#"{"added":1}"#, r#"{"_id":2,"k":2,"v":1,"added":1}"#),
    ];
    for (change, changed) in changes {
        change_while_parking(change, changed).await?;
    }
    Ok(())
}

async fn change_while_parking(change: &str, changed: &str) -> Result<()> {
    let scene = holding_two().await?;
    ensure!(scene.sink.held_since("t", 0) == Some(0));
    // The note about the parked document is written between its read and its removal.
    scene.server.hold("update", "held");
    let parking = async { scene.done(&[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)]).await };
    let changing = async {
        wait_until_async("the note", LIMIT, async || scene.server.held() > 0).await?;
        let update = format!(r#"[{{"q":{{"_id":2}},"u":{{"$set":{change}}}}}]"#);
        scene.on_target(&format!(r#"{{"update":"c","updates":{update}}}"#))?;
        scene.server.resume();
        anyhow::Ok(())
    };
    let (parked, done) = tokio::join!(parking, changing);
    parked.and(done)?;
    let left = [r#"{"_id":1,"k":1}"#, changed, r#"{"_id":3,"k":3}"#];
    ensure!(scene.documents()? == left, "{:?}", scene.documents()?);
    let state = scene.server.model().state();
    let notes = state.get(&format!("{CATALOG_DB}.held"));
    ensure!(notes.is_none_or(Vec::is_empty), "a note is left");
    Ok(())
}

/// The removal is applied, but its reply is lost, and the repeated command finds nothing: the note
/// is then the only copy of the document, which the next owner of the partition takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_whose_removal_has_no_reply_stays_parked() -> Result<()> {
    let scene = holding_two().await?;
    scene.server.lose_reply_next("delete");
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    let left = [r#"{"_id":1,"k":2}"#, r#"{"_id":3,"k":3}"#];
    ensure!(scene.documents()? == left, "{:?}", scene.documents()?);
    let state = scene.server.model().state();
    let notes = state.get(&format!("{CATALOG_DB}.held"));
    ensure!(notes.map_or(0, Vec::len) == 1, "the note is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_the_target_refuses_for_a_moment_is_repeated() -> Result<()> {
    const WRITES_BLOCKED: i32 = 371;
    let scene = holding_two().await?;
    scene.server.refuse_next("delete", WRITES_BLOCKED);
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    let left = [r#"{"_id":1,"k":2}"#, r#"{"_id":3,"k":3}"#];
    ensure!(scene.documents()? == left, "{:?}", scene.documents()?);
    Ok(())
}
