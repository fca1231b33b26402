//! Indexes that refuse documents while entries are applied again after a rewind.

use anyhow::{Context, Result, ensure};
use oplog_consumer::replay::suspended_indexes;
use oplog_consumer::worker::applied::Applied;
use oplog_consumer::worker::batch::Batch;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_kit::model::{Model, Version};

use super::{NS, Scene};

const UNIQUE: (&str, i32, &str) = (
    "b",
    0,
    r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1","unique":true}"#,
);
const SPHERE: (&str, i32, &str) = (
    "c",
    0,
    r#"{"createIndexes":"c","v":2,"key":{"place":"2dsphere"},"name":"place_2dsphere"}"#,
);
const HERE: &str = r#"{"type":"Point","coordinates":[7.5,47]}"#;

const NOTHING: Batch<'static> = Batch {
    topic: "t",
    partition: 0,
    source: "rs0",
    entries: &[],
};

/// Returns the names of the collection's indexes.
fn indexes(scene: &Scene) -> Vec<String> {
    let collections = scene.server.model().collections();
    let here = collections.get("db").into_iter().flatten();
    let here = here.filter(|described| described.get_str("name").ok() == Some("c"));
    let indexes = here.filter_map(|described| described.get_array("indexes").ok());
    let specs = indexes.flatten().filter_map(|index| index.as_document());
    let names = specs.filter_map(|spec| spec.get_str("name").ok().map(str::to_owned));
    names.filter(|name| name != "_id_").collect()
}

fn notes(scene: &Scene) -> usize {
    let state = scene.server.model().state();
    let notes = state.get(&format!("{CATALOG_DB}.suspended_indexes"));
    notes.map_or(0, Vec::len)
}

/// Applies each entry in a separate batch, so that the held documents are tried again after each.
async fn one_by_one(scene: &Scene, log: &[(&str, i32, &str)]) -> Result<()> {
    for entry in log {
        scene.done(std::slice::from_ref(entry)).await?;
    }
    Ok(())
}

