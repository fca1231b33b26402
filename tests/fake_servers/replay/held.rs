//! Documents that are held, because a unique index of the target refuses them.

use anyhow::Result;
use oplog_consumer::worker::applied::{Applied, Refusal};
use oplog_consumer::worker::assignment::Token;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::Model;
use oplog_relay_kit::services::wait_until_async;
use tokio::time::timeout;

use super::{LIMIT, NOT_PRIMARY, Scene, entry};

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

/// Returns entries of another program: their identities are the same in every partition.
fn entries_of(log: &[(&str, i32, &str)]) -> Result<Vec<(EntryId, Vec<u8>)>> {
    let mut entries = Vec::new();
    for (ord, (op, id, o)) in (0..).zip(log) {
        let ts = Timestamp::default();
        entries.push((EntryId { ts, ord }, entry(ts, op, *id, o)?));
    }
    Ok(entries)
}

/// Applies the batch of partition 1 while that of partition 0 waits for the reply to its update.
async fn apply_both(
    scene: &Scene,
    first: &[(&str, i32, &str)],
    second: &[(&str, i32, &str)],
) -> Result<[Vec<Refusal>; 2]> {
    scene.server.hold("update", "c");
    let (first, second) = (entries_of(first)?, entries_of(second)?);
    let applying_second = async {
        let is_held = async || scene.server.held() > 0;
        wait_until_async("the update to be sent", LIMIT, is_held).await?;
        let applied = timeout(LIMIT, scene.apply_entries_in(1, &second)).await;
        scene.server.resume();
        applied?
    };
    let both = tokio::join!(scene.apply_entries_in(0, &first), applying_second);
    let ((applied_first, first), (applied_second, second)) = (both.0?, both.1?);
    assert_eq!(
        (applied_first, applied_second),
        (Applied::Done, Applied::Done)
    );
    Ok([first, second])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_document_belongs_to_the_partition_of_its_own_entry() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(UNIQUE)?;
    scene.on_target(r#"{"insert":"c","documents":[{"_id":1,"k":1}]}"#)?;
    let first = [
        ("i", 2, r#"{"_id":2,"k":1}"#),
        ("u", 1, r#"{"$v":1,"$set":{"x":1}}"#),
    ];
    apply_both(&scene, &first, &[("i", 3, r#"{"_id":3,"k":3}"#)]).await?;
    assert_eq!(scene.sink.held_since("t", 0), Some(0));
    assert_eq!(scene.sink.held_since("t", 1), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_entries_with_the_same_identity_become_a_dead_letter_each() -> Result<()> {
    const INVALID: i32 = 121;
    let scene = Scene::with(Model::default(), &["--dead-letter=write"]).await?;
    scene.on_target(r#"{"insert":"c","documents":[{"_id":1}]}"#)?;
    for _ in 0..2 {
        scene.server.refuse_next("insert", INVALID);
    }
    let first = [
        ("i", 2, r#"{"_id":2}"#),
        ("u", 1, r#"{"$v":1,"$set":{"x":1}}"#),
    ];
    let refused = apply_both(&scene, &first, &[("i", 3, r#"{"_id":3}"#)]).await?;
    for (refused, document) in refused.iter().zip(["_id 2", "_id 3"]) {
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].text.contains(document), "{refused:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_be_applied_to_a_held_document_is_a_dead_letter() -> Result<()> {
    let scene = Scene::with(Model::default(), &["--dead-letter=write"]).await?;
    scene.on_target(UNIQUE)?;
    // The array would have more elements than a document can hold.
    let inapplicable = r#"{"$v":1,"$set":{"r.9000000":1}}"#;
    let (applied, refused) = scene
        .apply_all(&[
            ("i", 1, r#"{"_id":1,"k":1}"#),
            ("i", 2, r#"{"_id":2,"k":1,"r":[]}"#),
            ("u", 2, inapplicable),
            ("u", 2, r#"{"$v":1,"$set":{"x":1}}"#),
        ])
        .await?;
    assert_eq!(applied, Applied::Done);
    let entries: Vec<_> = refused.iter().map(|it| it.id.ts.increment).collect();
    assert_eq!(entries, [3], "{refused:?}");
    scene.done(&[("d", 1, r#"{"_id":1}"#)]).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":2,"k":1,"r":[],"x":1}"#]);
    Ok(())
}
