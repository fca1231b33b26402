//! Codes of refused writes: transient ones, those of one document, and fatal ones.

use anyhow::Result;
use oplog_consumer::worker::applied::Applied;
use oplog_relay_kit::model::{Model, NO_CODE};

use super::{Scene, UNAUTHORIZED};

const INSERT: (&str, i32, &str) = ("i", 1, r#"{"_id":1,"a":1}"#);
const UPDATE: (&str, i32, &str) = ("u", 1, r#"{"$v":1,"$set":{"a":2}}"#);
const DELETE: (&str, i32, &str) = ("d", 1, r#"{"_id":1}"#);

async fn scene() -> Result<Scene> {
    Scene::with(Model::default(), &["--dead-letter=write"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_refused_for_a_while_is_sent_again() -> Result<()> {
    for code in [365, 371, 11601, 13388, 14031] {
        let scene = scene().await?;
        for (command, write) in [("insert", INSERT), ("update", UPDATE), ("delete", DELETE)] {
            scene.server.refuse_next(command, code);
            let (applied, refused) = scene.apply_all(&[write]).await?;
            assert_eq!(
                (applied, refused.len()),
                (Applied::Done, 0),
                "{code} {command}"
            );
            let expected: &[&str] = match command {
                "insert" => &[r#"{"_id":1,"a":1}"#],
                "update" => &[r#"{"_id":1,"a":2}"#],
                _ => &[],
            };
            assert_eq!(scene.documents()?, expected, "{code} {command}");
        }
    }
    Ok(())
}

/// A code for a missing collection skips a delete, which then has nothing to do; an insert or a
/// replacement is sent again, because skipping it would lose a document.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collection_skips_a_delete_and_never_an_insert() -> Result<()> {
    for code in [26, 48] {
        let scene = scene().await?;
        let replacement = ("u", 2, r#"{"_id":2,"b":1}"#);
        scene.server.refuse_next("insert", code);
        scene.server.refuse_next("update", code);
        scene.done(&[INSERT, replacement]).await?;
        let whole = [r#"{"_id":1,"a":1}"#, r#"{"_id":2,"b":1}"#];
        assert_eq!(scene.documents()?, whole, "{code}");
        scene.server.refuse_next("delete", code);
        scene.done(&[DELETE]).await?;
        assert_eq!(scene.documents()?, whole, "{code}: the delete was skipped");
    }
    Ok(())
}

/// A code that may concern every write must not turn all of them into dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_code_stops_and_a_code_of_one_document_makes_a_dead_letter() -> Result<()> {
    const UNKNOWN: i32 = 987_654;
    const VALIDATION: i32 = 121;
    let scene = scene().await?;
    scene.server.refuse_next("insert", UNKNOWN);
    let reason = scene.refused(&[INSERT]).await?;
    assert!(reason.contains("(code 987654)"), "{reason}");
    scene.server.fail_next("insert", UNKNOWN);
    let reason = scene.refused(&[INSERT]).await?;
    assert!(reason.contains("(code 987654)"), "{reason}");
    scene.server.refuse_next("insert", VALIDATION);
    let (_, refused) = scene.apply_all(&[INSERT]).await?;
    assert_eq!(refused.len(), 1);
    Ok(())
}

/// One refused document fails the whole command; it is found by bisection.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_refused_as_a_whole_is_bisected() -> Result<()> {
    const TOO_LARGE: i32 = 10334;
    expect_bisection(TOO_LARGE, Some(TOO_LARGE)).await
}

/// Compatible servers may report a failure without a code.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_without_a_code_is_bisected() -> Result<()> {
    expect_bisection(NO_CODE, None).await
}

/// Makes whole commands fail, and checks that finally only one document is refused.
async fn expect_bisection(failure: i32, code: Option<i32>) -> Result<()> {
    let scene = scene().await?;
    let documents: Vec<String> = (0..8).map(|id| format!(r#"{{"_id":{id}}}"#)).collect();
    let log: Vec<_> = (0..)
        .zip(&documents)
        .map(|(id, o)| ("i", id, o.as_str()))
        .collect();
    // All eight are refused, then the first four, two and one; the others are written.
    for _ in 0..4 {
        scene.server.fail_next("insert", failure);
    }
    let (applied, refused) = scene.apply_all(&log).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1));
    assert_eq!(refused[0].code, code);
    assert_eq!(scene.documents()?, documents[1..]);
    Ok(())
}

/// The privilege to bypass validation may be missing for one collection, or temporarily.
#[tokio::test(flavor = "multi_thread")]
async fn validation_is_bypassed_again_after_another_refusal() -> Result<()> {
    let scene = scene().await?;
    let o = r#"{"create":"c","validator":{"a":{"$gt":5}}}"#;
    scene.on_target(o)?;
    // Refused with and without the bypass: the user has no privilege to write.
    scene.server.fail_next("insert", UNAUTHORIZED);
    scene.server.fail_next("insert", UNAUTHORIZED);
    let reason = scene.refused(&[INSERT]).await?;
    assert!(reason.contains("readWrite"), "{reason}");
    scene.done(&[INSERT]).await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"a":1}"#]);
    // Refused only with the bypass: the validator then refuses the document.
    scene.server.fail_next("insert", UNAUTHORIZED);
    let (_, refused) = scene.apply_all(&[("i", 2, r#"{"_id":2,"a":2}"#)]).await?;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].code, Some(121));
    Ok(())
}

/// A refused insert or replacement is not followed by the update that restores its zero timestamps.
#[tokio::test(flavor = "multi_thread")]
async fn the_zero_timestamps_of_a_refused_document_are_not_sent() -> Result<()> {
    const VALIDATION: i32 = 121;
    let whole = r#"{"_id":1,"t":{"$timestamp":{"t":0,"i":0}}}"#;
    let stored = r#"{"_id":1,"r":[1,2],"t":{"$timestamp":{"t":5,"i":5}}}"#;
    // The update is a rewrite, and so is what follows an insert of the same document.
    let rewrite = r#"{"$v":2,"diff":{"i":{"n":1},"sr":{"a":true,"l":1}}}"#;
    let rewritten = r#"{"_id":1,"r":[1],"t":{"$timestamp":{"t":5,"i":5}},"n":1}"#;
    let flags = ["--dead-letter=write", "--unmatched=stop"];
    let scene = Scene::with(Model::default(), &flags).await?;
    scene.server.refuse_next("insert", VALIDATION);
    let (applied, refused) = scene.apply_all(&[("i", 1, whole)]).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1));
    assert_eq!(scene.documents()?, [""; 0]);
    scene.done(&[("i", 1, stored)]).await?;
    for (command, op) in [("insert", "i"), ("update", "u")] {
        scene.server.refuse_next(command, VALIDATION);
        let (applied, refused) = scene.apply_all(&[(op, 1, whole)]).await?;
        assert_eq!((applied, refused.len()), (Applied::Done, 1));
        assert_eq!(scene.documents()?, [stored], "{command}");
    }
    scene.server.refuse_next("insert", VALIDATION);
    let log = [("i", 1, whole), ("u", 1, rewrite)];
    let (applied, refused) = scene.apply_all(&log).await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1));
    assert_eq!(scene.documents()?, [rewritten]);
    Ok(())
}
