//! Commands whose effect exists already or whose name is taken, commands that another member runs at the
//! same time, and writes and commands that a target refuses.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use oplog_consumer::replay::catalog::{Moment, Resolved};
use oplog_consumer::replay::plan::PlanFault;
use oplog_consumer::worker::applied::SinkError;
use oplog_consumer::worker::batch::{Batch, Located};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::{Model, Version};
use oplog_relay_kit::services::wait_until_async;

use super::{LIMIT, NS, Scene, UNAUTHORIZED};

const CREATE: (&str, i32, &str) = ("c", 0, r#"{"create":"c"}"#);
const INDEX: (&str, i32, &str) = (
    "c",
    0,
    r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1"}"#,
);

#[tokio::test(flavor = "multi_thread")]
async fn create_exists_same_options() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(r#"{"create":"c"}"#)?;
    scene.done(&[CREATE]).await
}

/// A failover may undo a command that no majority has acknowledged. A note that the command ran
/// would then be wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_no_majority_acknowledged_is_sent_again() -> Result<()> {
    const STEPPING_DOWN: i32 = 11602;
    let scene = Scene::new("count").await?;
    scene
        .server
        .fail_write_concern_next("create", STEPPING_DOWN);
    scene.done(&[CREATE]).await?;
    let mut is_reported = false;
    for family in scene.metrics.registry.gather() {
        for metric in family.get_metric() {
            let mut labels = metric.get_label().iter();
            is_reported |= labels.any(|label| label.value() == "write_concern");
        }
    }
    assert!(is_reported, "the failure was treated as success");
    Ok(())
}

