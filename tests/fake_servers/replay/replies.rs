//! Replies that quote a key that is not UTF-8, and `_id`s that are equal only under a collation.

use anyhow::Result;
use oplog_consumer::dead_letter::Reason;
use oplog_consumer::worker::applied::Applied;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::{Model, Version};

use super::{NOT_PRIMARY, NS, Scene};

const COLLATED: &str = r#"{"create":"c","collation":{"locale":"en","strength":2}}"#;
const UNIQUE: &str =
    r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#;
/// A version that quotes a key unchanged, and one that quotes it in hexadecimal.
const VERSIONS: [Version; 2] = [Version::V5_0, Version::V7_0];

/// Returns an insert whose `_id` and `k` are strings of these bytes.
fn insert(seconds: u32, id: &[u8], k: &[u8]) -> (EntryId, Vec<u8>) {
    let text = |bytes: &[u8]| {
        let mut value = vec![0; 4];
        value[0] = u8::try_from(bytes.len() + 1).unwrap_or(u8::MAX);
        value.extend_from_slice(bytes);
        value.push(0);
        value
    };
    let ts = Timestamp::new(seconds, 1);
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
    entry.str("op", "i").str("ns", NS);
    entry.nested("o", kind::DOCUMENT, |o| {
        o.raw("_id", kind::STRING, &text(id));
        o.raw("k", kind::STRING, &text(k));
    });
    entry.finish();
    (EntryId { ts, ord: 0 }, out)
}

fn stored(scene: &Scene) -> Vec<Vec<u8>> {
    let state = scene.server.model().state();
    state.get(NS).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_raw_bytes_can_be_inserted_again() -> Result<()> {
    for version in VERSIONS {
        let scene = Scene::of(Model::of(version), "stop").await?;
        for k in [b"one", b"two"] {
            let (applied, _) = scene.apply_entries(&[insert(1, b"\xff\xfe", k)]).await?;
            assert_eq!(applied, Applied::Done);
        }
        let (_, last) = insert(1, b"\xff\xfe", b"two");
        let o = Document::new(&last)?.get("o")?.unwrap().document()?;
        assert_eq!(stored(&scene), [o.as_bytes()]);
    }
    Ok(())
}

/// The index refuses raw bytes that another document has, until that document gets another value.
#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_of_raw_bytes_is_held_until_it_is_free() -> Result<()> {
    for version in VERSIONS {
        for index in [
            UNIQUE.to_owned(),
            UNIQUE.replace(r#""unique""#, r#""collation":{"locale":"fr"},"unique""#),
        ] {
            let scene = Scene::of(Model::of(version), "stop").await?;
            scene.on_target(&index)?;
            let log = [insert(1, b"a", b"\xff"), insert(2, b"b", b"\xff")];
            let (applied, refused) = scene.apply_entries(&log).await?;
            assert_eq!((applied, refused.len()), (Applied::Done, 0));
            assert_eq!(stored(&scene).len(), 1);
            assert_eq!(scene.sink.held_since("t", 0), Some(1));
            let (applied, _) = scene.apply_entries(&[insert(3, b"a", b"x")]).await?;
            assert_eq!(applied, Applied::Done);
            assert_eq!(stored(&scene).len(), 2);
        }
    }
    Ok(())
}

/// The driver cannot decode a reply with bytes that are not UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_refusal_quotes_raw_bytes_ends_with_the_text_of_the_server() -> Result<()> {
    let index = r#"{"createIndexes":"c","v":2,"key":{"k":1},"name":"k_1","unique":true}"#;
    for version in VERSIONS {
        let scene = Scene::of(Model::of(version), "stop").await?;
        let log = [insert(1, b"a", b"\xff"), insert(2, b"b", b"\xff")];
        let (applied, _) = scene.apply_entries(&log).await?;
        assert_eq!(applied, Applied::Done);
        let reason = scene.refused(&[("b", 0, index)]).await?;
        assert!(
            reason.contains("was refused by the target: ")
                && reason.contains("E11000 duplicate key error"),
            "{reason}"
        );
    }
    Ok(())
}

