//! Moves that the target refuses for good, with `--dead-letter write`.

use std::time::Duration;

use anyhow::Context as _;

use super::*;

const DEAD_LETTER: &[&str] = &["--dead-letter=write"];
/// `DocumentValidationFailure`
const INVALID: i32 = 121;
/// `IllegalOperation`
const ILLEGAL: i32 = 20;
const UNIQUE: &str =
    r#"{"createIndexes":"c","indexes":[{"name":"k_1_u_1","key":{"k":1,"u":1},"unique":true}]}"#;

#[tokio::test]
async fn a_refused_move_leaves_the_document_as_it_was() -> Result<()> {
    let before = r#"{"_id":1,"k":1,"x":1}"#;
    for transactions in [true, false] {
        let scene = sharded(Version::V6_0, r#"{"k":1}"#, DEAD_LETTER).await?;
        if !transactions {
            scene.server.model().refuse_transactions();
        }
        scene.done(&[("i", 1, before)]).await?;
        // Both entries are part of one change.
        scene.server.refuse_next("insert", INVALID);
        let both = [
            ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#),
            ("u", 1, r#"{"$v":2,"diff":{"u":{"x":2}}}"#),
        ];
        let (applied, refused) = scene.apply_all(&both).await?;
        assert_eq!((applied, refused.len()), (Applied::Done, 2), "{refused:?}");
        assert_eq!(scene.documents()?, [before], "{transactions}");
        // The cluster refuses an array because of the shard key.
        let array = [("u", 1, r#"{"$v":1,"$set":{"k":[1,2]}}"#)];
        let (applied, refused) = scene.apply_all(&array).await?;
        assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
        assert_eq!(scene.documents()?, [before], "{transactions}");
        assert!(notes(&scene).is_empty(), "{transactions}");
    }
    Ok(())
}

/// The writes of a collection with a unique index keep their order, so each change is sent at once.
#[tokio::test]
async fn updates_after_a_refused_move_find_the_document_where_it_was() -> Result<()> {
    for transactions in [true, false] {
        let scene = sharded(Version::V6_0, r#"{"k":1}"#, DEAD_LETTER).await?;
        scene.on_target(UNIQUE)?;
        if !transactions {
            scene.server.model().refuse_transactions();
        }
        scene
            .done(&[("i", 1, r#"{"_id":1,"k":1,"u":"a"}"#)])
            .await?;
        scene.server.refuse_next("insert", INVALID);
        let log = [
            ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#),
            ("u", 1, r#"{"$v":1,"$set":{"x":5}}"#),
        ];
        let (applied, refused) = scene.apply_all(&log).await?;
        assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
        let expected = [r#"{"_id":1,"k":1,"u":"a","x":5}"#];
        assert_eq!(scene.documents()?, expected, "{transactions}");
        assert_eq!(scene.metrics.unmatched_updates.get(), 0);
    }
    Ok(())
}

/// The document is held, and a later entry gives it a shard key that the cluster refuses.
#[tokio::test]
async fn a_held_document_that_the_cluster_keeps_refusing_becomes_a_dead_letter() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, DEAD_LETTER).await?;
    scene.on_target(UNIQUE)?;
    let log = [
        ("i", 1, r#"{"_id":1,"k":1,"u":"a"}"#),
        ("i", 2, r#"{"_id":2,"k":1,"u":"a"}"#),
        ("u", 2, r#"{"$v":1,"$set":{"k":[1,2]}}"#),
    ];
    let (applied, refused) = scene.apply_all(&log).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":1,"u":"a"}"#]);
    Ok(())
}

#[tokio::test]
async fn a_code_that_may_concern_every_write_stops_the_replay() -> Result<()> {
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), DEAD_LETTER).await?;
    scene.done(&[("i", 1, r#"{"_id":1,"k":1}"#)]).await?;
    for _ in 0..10 {
        scene.server.refuse_next("update", ILLEGAL);
    }
    let reason = scene
        .refused(&[("u", 1, r#"{"$v":1,"$set":{"x":1}}"#)])
        .await?;
    assert!(reason.contains("code 20"), "{reason}");
    Ok(())
}

/// The second write is refused again and again, and the first one is acknowledged.
#[tokio::test]
async fn an_acknowledged_operator_is_not_applied_again_when_another_write_is_misrouted()
-> Result<()> {
    let flags = ["--dead-letter=write", "--unrepeatable=apply"];
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &flags).await?;
    scene
        .done(&[
            ("i", 1, r#"{"_id":1,"k":1,"x":1}"#),
            ("i", 2, r#"{"_id":2,"k":2}"#),
        ])
        .await?;
    let log = [
        ("u", 1, r#"{"$inc":{"x":1}}"#),
        ("u", 2, r#"{"$v":1,"$set":{"k":[1,2]}}"#),
    ];
    let (applied, refused) = scene.apply_all(&log).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
    assert_eq!(
        scene.documents()?,
        [r#"{"_id":1,"k":1,"x":2}"#, r#"{"_id":2,"k":2}"#]
    );
    Ok(())
}

/// Without `--dead-letter` the replay stops. The document must not be missing meanwhile.
#[tokio::test]
async fn a_move_that_stops_the_replay_leaves_the_document_as_it_was() -> Result<()> {
    let before = r#"{"_id":1,"k":1,"x":1}"#;
    for transactions in [true, false] {
        let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
        if !transactions {
            scene.server.model().refuse_transactions();
        }
        scene.done(&[("i", 1, before)]).await?;
        scene.server.refuse_next("insert", INVALID);
        let update = [("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)];
        let reason = scene.refused(&update).await?;
        assert!(reason.contains("code 121"), "{reason}");
        assert_eq!(scene.documents()?, [before], "{transactions}");
        assert!(notes(&scene).is_empty(), "{transactions}");
        // The operator has removed the cause, and the next process applies the entry again.
        let next = another(&scene).await?;
        next.rewind(1);
        next.done(&update).await?;
        assert_eq!(next.documents()?, [r#"{"_id":1,"k":2,"x":1}"#]);
    }
    Ok(())
}

/// Returns a scene with a unique index, whose target refuses transactions.
async fn without_transactions(flags: &[&str]) -> Result<Scene> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, flags).await?;
    scene.server.model().refuse_transactions();
    scene.on_target(UNIQUE)?;
    Ok(scene)
}

/// The document is held, without its stored form, until the other one is deleted.
#[tokio::test]
async fn a_held_document_that_stops_the_replay_is_stored_as_it_was() -> Result<()> {
    let scene = without_transactions(&[]).await?;
    let before = r#"{"_id":2,"k":2,"u":"a"}"#;
    scene
        .done(&[("i", 1, r#"{"_id":1,"k":1,"u":"a"}"#), ("i", 2, before)])
        .await?;
    scene
        .done(&[("u", 2, r#"{"$v":1,"$set":{"k":1}}"#)])
        .await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":1,"u":"a"}"#]);
    for _ in 0..2 {
        scene.server.refuse_next("update", INVALID);
    }
    let reason = scene.refused(&[("d", 1, r#"{"_id":1}"#)]).await?;
    assert!(reason.contains("code 121"), "{reason}");
    assert_eq!(scene.documents()?, [before]);
    Ok(())
}

/// The document is held without its stored form, and another document takes the values of that form.
#[tokio::test]
async fn a_held_document_that_is_given_up_is_not_held_again() -> Result<()> {
    let scene = without_transactions(DEAD_LETTER).await?;
    let other = r#"{"_id":2,"k":2,"u":"a"}"#;
    scene
        .done(&[("i", 1, r#"{"_id":1,"k":1,"u":"a"}"#), ("i", 2, other)])
        .await?;
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    let taken = r#"{"_id":3,"k":1,"u":"a"}"#;
    scene.done(&[("i", 3, taken)]).await?;
    assert!(scene.sink.held_since("t", 0).is_some());
    // The worker reaches a command.
    assert_eq!(scene.sink.refuse_held("t", 0)?.len(), 1);
    scene.sink.give_up_held("t", 0).await?;
    assert_eq!(scene.sink.held_since("t", 0), None);
    assert_eq!(scene.documents()?, [other, taken]);
    // The previous content is not lost.
    assert_eq!(notes(&scene).len(), 1);
    Ok(())
}

/// Another lane of the same batch fails after a document was deleted and before it is inserted.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_another_lane_does_not_leave_a_document_deleted() -> Result<()> {
    const SHUTDOWN_IN_PROGRESS: i32 = 91;
    const UPDATES: i32 = 70;
    let before = r#"{"_id":1,"k":1,"x":0}"#;
    let mut interrupted = 0;
    // Some of these documents are in another lane than the one that moves.
    for other in 2..8 {
        let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
        scene.server.model().refuse_transactions();
        // The cluster refuses the transaction of this move, so the next move begins without one.
        let first = ("u", 1, r#"{"$v":1,"$set":{"k":1}}"#);
        scene
            .done(&[("i", 1, r#"{"_id":1,"k":0,"x":0}"#), first])
            .await?;
        let updates: Vec<String> = (0..UPDATES)
            .map(|x| format!(r#"{{"$v":1,"$set":{{"x":{x},"k":2}}}}"#))
            .collect();
        let insert = format!(r#"{{"_id":{other},"k":1}}"#);
        let mut log = vec![("i", other, insert.as_str())];
        log.extend(updates.iter().map(|update| ("u", 1, update.as_str())));
        scene.server.hold("delete", "c");
        // The insert is repeated for a while, until the document has been deleted.
        scene.server.fail_next("insert", SHUTDOWN_IN_PROGRESS);
        scene.server.fail_next("insert", SHUTDOWN_IN_PROGRESS);
        scene.server.refuse_next("insert c", INVALID);
        let mut applying = std::pin::pin!(scene.apply(&log));
        let both = async {
            while scene.server.held() == 0 || scene.server.requested() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let ended = tokio::select! {
            ended = &mut applying => Some(ended),
            () = both => {
                interrupted += 1;
                // A replay that does not wait for the reply to the delete ends now.
                tokio::time::timeout(Duration::from_millis(500), &mut applying).await.ok()
            }
        };
        scene.server.resume();
        let ended = match ended {
            Some(ended) => ended,
            None => applying.await,
        };
        let reason = format!("{:#}", ended.err().context("the batch was applied")?);
        assert!(reason.contains("code 121"), "{reason}");
        assert_eq!(scene.documents()?, [before], "{other}");
        assert!(notes(&scene).is_empty(), "{other}");
    }
    assert!(interrupted > 0, "no document is in another lane");
    Ok(())
}