/// Two documents have the same value one after the other. The index is created after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_index_is_built_again_after_the_rewound_entries() -> Result<()> {
    let scene = Scene::new("stop").await?;
    let log = [
        ("i", 1, r#"{"_id":1,"k":1}"#),
        ("i", 2, r#"{"_id":2,"k":1}"#),
        ("d", 1, r#"{"_id":1}"#),
        UNIQUE,
        ("d", 2, r#"{"_id":2}"#),
        ("i", 3, r#"{"_id":3,"k":1}"#),
    ];
    scene.done(&log).await?;
    ensure!(indexes(&scene) == ["k_1"]);

    scene.rewind(0);
    one_by_one(&scene, &log).await?;
    ensure!(scene.documents()? == [r#"{"_id":3,"k":1}"#]);
    ensure!(indexes(&scene).is_empty() && notes(&scene) == 1);
    ensure!(scene.sink.has_suspended("t", 0) && !scene.sink.has_suspended("t", 1));
    let suspended = suspended_indexes(scene.sink.client(), "g").await?;
    ensure!(suspended == ["db.c index k_1"], "{suspended:?}");
    // The owner is killed; the next one has nothing to apply.
    let Scene { server, .. } = scene;
    let scene = Scene::on(server, &["--unmatched", "stop"]).await?;
    scene.sink.recall_held("t", 0).await?;
    let restored = scene.sink.restore_due("t", 0, None, &scene.token).await?;
    ensure!(restored == Applied::Done);
    ensure!(indexes(&scene) == ["k_1"] && notes(&scene) == 0);
    ensure!(!scene.sink.has_suspended("t", 0));
    Ok(())
}

/// A member is killed after it has written the note and before it has dropped the index.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_whose_index_was_never_dropped_is_harmless() -> Result<()> {
    const ILLEGAL: i32 = 20;
    let scene = Scene::new("stop").await?;
    let log = [
        ("i", 1, r#"{"_id":1,"k":1}"#),
        ("d", 1, r#"{"_id":1}"#),
        UNIQUE,
        ("i", 2, r#"{"_id":2,"k":1}"#),
    ];
    scene.done(&log).await?;
    scene.rewind(0);
    scene.server.fail_next("dropIndexes", ILLEGAL);
    let refused = scene.refused(&log[..1]).await?;
    ensure!(refused.contains("dropping an index"), "{refused}");
    ensure!(indexes(&scene) == ["k_1"] && notes(&scene) == 1);

    let Scene { server, .. } = scene;
    let scene = Scene::on(server, &["--unmatched", "stop"]).await?;
    scene.sink.recall_held("t", 0).await?;
    one_by_one(&scene, &log).await?;
    ensure!(indexes(&scene).is_empty(), "{:?}", indexes(&scene));
    scene.sink.restore_suspended().await?;
    ensure!(indexes(&scene) == ["k_1"] && notes(&scene) == 0);
    ensure!(scene.documents()? == [r#"{"_id":2,"k":1}"#]);
    Ok(())
}

/// The index is older than the entries that are applied again, and the value is used again after a
/// command that ran.
#[tokio::test(flavor = "multi_thread")]
async fn held_documents_pass_a_command_that_ran_and_the_next_one_finds_the_index() -> Result<()> {
    let scene = Scene::new("stop").await?;
    let create = ("b", 0, r#"{"create":"c"}"#);
    let change = ("b", 0, r#"{"collMod":"c","validationLevel":"off"}"#);
    let log = [
        create,
        UNIQUE,
        ("i", 1, r#"{"_id":1,"k":1}"#),
        change,
        ("d", 1, r#"{"_id":1}"#),
        ("i", 2, r#"{"_id":2,"k":1}"#),
    ];
    scene.done(&log).await?;
    scene.rewind(2);
    scene.done(&log[2..3]).await?;
    ensure!(scene.sink.held_since("t", 0) == Some(0));
    ensure!(
        indexes(&scene) == ["k_1"],
        "the index is older and stays for now"
    );
    // The worker reaches the command.
    let released = scene
        .sink
        .release_held(&NOTHING, true, &scene.token)
        .await?;
    ensure!(released == Applied::Done && scene.sink.held_since("t", 0).is_none());
    ensure!(indexes(&scene).is_empty() && notes(&scene) == 1);
    scene.done(&log[3..]).await?;
    ensure!(scene.documents()? == [r#"{"_id":2,"k":1}"#]);
    // A command that has not run yet shows that the target is no longer ahead.
    let hide = r#"{"collMod":"c","index":{"name":"k_1","hidden":true}}"#;
    scene.done(&[("b", 0, hide)]).await?;
    ensure!(indexes(&scene) == ["k_1"] && notes(&scene) == 0);
    let text = format!("{:?}", scene.server.model().collections()["db"]);
    ensure!(text.contains("hidden"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_built_again_stops_at_the_end_and_names_the_remedy() -> Result<()> {
    let scene = Scene::new("stop").await?;
    let log = [
        ("i", 1, r#"{"_id":1,"k":1}"#),
        ("d", 1, r#"{"_id":1}"#),
        UNIQUE,
        ("i", 2, r#"{"_id":2,"k":1}"#),
    ];
    scene.done(&log).await?;
    scene.rewind(0);
    one_by_one(&scene, &log).await?;
    scene.on_target(r#"{"insert":"c","documents":[{"_id":99,"k":1}]}"#)?;
    // Other partitions may still be behind, so the restore is tried again later.
    let restored = scene.sink.restore_due("t", 0, None, &scene.token).await?;
    ensure!(restored == Applied::Done && notes(&scene) == 1);
    let error = scene.sink.restore_suspended().await.err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    ensure!(
        text.contains("k_1") && text.contains("suspended_indexes"),
        "{text}"
    );
    // When a collection is dropped, its suspended indexes go with it.
    scene.done(&[("b", 0, r#"{"drop":"c"}"#)]).await?;
    ensure!(notes(&scene) == 0);
    scene.sink.restore_suspended().await?;
    ensure!(!scene.server.model().state().contains_key(NS));
    Ok(())
}

/// The source corrects the document before it creates the index.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_an_index_refuses_is_held_until_it_is_corrected() -> Result<()> {
    for (index, bad, set, code) in [
        (
            r#""place":"2dsphere""#,
            r#""place":{"type":"Point"}"#,
            HERE,
            16755,
        ),
        (r#""place":"2d""#, r#""place":["a","b"]"#, "[1,2]", 16804),
        (r#""place":"hashed""#, r#""place":[1]"#, "1", 16766),
        (r#""place":1,"b":1"#, r#""place":[1],"b":[1]"#, "1", 171),
        (r#""place.0":1"#, r#""place":[1,{"0":1}]"#, "[1]", 16746),
        (r#""text":"text""#, r#""language":1,"place":0"#, "1", 17261),
    ] {
        let scene = Scene::of(Model::of(Version::V5_0), "stop").await?;
        let index =
            format!(r#"{{"createIndexes":"c","indexes":[{{"key":{{{index}}},"name":"i"}}]}}"#);
        scene.on_target(&index)?;
        let inserted = format!(r#"{{"_id":1,{bad}}}"#);
        scene
            .done(&[("i", 1, &inserted), ("i", 2, r#"{"_id":2}"#)])
            .await?;
        ensure!(
            scene.documents()? == [r#"{"_id":2}"#],
            "{code}: {:?}",
            scene.documents()?
        );
        ensure!(scene.sink.held_since("t", 0) == Some(0), "{code}");
        let correction = if code == 17261 {
            r#"{"$v":1,"$set":{"language":"en"}}"#.to_owned()
        } else {
            format!(r#"{{"$v":1,"$set":{{"place":{set}}}}}"#)
        };
        scene.done(&[("u", 1, &correction)]).await?;
        ensure!(scene.sink.held_since("t", 0).is_none(), "{code}");
        ensure!(
            scene.documents()?.len() == 2,
            "{code}: {:?}",
            scene.documents()?
        );
        // The same holds for an update of an existing document.
        let update = format!(r#"{{"$v":1,"$set":{{{bad}}}}}"#);
        scene.done(&[("u", 2, &update)]).await?;
        ensure!(scene.sink.held_since("t", 0) == Some(0), "{code}");
        scene.done(&[("u", 2, r#"{"_id":2}"#)]).await?;
        ensure!(scene.sink.held_since("t", 0).is_none(), "{code}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_suspended_for_a_document_that_is_older_than_it() -> Result<()> {
    let scene = Scene::new("stop").await?;
    let corrected = format!(r#"{{"$v":1,"$set":{{"place":{HERE}}}}}"#);
    let log = [
        ("i", 1, r#"{"_id":1,"place":"nowhere"}"#),
        ("i", 2, r#"{"_id":2}"#),
        ("u", 1, &corrected),
        SPHERE,
        ("d", 2, r#"{"_id":2}"#),
    ];
    scene.done(&log).await?;
    ensure!(indexes(&scene) == ["place_2dsphere"]);
    scene.rewind(0);
    scene.done(&log[..1]).await?;
    ensure!(
        scene.sink.held_since("t", 0).is_none(),
        "the document is held"
    );
    ensure!(indexes(&scene).is_empty());
    scene.done(&log[1..]).await?;
    scene.sink.restore_suspended().await?;
    ensure!(indexes(&scene) == ["place_2dsphere"]);
    ensure!(
        scene.documents()? == [format!(r#"{{"_id":1,"place":{HERE}}}"#)],
        "{:?}",
        scene.documents()?
    );
    Ok(())
}

/// The replay did not create the index, so the operator must decide about the refused document.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_the_replay_did_not_create_is_never_dropped() -> Result<()> {
    let scene = Scene::new("stop").await?;
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
    )?;
    scene.on_target(r#"{"insert":"c","documents":[{"_id":9,"k":1}]}"#)?;
    scene.done(&[("i", 1, r#"{"_id":1,"k":1}"#)]).await?;
    for ran in [false, true] {
        let released = scene.sink.release_held(&NOTHING, ran, &scene.token).await?;
        ensure!(released == Applied::Done && scene.sink.held_since("t", 0) == Some(0));
    }
    ensure!(indexes(&scene) == ["k_1"] && notes(&scene) == 0);
    let first = scene.sink.first_held("t", 0).context("not held")?;
    let reason = first.refusal.to_string();
    ensure!(
        reason.contains("code 11000") && reason.contains("k_1"),
        "{reason}"
    );
    Ok(())
}

/// All documents of a batch are held, and accepted later.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_batch_may_be_refused() -> Result<()> {
    const DOCUMENTS: i32 = 400;
    let scene = Scene::new("stop").await?;
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"key":{"place":"2dsphere"},"name":"i"}]}"#,
    )?;
    let whole: Vec<String> = (0..DOCUMENTS)
        .map(|id| format!(r#"{{"_id":{id},"place":"nowhere"}}"#))
        .collect();
    let inserts: Vec<_> = (0..)
        .zip(&whole)
        .map(|(id, o)| ("i", id, o.as_str()))
        .collect();
    scene.done(&inserts).await?;
    ensure!(scene.sink.held_since("t", 0) == Some(0) && scene.documents()?.is_empty());
    let corrected = format!(r#"{{"$v":1,"$set":{{"place":{HERE}}}}}"#);
    let updates: Vec<_> = (0..DOCUMENTS)
        .map(|id| ("u", id, corrected.as_str()))
        .collect();
    scene.done(&updates).await?;
    ensure!(scene.sink.held_since("t", 0).is_none());
    // The same holds for updates of existing documents, which are sent in order.
    let damaged = r#"{"$v":1,"$set":{"place":"nowhere"}}"#;
    let updates: Vec<_> = (0..DOCUMENTS).map(|id| ("u", id, damaged)).collect();
    scene.done(&updates).await?;
    ensure!(scene.sink.held_since("t", 0) == Some(0));
    let updates: Vec<_> = (0..DOCUMENTS)
        .map(|id| ("u", id, corrected.as_str()))
        .collect();
    scene.done(&updates).await?;
    ensure!(scene.documents()?.len() == usize::try_from(DOCUMENTS)?);
    ensure!(scene.sink.held_since("t", 0).is_none());
    Ok(())
}
