//! Replay into a sharded cluster: collections that are sharded by anything but `_id`.

mod crash;
mod created;
mod facts;
mod held;
mod random;
mod refused;
mod zeros;

use anyhow::Result;
use oplog_consumer::worker::applied::Applied;
use oplog_relay_kit::model::{Model, ModelServer, Version};

use super::{Scene, UNAUTHORIZED};

/// Shard keys of the collection.
const KEYS: [&str; 5] = [
    r#"{"k":1}"#,
    r#"{"k":"hashed"}"#,
    r#"{"o.k":1}"#,
    r#"{"k":1,"o.k":1}"#,
    r#"{"k":1,"_id":1}"#,
];
const VERSIONS: [Version; 4] = [Version::V4_4, Version::V5_0, Version::V7_0, Version::V8_0];
const SHARDS: usize = 3;

/// Operations of every kind. Each may change the shard key, or leaves it as it is.
const HISTORY: &[(&str, i32, &str)] = &[
    ("i", 1, r#"{"_id":1,"k":1,"o":{"k":1},"r":[1,2,3],"x":0}"#),
    ("i", 2, r#"{"_id":2,"k":2,"o":{"k":2},"x":0}"#),
    ("i", 3, r#"{"_id":3,"x":0}"#),
    (
        "i",
        4,
        r#"{"_id":4,"k":"a","o":{"k":null},"t":{"$timestamp":{"t":0,"i":0}}}"#,
    ),
    ("u", 1, r#"{"$v":2,"diff":{"u":{"x":1}}}"#),
    ("u", 2, r#"{"$v":1,"$set":{"x":1,"y.z":2}}"#),
    (
        "u",
        1,
        r#"{"$v":2,"diff":{"u":{"k":10},"so":{"u":{"k":11}}}}"#,
    ),
    ("u", 1, r#"{"$v":2,"diff":{"sr":{"a":true,"l":1}}}"#),
    ("u", 3, r#"{"$v":1,"$set":{"k":7,"o.k":8}}"#),
    ("u", 3, r#"{"$v":1,"$set":{"x":2}}"#),
    ("u", 2, r#"{"_id":2,"k":20,"o":{"k":21},"w":1}"#),
    ("u", 2, r#"{"$v":2,"diff":{"i":{"n":1}}}"#),
    ("u", 4, r#"{"_id":4,"k":"a","o":{"k":null},"z":1}"#),
    ("u", 3, r#"{"$v":1,"$unset":{"k":true}}"#),
    ("d", 1, r#"{"_id":1}"#),
    ("i", 1, r#"{"_id":1,"k":100,"o":{"k":5}}"#),
    ("u", 1, r#"{"$v":2,"diff":{"u":{"o":{"k":6}}}}"#),
    ("i", 5, r#"{"_id":5,"k":5}"#),
    ("d", 5, r#"{"_id":5}"#),
];

/// Returns a scene whose target is a cluster with the collection sharded by this key.
async fn sharded(version: Version, key: &str, more: &[&str]) -> Result<Scene> {
    let scene = Scene::with(Model::cluster(version, SHARDS), more).await?;
    shard(&scene, key)?;
    Ok(scene)
}

fn shard(scene: &Scene, key: &str) -> Result<()> {
    scene.on_target(&format!(r#"{{"shardCollection":"db.c","key":{key}}}"#))
}

/// Returns the documents that a replica set has after these operations.
async fn expected(log: &[(&str, i32, &str)]) -> Result<Vec<String>> {
    let scene = Scene::new("count").await?;
    scene.done(log).await?;
    scene.documents()
}

#[tokio::test]
async fn every_kind_of_write_has_the_effect_that_it_has_on_a_replica_set() -> Result<()> {
    let expected = expected(HISTORY).await?;
    for key in KEYS {
        for version in VERSIONS {
            for at_once in [1, 3, HISTORY.len()] {
                let scene = sharded(version, key, &[]).await?;
                for batch in HISTORY.chunks(at_once) {
                    scene.done(batch).await?;
                }
                let found = scene.documents()?;
                assert_eq!(found, expected, "{key}, {version:?}, {at_once} at once");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn documents_move_in_transactions_or_without_them() -> Result<()> {
    for transactions in [true, false] {
        let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
        if !transactions {
            scene.server.model().refuse_transactions();
        }
        scene.done(&HISTORY[..4]).await?;
        scene
            .done(&[
                ("u", 1, r#"{"$v":2,"diff":{"u":{"k":2}}}"#),
                ("u", 2, r#"{"_id":2,"k":3}"#),
                ("u", 3, r#"{"$v":1,"$set":{"k":4}}"#),
            ])
            .await?;
        scene
            .done(&[(
                "u",
                1,
                r#"{"$v":1,"$set":{"k":3},"$unset":{"o":true,"r":true}}"#,
            )])
            .await?;
        let expected = [
            r#"{"_id":1,"k":3,"x":0}"#,
            r#"{"_id":2,"k":3}"#,
            r#"{"_id":3,"x":0,"k":4}"#,
            r#"{"_id":4,"k":"a","o":{"k":null},"t":{"$timestamp":{"t":0,"i":0}}}"#,
        ];
        assert_eq!(scene.documents()?, expected);
        assert_eq!(scene.metrics.moved_documents.get(), 4);
        let committed = scene.server.model().committed();
        assert_eq!(committed > 0, transactions);
        assert!(notes(&scene).is_empty());
    }
    Ok(())
}

/// A stretch that is applied again finds documents with later shard keys.
#[tokio::test]
async fn a_stretch_that_is_applied_again_stores_no_document_twice() -> Result<()> {
    let expected = expected(HISTORY).await?;
    for key in KEYS {
        for begin in 0..HISTORY.len() {
            for end in [begin + 1, HISTORY.len()] {
                let scene = sharded(Version::V6_0, key, &[]).await?;
                scene.done(HISTORY).await?;
                for stretch in [&HISTORY[begin..end], &HISTORY[begin..]] {
                    scene.rewind(u32::try_from(begin)?);
                    scene.done(stretch).await?;
                    assert_unique(&scene)?;
                }
                assert_eq!(scene.documents()?, expected, "{key}: {begin} to {end}");
            }
        }
    }
    Ok(())
}

/// The new owner of a partition applies again what another member has applied.
#[tokio::test]
async fn members_that_apply_the_same_entries_store_no_document_twice() -> Result<()> {
    let expected = expected(HISTORY).await?;
    let first = sharded(Version::V6_0, r#"{"k":"hashed"}"#, &[]).await?;
    let second = Scene::on(std::sync::Arc::clone(&first.server), &[]).await?;
    for end in 1..=HISTORY.len() {
        first.rewind(0);
        second.rewind(0);
        first.done(&HISTORY[..end]).await?;
        second.done(&HISTORY[..end / 2]).await?;
        second.done(&HISTORY[end / 2..end]).await?;
        assert_unique(&first)?;
    }
    assert_eq!(first.documents()?, expected);
    Ok(())
}

/// An update of a document that is stored twice is refused, because it cannot say which one it concerns.
/// A whole document replaces both.
#[tokio::test]
async fn a_document_that_another_client_has_stored_twice_is_reported_and_replaced() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
    scene.on_target(r#"{"insert":"c","documents":[{"_id":1,"k":1},{"_id":1,"k":2}]}"#)?;
    let update = [("u", 1, r#"{"$v":1,"$set":{"x":1}}"#)];
    let reason = scene.refused(&update).await?;
    assert!(reason.contains("different shard keys"), "{reason}");
    scene.done(&[("u", 1, r#"{"_id":1,"k":3}"#)]).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":3}"#]);
    scene.on_target(r#"{"insert":"c","documents":[{"_id":1,"k":4}]}"#)?;
    scene.done(&[("d", 1, r#"{"_id":1}"#)]).await?;
    assert!(scene.documents()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn updates_of_missing_documents_follow_the_policy_on_a_cluster() -> Result<()> {
    let update = [("u", 1, r#"{"$v":1,"$set":{"k":2,"x":1}}"#)];
    let key = r#"{"k":1}"#;
    let scene = sharded(Version::V6_0, key, &[]).await?;
    scene.done(&update).await?;
    assert_eq!(scene.metrics.unmatched_updates.get(), 1);
    assert!(scene.documents()?.is_empty());
    let scene = sharded(Version::V6_0, key, &["--unmatched=upsert"]).await?;
    scene.done(&update).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2,"x":1}"#]);
    let scene = sharded(Version::V6_0, key, &["--unmatched=dead-letter"]).await?;
    let (applied, refused) = scene.apply_all(&update).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1));
    let scene = sharded(Version::V6_0, key, &["--unmatched=stop"]).await?;
    let reason = scene.refused(&update).await?;
    assert!(reason.contains("found no document"), "{reason}");
    Ok(())
}

/// No value of a shard key is an array.
#[tokio::test]
async fn a_document_that_the_cluster_refuses_is_refused_with_its_reason() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &["--dead-letter=write"]).await?;
    let log = [
        ("i", 1, r#"{"_id":1,"k":[1,2]}"#),
        ("i", 2, r#"{"_id":2,"k":1}"#),
    ];
    let (applied, refused) = scene.apply_all(&log).await?;
    assert_eq!(applied, Applied::Done);
    let texts: Vec<&str> = refused
        .iter()
        .map(|refusal| refusal.text.as_str())
        .collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("array"), "{texts:?}");
    assert_eq!(scene.documents()?, [r#"{"_id":2,"k":1}"#]);
    Ok(())
}

/// Fails if two documents have the same `_id`.
fn assert_unique(scene: &Scene) -> Result<()> {
    let mut ids = Vec::new();
    for document in scene.documents()? {
        let document: serde_json::Value = serde_json::from_str(&document)?;
        ids.push(document["_id"].to_string());
    }
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "{:?}", scene.documents()?);
    Ok(())
}

/// Returns the documents that are kept while they move.
fn notes(scene: &Scene) -> Vec<Vec<u8>> {
    let state = scene.server.model().state();
    state.get("oplog_relay.moving").cloned().unwrap_or_default()
}

/// Returns a scene with another member of the group on the same target.
async fn another(scene: &Scene) -> Result<Scene> {
    let server: std::sync::Arc<ModelServer> = std::sync::Arc::clone(&scene.server);
    let scene = Scene::on(server, &[]).await?;
    scene.sink.recall_held("t", 0).await?;
    Ok(scene)
}
