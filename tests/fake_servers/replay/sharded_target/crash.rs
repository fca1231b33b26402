//! Crashes at each step of a move.

use super::super::crash::{Step, crash_after, crash_before};
use super::*;

const IN_TRANSACTION: [Step; 2] = [("delete", "c"), ("insert", "c")];
const WITHOUT_TRANSACTION: [Step; 4] = [
    ("update", "moving"),
    ("delete", "c"),
    ("insert", "c"),
    ("delete", "moving"),
];

const BEFORE: &[(&str, i32, &str)] = &[("i", 1, r#"{"_id":1,"k":1,"x":1}"#)];
/// Moves by a diff, by operators, and by a replacement, with other entries of the document.
const MOVES: [&[(&str, i32, &str)]; 3] = [
    &[
        ("u", 1, r#"{"$v":2,"diff":{"i":{"y":1}}}"#),
        ("u", 1, r#"{"$v":2,"diff":{"u":{"k":2}}}"#),
        ("u", 1, r#"{"$v":2,"diff":{"u":{"x":2}}}"#),
    ],
    &[
        ("u", 1, r#"{"$v":1,"$set":{"k":2,"y":1}}"#),
        ("u", 1, r#"{"$v":1,"$set":{"x":2}}"#),
    ],
    &[
        ("u", 1, r#"{"_id":1,"k":2,"x":1,"y":1}"#),
        ("u", 1, r#"{"$v":1,"$set":{"x":2}}"#),
    ],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_move_neither_loses_nor_doubles_the_document() -> Result<()> {
    for (transactions, steps) in [
        (true, &IN_TRANSACTION[..]),
        (false, &WITHOUT_TRANSACTION[..]),
    ] {
        for moves in MOVES {
            for step in steps {
                let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
                if !transactions {
                    scene.server.model().refuse_transactions();
                }
                scene.done(BEFORE).await?;
                let crashed = crash_after(&scene, *step, moves).await?;
                assert!(crashed, "{step:?} of {moves:?}");
                if transactions {
                    assert_eq!(scene.documents()?.len(), 1, "{step:?} of {moves:?}");
                }
                assert_unique(&scene)?;
                let next = another(&scene).await?;
                next.rewind(1);
                next.done(moves).await?;
                let mut log = BEFORE.to_vec();
                log.extend_from_slice(moves);
                let message = format!("{step:?} of {moves:?}");
                assert_eq!(next.documents()?, expected(&log).await?, "{message}");
                // The next write of the document removes what is left of the move.
                next.done(&[("u", 1, r#"{"$v":1,"$set":{"x":3}}"#)]).await?;
                assert!(notes(&next).is_empty(), "{message}");
            }
        }
    }
    Ok(())
}

/// The zero timestamps of a document arrive together with it, whether it moves or keeps its shard key.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_change_keeps_zero_timestamps() -> Result<()> {
    const ZERO: &str = r#"{"$timestamp":{"t":0,"i":0}}"#;
    let before = format!(r#"{{"_id":1,"k":1,"x":1,"r":[1,2],"t":{ZERO}}}"#);
    let before = [("i", 1, before.as_str())];
    let in_place: &[(&str, i32, &str)] = &[(
        "u",
        1,
        r#"{"$v":2,"diff":{"i":{"y":1},"sr":{"a":true,"l":1}}}"#,
    )];
    let mut steps: Vec<Step> = WITHOUT_TRANSACTION.to_vec();
    steps.push(("update", "c"));
    for transactions in [true, false] {
        for log in [MOVES[0], MOVES[1], in_place] {
            for (step, executes) in steps.iter().flat_map(|step| [(step, true), (step, false)]) {
                let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
                if !transactions {
                    scene.server.model().refuse_transactions();
                }
                scene.done(&before).await?;
                // Not every log has every step.
                if executes {
                    crash_after(&scene, *step, log).await?;
                } else {
                    crash_before(&scene, *step, log).await?;
                }
                let next = another(&scene).await?;
                next.rewind(1);
                next.done(log).await?;
                let message = format!("{transactions}, {executes}: {step:?} of {log:?}");
                let all = [&before, log].concat();
                assert_eq!(next.documents()?, expected(&all).await?, "{message}");
            }
        }
    }
    Ok(())
}

/// Without transactions a document is missing between its delete and its insert.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_was_deleted_and_not_yet_inserted_comes_back_from_its_note() -> Result<()> {
    let other: &[(&str, i32, &str)] = &[
        ("i", 2, r#"{"_id":2,"k":1}"#),
        ("u", 2, r#"{"$v":1,"$set":{"k":2}}"#),
    ];
    for moves in MOVES {
        let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
        scene.server.model().refuse_transactions();
        scene.done(BEFORE).await?;
        // The cluster refuses the transaction of this move, so the next move begins without one.
        for batch in other.chunks(1) {
            scene.done(batch).await?;
        }
        assert!(crash_after(&scene, ("delete", "c"), moves).await?);
        assert_eq!(scene.documents()?, [r#"{"_id":2,"k":2}"#]);
        assert_eq!(notes(&scene).len(), 1);
        let next = another(&scene).await?;
        next.rewind(3);
        next.done(moves).await?;
        let log = [BEFORE, other, moves].concat();
        assert_eq!(next.documents()?, expected(&log).await?, "{moves:?}");
        assert!(notes(&next).is_empty());
    }
    Ok(())
}

/// The member that takes over did not know of the note when it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_another_member_writes_later_is_found() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
    let next = another(&scene).await?;
    scene.server.model().refuse_transactions();
    scene.done(BEFORE).await?;
    let other = ("i", 2, r#"{"_id":2,"k":1}"#);
    scene.done(&[other]).await?;
    scene
        .done(&[("u", 2, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    assert!(crash_after(&scene, ("delete", "c"), MOVES[1]).await?);
    next.rewind(3);
    next.done(MOVES[1]).await?;
    let moved = r#"{"_id":1,"k":2,"x":2,"y":1}"#;
    assert_eq!(next.documents()?, [moved, r#"{"_id":2,"k":2}"#]);
    Ok(())
}

/// The reply to a commit is lost, so it is unknown whether the document has moved.
#[tokio::test]
async fn a_commit_without_a_reply_is_settled_by_another_lookup() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
    scene.done(BEFORE).await?;
    scene.server.lose_reply_next("commitTransaction");
    scene
        .done(&[("u", 1, r#"{"$v":2,"diff":{"u":{"k":2}}}"#)])
        .await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":2,"x":1}"#]);
    Ok(())
}

/// A shard that has yet to commit a transaction does not hide the document from the next lookup.
#[tokio::test]
async fn a_lookup_waits_for_shards_that_have_yet_to_commit() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
    scene.server.model().commit_late();
    scene.done(BEFORE).await?;
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)])
        .await?;
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"x":2}}"#)])
        .await?;
    assert_eq!(scene.metrics.unmatched_updates.get(), 0);
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"k":3}}"#)])
        .await?;
    scene.done(&[("i", 1, r#"{"_id":1,"k":4,"x":3}"#)]).await?;
    scene
        .done(&[("u", 1, r#"{"$v":1,"$set":{"y":1}}"#)])
        .await?;
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":4,"x":3,"y":1}"#]);
    Ok(())
}

/// Errors of every kind at every command of a move.
#[tokio::test]
async fn a_move_that_fails_for_a_moment_is_repeated() -> Result<()> {
    for command in ["find", "delete", "insert", "commitTransaction"] {
        for code in [91, 112, 10107] {
            let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
            scene.done(BEFORE).await?;
            scene.server.fail_next(command, code);
            scene
                .done(&[("u", 1, r#"{"$v":2,"diff":{"u":{"k":2}}}"#)])
                .await?;
            let message = format!("{command} fails with {code}");
            assert_eq!(
                scene.documents()?,
                [r#"{"_id":1,"k":2,"x":1}"#],
                "{message}"
            );
        }
    }
    Ok(())
}

/// A document that is missing for another reason does not come back from a note.
#[tokio::test]
async fn a_kept_document_counts_only_for_the_entry_that_moved_it() -> Result<()> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
    scene.server.model().refuse_transactions();
    scene.done(BEFORE).await?;
    let moves = MOVES[0];
    assert!(crash_after(&scene, ("insert", "c"), moves).await?);
    scene.on_target(r#"{"delete":"c","deletes":[{"q":{},"limit":0}]}"#)?;
    let next = another(&scene).await?;
    next.rewind(10);
    next.done(&[("u", 1, r#"{"$v":1,"$set":{"x":9}}"#)]).await?;
    assert!(next.documents()?.is_empty() && notes(&next).is_empty());
    assert_eq!(next.metrics.unmatched_updates.get(), 1);
    Ok(())
}
