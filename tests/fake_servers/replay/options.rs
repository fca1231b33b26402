//! Options of commands that a target does not know.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Document as Bson, doc};
use oplog_consumer::worker::applied::Applied;
use oplog_relay_core::document::Document;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_kit::model::{Model, Version};

use super::{LIMIT, Scene, UNAUTHORIZED};

/// Returns the commands of `index-options-of-old-servers.bson`. An index that was logged as a
/// document becomes the command that a producer makes of it.
fn commands_of_old_servers() -> Result<Vec<String>> {
    let file = "fixtures/faults/index-options-of-old-servers.bson";
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))?;
    let mut rest = bytes.as_slice();
    let mut commands = Vec::new();
    while !rest.is_empty() {
        let entry = Bson::from_reader(&mut rest)?;
        let mut o = entry.get_document("o")?.clone();
        if entry.get_str("ns")?.ends_with("system.indexes") {
            let mut command = doc! { "createIndexes": "c" };
            o.remove("ns");
            o.remove("_id");
            command.extend(o);
            o = command;
        } else if entry.get_str("op")? == "i" {
            continue;
        }
        let (bytes, mut text) = (o.to_vec()?, Vec::new());
        write_document(Document::new(&bytes)?, Mode::Canonical, &mut text).map(drop)?;
        commands.push(String::from_utf8(text)?);
    }
    Ok(commands)
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_old_servers_are_understood_or_left_out() -> Result<()> {
    let scene = Scene::of(Model::of(Version::V5_0), "count").await?;
    scene.done(&[("i", 1, r#"{"_id":1}"#)]).await?;
    let commands = commands_of_old_servers()?;
    ensure!(commands.len() == 14, "{} commands", commands.len());
    let (before, after) = commands.split_at(6);
    ensure!(after[0].contains("deleteIndexes"), "{}", after[0]);
    for command in before {
        let done = scene.done(&[("c", 0, command)]).await;
        done.with_context(|| command.clone())?;
    }
    let collections = scene.server.model().collections();
    let text = format!("{collections:?}");
    for index in [
        "a_1",
        "_ttl_date_1",
        "accessKey_1_expiration_1",
        "u_1",
        "odd",
    ] {
        ensure!(text.contains(index), "{index}: {text}");
    }
    ensure!(!text.contains("backgroud"), "{text}");
    for command in after {
        let done = scene.done(&[("c", 0, command)]).await;
        done.with_context(|| command.clone())?;
    }
    Ok(())
}

const SPEC: &str = r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1","ofTheFuture":true}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_option_that_may_have_a_meaning_is_left_out_only_on_request() -> Result<()> {
    let scene = Scene::of(Model::of(Version::V5_0), "count").await?;
    let refused = scene.refused(&[("c", 0, SPEC)]).await?;
    for part in ["ofTheFuture", "--refused-options leave-out"] {
        ensure!(refused.contains(part), "{refused}");
    }
    let model = Model::of(Version::V5_0);
    let scene = Scene::with(model, &["--refused-options", "leave-out"]).await?;
    scene.done(&[("c", 0, SPEC)]).await?;
    let text = format!("{:?}", scene.server.model().collections());
    ensure!(
        text.contains("k_1") && !text.contains("ofTheFuture"),
        "{text}"
    );
    let resize = r#"{"collMod":"c","cappedSize":4096}"#;
    scene.done(&[("c", 0, resize)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_the_target_cannot_convert_is_created_again() -> Result<()> {
    let scene = Scene::of(Model::of(Version::V5_0), "count").await?;
    let described = |scene: &Scene| format!("{:?}", scene.server.model().collections());
    scene.on_target(r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1"}]}"#)?;
    let change =
        |field: &str| format!(r#"{{"collMod":"c","index":{{"name":"k_1","{field}":true}}}}"#);
    scene.done(&[("c", 0, &change("prepareUnique"))]).await?;
    let text = described(&scene);
    ensure!(!text.contains("unique"), "{text}");
    // The test's entries have no barrier, and without a barrier a collection counts as partitioned.
    scene.on_target(r#"{"dropIndexes":"c","index":"k_1"}"#)?;
    let made = r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#;
    scene.on_target(made)?;
    let text = described(&scene);
    ensure!(text.contains("unique"), "{text}");
    scene.done(&[("c", 0, &change("forceNonUnique"))]).await?;
    let text = described(&scene);
    ensure!(text.contains("k_1") && !text.contains("unique"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clustered_collection_is_a_plain_one_on_an_older_target() -> Result<()> {
    let scene = Scene::of(Model::of(Version::V5_0), "count").await?;
    let create = r#"{"create":"c","clusteredIndex":{"key":{"_id":1},"unique":true,"name":"x"}}"#;
    scene.done(&[("c", 0, create)]).await?;
    let text = format!("{:?}", scene.server.model().collections());
    ensure!(
        text.contains(r#"String("c")"#) && !text.contains("clusteredIndex"),
        "{text}"
    );
    Ok(())
}

/// The replay stops before the index is dropped, or after that and before it is built.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversion_that_was_interrupted_does_not_lose_the_index() -> Result<()> {
    const CANNOT_CREATE_INDEX: i32 = 67;
    for (command, code) in [
        ("createIndexes", CANNOT_CREATE_INDEX),
        ("dropIndexes", UNAUTHORIZED),
    ] {
        let scene = Scene::of(Model::of(Version::V5_0), "count").await?;
        let described = |scene: &Scene| format!("{:?}", scene.server.model().collections());
        scene.on_target(
            r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
        )?;
        let change = r#"{"collMod":"c","index":{"name":"k_1","forceNonUnique":true}}"#;
        scene.server.fail_next(command, code);
        let reason = scene.refused(&[("c", 0, change)]).await?;
        ensure!(reason.contains("index"), "{reason}");
        ensure!(described(&scene).contains("k_1") == (command == "dropIndexes"));
        scene.rewind(0);
        scene.done(&[("c", 0, change)]).await?;
        let text = described(&scene);
        ensure!(text.contains("k_1") && !text.contains("unique"), "{text}");
        let state = scene.server.model().state();
        let notes = state.get("oplog_relay.suspended_indexes");
        ensure!(notes.is_none_or(Vec::is_empty), "a note remains");
    }
    Ok(())
}

/// The partition is revoked while the target does not accept the note of the index, when the note has been
/// written, or while the target does not drop the index. The next owner may already have built the index.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_owner_does_not_drop_the_index_that_it_was_to_convert() -> Result<()> {
    const SHUTDOWN_IN_PROGRESS: i32 = 91;
    for failing in [Some("update"), Some("dropIndexes"), None] {
        let scene = Scene::of(Model::of(Version::V5_0), "count").await?;
        let described = |scene: &Scene| format!("{:?}", scene.server.model().collections());
        scene.on_target(
            r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
        )?;
        match failing {
            Some(command) => {
                scene.server.fail_next(command, SHUTDOWN_IN_PROGRESS);
                scene.server.fail_next(command, SHUTDOWN_IN_PROGRESS);
            }
            None => scene.server.hold("update", "suspended_indexes"),
        }
        let change = (
            "c",
            0,
            r#"{"collMod":"c","index":{"name":"k_1","forceNonUnique":true}}"#,
        );
        let log = [change];
        let revoked = async {
            let deadline = Instant::now() + LIMIT;
            while scene.server.requested() != 1 && scene.server.held() == 0 {
                ensure!(Instant::now() < deadline, "{failing:?} was not reached");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            scene.token.invalidate();
            scene.server.resume();
            Ok(())
        };
        let (applied, revoked) = tokio::join!(scene.apply(&log), revoked);
        revoked?;
        ensure!(applied? == Applied::Abandoned, "{failing:?}");
        let text = described(&scene);
        ensure!(text.contains("unique"), "{failing:?}: {text}");
    }
    Ok(())
}
