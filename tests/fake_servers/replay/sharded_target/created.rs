//! Collections that the replay creates sharded (`--shard-collections`).

use super::*;

const FLAG: &str = r#"--shard-collections=db.c={"k":"hashed"}"#;
const CREATE: (&str, i32, &str) = ("c", 0, r#"{"create":"c"}"#);

fn key_of(scene: &Scene) -> Option<String> {
    let model = scene.server.model();
    model.shard_key("db.c").map(ToString::to_string)
}

/// Returns the names of the indexes of the collection.
fn indexes(scene: &Scene) -> Vec<String> {
    let described = &scene.server.model().collections()["db"][0];
    let indexes = described.get_array("indexes").into_iter().flatten();
    let names = indexes.filter_map(|index| index.as_document()?.get_str("name").ok());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_collection_is_sharded_at_its_creation_and_after_a_drop() -> Result<()> {
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[FLAG]).await?;
    let insert = ("i", 1, r#"{"_id":1,"k":1}"#);
    scene.done(&[CREATE, insert]).await?;
    assert_eq!(key_of(&scene), Some(r#"{ "k": "hashed" }"#.to_owned()));
    scene.done(&[("c", 0, r#"{"drop":"c"}"#)]).await?;
    assert_eq!(key_of(&scene), None);
    scene.done(&[CREATE, insert]).await?;
    assert!(key_of(&scene).is_some());
    scene.done(&[("u", 1, r#"{"_id":1,"k":2}"#)]).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2}"#]);
    Ok(())
}

/// The topics of other programs have no `create`, and a group that starts in the middle of a topic does
/// not read it.
#[tokio::test]
async fn a_collection_without_a_create_command_is_sharded_at_its_first_write() -> Result<()> {
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[FLAG]).await?;
    scene.done(&[("i", 1, r#"{"_id":1,"k":1}"#)]).await?;
    assert!(key_of(&scene).is_some());
    // A collection that has documents is left as it is.
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[FLAG]).await?;
    scene.on_target(r#"{"insert":"c","documents":[{"_id":1,"k":1}]}"#)?;
    scene.done(&[("u", 1, r#"{"_id":1,"k":2}"#)]).await?;
    assert_eq!(key_of(&scene), None);
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2}"#]);
    Ok(())
}

/// After a crash between the command and its note, the command runs again.
#[tokio::test]
async fn a_create_that_is_repeated_leaves_the_collection_sharded() -> Result<()> {
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[FLAG]).await?;
    scene.server.fail_next("shardCollection", UNAUTHORIZED);
    let reason = scene.refused(&[CREATE]).await?;
    assert!(reason.contains("clusterManager"), "{reason}");
    assert_eq!(key_of(&scene), None);
    for _ in 0..2 {
        scene.rewind(0);
        scene.done(&[CREATE]).await?;
        assert!(key_of(&scene).is_some());
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_not_a_cluster_is_refused() -> Result<()> {
    let error = Scene::with(Model::default(), &[FLAG]).await.err();
    let reason = format!("{:#}", error.expect("the flag needs a cluster"));
    assert!(reason.contains("mongos"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn a_unique_index_without_the_shard_key_is_refused_or_made_non_unique() -> Result<()> {
    let index = r#"{"createIndexes":"c","v":2,"key":{"u":1},"name":"u_1","unique":true}"#;
    let log = [CREATE, ("b", 0, index)];
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[FLAG]).await?;
    let reason = scene.refused(&log).await?;
    assert!(reason.contains("must begin with the shard key"), "{reason}");
    let flags = [FLAG, "--refused-options=leave-out"];
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &flags).await?;
    scene.done(&log).await?;
    let collections = scene.server.model().collections();
    let shown = format!("{:?}", collections["db"]);
    assert!(
        shown.contains("u_1") && !shown.contains("unique"),
        "{shown}"
    );
    Ok(())
}

/// Of the two commands, a target may lack only `enableSharding`, which has no effect since 6.0.
#[tokio::test]
async fn a_target_without_the_command_that_shards_a_collection_is_refused() -> Result<()> {
    const NO_COMMAND: i32 = 59;
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[FLAG]).await?;
    scene.server.fail_next("shardCollection", NO_COMMAND);
    let reason = scene.refused(&[CREATE]).await?;
    assert!(reason.contains("cannot be sharded"), "{reason}");
    scene.server.fail_next("enableSharding", NO_COMMAND);
    scene.rewind(0);
    scene.done(&[CREATE]).await?;
    assert!(key_of(&scene).is_some());
    Ok(())
}

/// The cluster creates an index of the shard key when it shards a collection.
#[tokio::test]
async fn an_index_of_the_source_on_the_shard_key_is_the_index_of_the_cluster() -> Result<()> {
    let flag = r#"--shard-collections=db.c={"k":1}"#;
    let insert = ("i", 1, r#"{"_id":1,"k":1}"#);
    for (version, keeps) in [(Version::V4_4, false), (Version::V6_0, true)] {
        for name in ["k_1", "other"] {
            let scene = Scene::with(Model::cluster(version, SHARDS), &[flag]).await?;
            let index = format!(r#"{{"createIndexes":"c","v":2,"key":{{"k":1}},"name":"{name}"}}"#);
            scene.done(&[CREATE, ("b", 0, &index), insert]).await?;
            assert_eq!(indexes(&scene), ["_id_", "k_1"], "{name}");
            let drop = format!(r#"{{"dropIndexes":"c","index":"{name}"}}"#);
            scene.done(&[("b", 0, &drop)]).await?;
            let is_left = keeps || name == "other";
            assert_eq!(indexes(&scene).contains(&"k_1".to_owned()), is_left);
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_index_that_cannot_replace_the_one_of_the_shard_key_is_refused_with_a_way_out()
-> Result<()> {
    let flag = r#"--shard-collections=db.c={"k":1}"#;
    let index = r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1","unique":true}"#;
    let scene = Scene::with(Model::cluster(Version::V6_0, SHARDS), &[flag]).await?;
    let reason = scene.refused(&[CREATE, ("b", 0, index)]).await?;
    assert!(
        reason.contains("create another index that begins with the shard key"),
        "{reason}"
    );
    Ok(())
}
