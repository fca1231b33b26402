//! What the replay finds out about its target: whether it is a cluster, and the shard keys of its
//! collections.

use super::*;

/// The first `find` would fail and stop the replay.
#[tokio::test]
async fn a_replica_set_is_not_asked_for_shard_keys() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.server.fail_next("find", UNAUTHORIZED);
    scene
        .done(&[
            ("i", 1, r#"{"_id":1,"k":1}"#),
            ("i", 2, r#"{"_id":2,"k":1}"#),
        ])
        .await?;
    scene
        .done(&[
            ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#),
            ("d", 2, r#"{"_id":2}"#),
        ])
        .await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2}"#]);
    Ok(())
}

#[tokio::test]
async fn collections_that_are_not_sharded_or_sharded_by_id_are_written_as_before() -> Result<()> {
    for key in [None, Some(r#"{"_id":1}"#), Some(r#"{"_id":"hashed"}"#)] {
        let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[]).await?;
        if let Some(key) = key {
            shard(&scene, key)?;
        }
        scene.done(HISTORY).await?;
        assert_eq!(scene.documents()?, expected(HISTORY).await?, "{key:?}");
        assert_eq!(scene.metrics.moved_documents.get(), 0);
    }
    Ok(())
}

/// An operator shards the collection while the replay runs, and drops it later.
#[tokio::test]
async fn a_shard_key_that_is_out_of_date_is_read_again() -> Result<()> {
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[]).await?;
    let first = [
        ("i", 1, r#"{"_id":1,"k":1}"#),
        ("i", 2, r#"{"_id":2,"k":2}"#),
    ];
    scene.done(&first).await?;
    scene.on_target(r#"{"createIndexes":"c","indexes":[{"name":"k_1","key":{"k":1}}]}"#)?;
    shard(&scene, r#"{"k":1}"#)?;
    scene
        .done(&[
            ("u", 1, r#"{"_id":1,"k":2}"#),
            ("u", 2, r#"{"$v":1,"$set":{"k":3}}"#),
        ])
        .await?;
    let moved = [r#"{"_id":1,"k":2}"#, r#"{"_id":2,"k":3}"#];
    assert_eq!(scene.documents()?, moved);
    scene.on_target(r#"{"drop":"c"}"#)?;
    scene.rewind(0);
    scene.done(&first).await?;
    scene.done(&[("u", 1, r#"{"_id":1,"k":5}"#)]).await?;
    assert_eq!(
        scene.documents()?,
        [r#"{"_id":1,"k":5}"#, r#"{"_id":2,"k":2}"#]
    );
    Ok(())
}

#[tokio::test]
async fn a_shard_key_that_cannot_be_read_is_reported_with_the_right_that_is_missing() -> Result<()>
{
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[]).await?;
    scene.server.model().hide_config();
    scene.done(&[("i", 1, r#"{"_id":1,"k":1}"#)]).await?;
    scene.done(&[("u", 1, r#"{"_id":1,"k":2}"#)]).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2}"#]);
    scene.on_target(r#"{"createIndexes":"c","indexes":[{"name":"k_1","key":{"k":1}}]}"#)?;
    shard(&scene, r#"{"k":1}"#)?;
    let reason = scene.refused(&[("u", 1, r#"{"_id":1,"k":3}"#)]).await?;
    assert!(reason.contains("clusterMonitor"), "{reason}");
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2}"#]);
    Ok(())
}