/// The target is ahead: it already has `ABC`, which the source inserted after it had deleted `abc`.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_equal_under_the_collation_is_removed_first() -> Result<()> {
    for version in VERSIONS {
        let scene = Scene::with(Model::of(version), &["--dead-letter=write"]).await?;
        scene.on_target(COLLATED)?;
        scene.on_target(r#"{"insert":"c","documents":[{"_id":"ABC","k":"new"}]}"#)?;
        let log = [insert(1, b"abc", b"old")];
        let (applied, refused) = scene.apply_entries(&log).await?;
        assert_eq!((applied, refused.len()), (Applied::Done, 0));
        assert_eq!(scene.documents()?, [r#"{"_id":"abc","k":"old"}"#]);
        let log = [insert(3, b"ABC", b"new")];
        scene.on_target(r#"{"delete":"c","deletes":[{"q":{"_id":"abc"},"limit":1}]}"#)?;
        let (applied, _) = scene.apply_entries(&log).await?;
        assert_eq!(applied, Applied::Done);
        assert_eq!(scene.documents()?, [r#"{"_id":"ABC","k":"new"}"#]);
    }
    Ok(())
}

/// If the stored document has the same `_id`, code 66 concerns another field, for example a shard
/// key. No document is removed then, and the update is a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_field_other_than_id_is_a_dead_letter() -> Result<()> {
    const IMMUTABLE: i32 = 66;
    let scene = Scene::with(Model::default(), &["--dead-letter=write"]).await?;
    scene.done(&[("i", 1, r#"{"_id":1}"#)]).await?;
    scene.server.refuse_next("update", IMMUTABLE);
    let (applied, refused) = scene.apply_all(&[("u", 1, r#"{"_id":1,"a":1}"#)]).await?;
    assert_eq!(applied, Applied::Done);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (refused[0].reason, refused[0].code),
        (Reason::Write, Some(IMMUTABLE))
    );
    assert_eq!(scene.documents()?, [r#"{"_id":1}"#]);
    Ok(())
}

/// The removal fails for a moment, by an error of the command, by one of the write, and by a reply
/// that is lost after the document was removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_of_an_equal_id_that_fails_for_a_moment_is_repeated() -> Result<()> {
    const WRITES_BLOCKED: i32 = 371;
    for failure in [
        |scene: &Scene| scene.server.fail_next("delete", NOT_PRIMARY),
        |scene: &Scene| scene.server.refuse_next("delete", WRITES_BLOCKED),
        |scene: &Scene| scene.server.lose_reply_next("delete"),
    ] {
        let scene = Scene::with(Model::default(), &["--dead-letter=write"]).await?;
        scene.on_target(COLLATED)?;
        scene.on_target(r#"{"insert":"c","documents":[{"_id":"ABC","k":"new"}]}"#)?;
        failure(&scene);
        let log = [insert(1, b"abc", b"old")];
        let (applied, refused) = scene.apply_entries(&log).await?;
        assert_eq!((applied, refused.len()), (Applied::Done, 0), "{refused:?}");
        assert_eq!(scene.documents()?, [r#"{"_id":"abc","k":"old"}"#]);
    }
    Ok(())
}

/// Another client removes the document before it is read, so nothing is left to be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_whose_equal_id_is_gone_is_sent_again() -> Result<()> {
    const IMMUTABLE: i32 = 66;
    let scene = Scene::with(Model::default(), &["--dead-letter=write"]).await?;
    scene.server.refuse_next("update", IMMUTABLE);
    let (applied, refused) = scene.apply_all(&[("u", 1, r#"{"_id":1,"a":1}"#)]).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 0), "{refused:?}");
    assert_eq!(scene.documents()?, [r#"{"_id":1,"a":1}"#]);
    Ok(())
}