/// Runs commands as one member. The server executes its first command of that name, but replies
/// late and with a write concern error. Meanwhile another member runs the same commands, and a
/// collection of the same name is filled again.
async fn run_beside_a_faster_member(
    before: &str,
    name: &str,
    log: &[(&str, i32, &str)],
) -> Result<()> {
    const STEPPING_DOWN: i32 = 11602;
    let slow = Scene::new("count").await?;
    let fast = Scene::on(Arc::clone(&slow.server), &["--unmatched", "count"]).await?;
    slow.on_target(before)?;
    slow.server.fail_write_concern_next(name, STEPPING_DOWN);
    let subject = if name == "drop" { "c" } else { NS };
    slow.server.hold(name, subject);
    let meanwhile = async {
        let is_held = async || slow.server.held() > 0;
        wait_until_async("the command to be sent", LIMIT, is_held).await?;
        fast.done(log).await?;
        slow.on_target(r#"{"insert":"c","documents":[{"_id":7}]}"#)?;
        slow.server.resume();
        Ok(())
    };
    let (applied, meanwhile) = tokio::join!(slow.done(log), meanwhile);
    meanwhile.and(applied)?;
    assert_eq!(slow.documents()?, [r#"{"_id":7}"#], "{name}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_drop_keeps_the_next_collection_of_the_name() -> Result<()> {
    let there = r#"{"insert":"c","documents":[{"_id":1}]}"#;
    run_beside_a_faster_member(there, "drop", &[("c", 0, r#"{"drop":"c"}"#)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_rename_keeps_the_next_collection_of_the_name() -> Result<()> {
    let there = r#"{"insert":"c","documents":[{"_id":1}]}"#;
    let rename = r#"{"renameCollection":"db.c","to":"db.d","dropTarget":true}"#;
    run_beside_a_faster_member(there, "renameCollection", &[("c", 0, rename)]).await
}

/// A member dies after its rename and before its note; a write under the old name arrives late.
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_ran_before_a_crash_does_not_move_later_documents() -> Result<()> {
    let rename = r#"{"renameCollection":"db.c","to":"db.d","dropTarget":true}"#;
    let log = [("c", 0, rename)];
    let first = Scene::new("count").await?;
    first.on_target(r#"{"insert":"c","documents":[{"_id":1}]}"#)?;
    first.server.hold("renameCollection", NS);
    let is_held = async || first.server.held() > 0;
    tokio::select! {
        done = first.done(&log) => done?,
        held = wait_until_async("the rename to be sent", LIMIT, is_held) => held?,
    }
    first.server.resume();
    first.on_target(r#"{"insert":"c","documents":[{"_id":2}]}"#)?;
    let next = Scene::on(Arc::clone(&first.server), &["--unmatched", "count"]).await?;
    next.done(&log).await?;
    let state = next.server.model().state();
    let moved = state.get("db.d").into_iter().flatten();
    let read = |bytes: &Vec<u8>| bson::Document::from_reader(bytes.as_slice());
    let moved: Vec<_> = moved.map(read).collect::<Result<_, _>>()?;
    assert_eq!(moved, [bson::doc! { "_id": 1 }]);
    assert!(!state.contains_key(NS), "a late write remains: {state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn create_exists_other_options() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(r#"{"create":"c","capped":true,"size":4096}"#)?;
    let reason = scene.refused(&[CREATE]).await?;
    assert!(reason.contains("whose capped differs"), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn index_that_exists_counts_as_created() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.done(&[CREATE, INDEX, INDEX]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn index_exists_other_name_85() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"other"}]}"#)?;
    let reason = scene.refused(&[INDEX]).await?;
    assert!(
        reason.contains(r#""name": "k_1""#) && reason.contains(r#""name": "other""#),
        "{reason}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn index_name_other_key_86() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(r#"{"createIndexes":"c","indexes":[{"key":{"other":1},"name":"k_1"}]}"#)?;
    let reason = scene.refused(&[INDEX]).await?;
    assert!(
        reason.contains(r#"{ "k": 1 }"#) && reason.contains(r#"{ "other": 1 }"#),
        "{reason}"
    );
    Ok(())
}

/// One of two indexes exists, with another expiry; the other index does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn index_that_differs_only_in_withheld_options_is_kept_and_missing_ones_are_created()
-> Result<()> {
    let scene = Scene::new("count").await?;
    let there = r#"{"key":{"k":1},"name":"k_1","expireAfterSeconds":60,"unique":true}"#;
    scene.on_target(&format!(r#"{{"createIndexes":"c","indexes":[{there}]}}"#))?;
    let o = r#"{"commitIndexBuild":"c","indexes":[
        {"v":2,"key":{"k":1},"name":"k_1","expireAfterSeconds":9,"unique":true},
        {"v":2,"key":{"m":1},"name":"m_1"}]}"#;
    scene.done(&[("c", 0, o)]).await?;
    let described = scene.server.model().collections()["db"].clone();
    let text = format!("{described:?}");
    assert!(
        text.contains("m_1") && text.contains(&i32::MAX.to_string()),
        "{text}"
    );
    // A non-unique index in its place counts as a different index.
    let plain = (
        "c",
        0,
        r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1"}"#,
    );
    let reason = scene.refused(&[plain]).await?;
    assert!(reason.contains(r#""unique": true"#), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn index_option_unknown_197() -> Result<()> {
    let scene = Scene::new("count").await?;
    let o = r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1","someday":true}"#;
    let reason = scene.refused(&[("c", 0, o)]).await?;
    assert!(
        reason.contains("refused by the target") && reason.contains("197"),
        "{reason}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_missing() -> Result<()> {
    let scene = Scene::new("count").await?;
    let index = ("c", 0, r#"{"dropIndexes":"c","index":"k_1"}"#);
    let ttl = r#"{"collMod":"c","index":{"name":"k_1","hidden":true}}"#;
    scene
        .done(&[("c", 0, r#"{"drop":"c"}"#), index, ("c", 0, ttl)])
        .await?;
    scene.on_target(r#"{"create":"d"}"#)?;
    let index = ("c", 0, r#"{"dropIndexes":"d","index":"k_1"}"#);
    scene.done(&[index]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_source_missing_drops_target() -> Result<()> {
    for (flag, left) in [("true", false), ("false", true)] {
        let scene = Scene::new("count").await?;
        scene.on_target(r#"{"create":"d"}"#)?;
        let o = format!(r#"{{"renameCollection":"db.c","to":"db.d","dropTarget":{flag}}}"#);
        scene.done(&[("c", 0, &o)]).await?;
        let state = scene.server.model().state();
        assert_eq!(state.contains_key("db.d"), left, "{flag}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn view_on_missing_collection() -> Result<()> {
    let scene = Scene::new("count").await?;
    let view = r#"{"create":"v","viewOn":"nowhere","pipeline":[]}"#;
    scene.done(&[("c", 0, view)]).await?;
    let views = &scene.server.model().collections()["db"];
    let is_view = |described: &bson::Document| {
        (
            described.get_str("name").ok(),
            described.get_str("type").ok(),
        ) == (Some("v"), Some("view"))
    };
    assert!(views.iter().any(is_view), "{views:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn capped_delete_on_44_target() -> Result<()> {
    let scene = Scene::of(Model::of(Version::V4_4), "count").await?;
    scene.on_target(r#"{"create":"c","capped":true,"size":4096}"#)?;
    let log = [("i", 1, r#"{"_id":1}"#), ("d", 1, r#"{"_id":1}"#)];
    let reason = scene.refused(&log).await?;
    assert!(reason.contains("(code 20)"), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dollar_field_on_44_target() -> Result<()> {
    let scene = Scene::of(Model::of(Version::V4_4), "count").await?;
    let reason = scene.refused(&[("i", 1, r#"{"_id":1,"$a":1}"#)]).await?;
    assert!(reason.contains("(code 2)"), "{reason}");
    scene.done(&[("i", 2, r#"{"_id":2,"n":{"$a":1}}"#)]).await?;
    // A document with such a field can be inserted but not replaced, because a replacement is an
    // update.
    let log = [("u", 2, r#"{"_id":2,"n":{"$a":2}}"#)];
    let reason = scene.refused(&log).await?;
    assert!(
        reason.contains("(code 52)") && reason.contains("5.0"),
        "{reason}"
    );
    Ok(())
}

/// Returns a command of `db.c` with a UUID.
fn command_of(ui: u8, ts: Timestamp, o: &str) -> Result<Vec<u8>> {
    let (mut content, mut out) = (Vec::new(), Vec::new());
    oplog_relay_core::json::parse_document(o.as_bytes(), &mut content)?;
    let mut uuid = vec![16, 0, 0, 0, 4];
    uuid.extend([ui; 16]);
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
    entry.str("op", "c").str("ns", "db.$cmd");
    entry.raw("ui", kind::BINARY, &uuid);
    entry.document("o", Document::new(&content)?);
    entry.finish();
    Ok(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_create_can_be_skipped_and_a_command_that_ends_a_collection_cannot() -> Result<()>
{
    const ILLEGAL: i32 = 20;
    let scene = Scene::with(Model::default(), &["--dead-letter=command"]).await?;
    scene.on_target(r#"{"create":"c"}"#)?;
    let rename = r#"{"renameCollection":"db.c","to":"db.d"}"#;
    for (seconds, name, o, stops) in [
        (1, "create", r#"{"create":"c"}"#, false),
        (2, "createIndexes", INDEX.2, false),
        (3, "emptycapped", r#"{"emptycapped":"c"}"#, true),
        (4, "renameCollection", rename, true),
        (5, "drop", r#"{"drop":"c"}"#, true),
    ] {
        let ts = Timestamp::new(seconds, 1);
        let (id, bytes) = (EntryId { ts, ord: 0 }, command_of(7, ts, o)?);
        let entry = Entry::parse(Document::new(&bytes)?)?;
        let located = Located {
            offset: 0,
            id,
            entry,
        };
        let batch = Batch {
            topic: "t",
            partition: 0,
            source: "rs0",
            entries: &[located],
        };
        // The command that replaces one that the target does not know is refused as well.
        let replacements = ["createIndexes", "delete"];
        let failing = std::iter::once(name).chain(replacements);
        failing.for_each(|name| scene.server.fail_next(name, ILLEGAL));
        let error = scene.sink.apply(&batch, &scene.token).await.err();
        let error = error.with_context(|| name.to_owned())?;
        let can_be_skipped = match &error {
            SinkError::Entry(error) => matches!(error.fault, PlanFault::Refused(_)),
            SinkError::Fatal(_) => false,
        };
        ensure!(can_be_skipped != stops, "{name}: {error:?}");
        if can_be_skipped {
            scene.sink.pass_over("rs0", &located).await?;
        }
        let is_recorded = scene.sink.has_run("rs0", id).await?;
        ensure!(is_recorded == can_be_skipped, "{name}");
    }
    // The incarnation of the collection has begun nevertheless: entries with another UUID do not
    // belong to it.
    let incarnations = scene.sink.incarnations("rs0");
    ensure!(incarnations.is_owned(NS, CollectionUuid([7; 16])));
    let ts = Timestamp::new(6, 1);
    let later = Moment::Time(EntryId { ts, ord: 0 });
    let other = incarnations.resolve(NS, later, Some(CollectionUuid([8; 16])));
    ensure!(other == Resolved::Foreign, "{other:?}");
    Ok(())
}

/// The target does not know the command, so all documents are deleted. A server reports a refused
/// delete in a reply that is otherwise successful.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_whose_documents_cannot_be_deleted_is_not_emptied() -> Result<()> {
    const NO_COMMAND: i32 = 59;
    const WRITES_BLOCKED: i32 = 371;
    let scene = Scene::new("count").await?;
    scene.done(&[("i", 1, r#"{"_id":1}"#)]).await?;
    let empty = [("c", 0, r#"{"emptycapped":"c"}"#)];
    scene.server.fail_next("emptycapped", NO_COMMAND);
    scene.server.refuse_next("delete", UNAUTHORIZED);
    let reason = scene.refused(&empty).await?;
    ensure!(reason.contains("was refused by the target"), "{reason}");
    ensure!(scene.documents()? == [r#"{"_id":1}"#]);
    scene.rewind(1);
    scene.server.fail_next("emptycapped", NO_COMMAND);
    scene.server.refuse_next("delete", WRITES_BLOCKED);
    scene.done(&empty).await?;
    ensure!(scene.documents()?.is_empty());
    Ok(())
}
