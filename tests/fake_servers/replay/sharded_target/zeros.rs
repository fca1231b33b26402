//! Timestamps that are zero, which a server replaces with its own time when it inserts a document.

use super::*;

const ZERO: &str = r#"{"$timestamp":{"t":0,"i":0}}"#;
const DEAD_LETTER: &[&str] = &["--dead-letter=write"];
const UNIQUE: &str =
    r#"{"createIndexes":"c","indexes":[{"name":"k_1_u_1","key":{"k":1,"u":1},"unique":true}]}"#;

/// Returns documents with this shard key, of which some have fields that a `$set` cannot restore.
fn documents(k: &str) -> Vec<String> {
    let fields = [
        r#""t":ZERO"#,
        r#""1":ZERO"#,
        r#""$x":1,"t":ZERO"#,
        r#""a.b":ZERO,"t":ZERO"#,
    ];
    let fields = fields.map(|fields| fields.replace("ZERO", ZERO));
    let fields = fields.iter();
    fields
        .map(|fields| format!(r#"{{"_id":1,"k":{k},{fields}}}"#))
        .collect()
}

/// Returns a scene of which the cluster runs transactions or does not.
async fn scene_with(transactions: bool, more: &[&str]) -> Result<Scene> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, more).await?;
    if !transactions {
        scene.server.model().refuse_transactions();
    }
    Ok(scene)
}

#[tokio::test]
async fn a_document_that_moves_keeps_them() -> Result<()> {
    for transactions in [true, false] {
        for (before, after) in documents("1").iter().zip(documents("2")) {
            let scene = scene_with(transactions, &[]).await?;
            scene.done(&[("i", 1, before)]).await?;
            let update = ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#);
            scene.done(&[update]).await?;
            assert_eq!(scene.documents()?, [after.as_str()], "{transactions}");
            scene.done(&[("u", 1, before)]).await?;
            assert_eq!(scene.documents()?, [before.as_str()], "{transactions}");
            assert_eq!(scene.metrics.moved_documents.get(), 2);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_document_whose_move_is_refused_keeps_them() -> Result<()> {
    const INVALID: i32 = 121;
    for transactions in [true, false] {
        for before in documents("1") {
            let scene = scene_with(transactions, DEAD_LETTER).await?;
            scene.done(&[("i", 1, &before)]).await?;
            // A document with zero timestamps is sent as an upsert, unless a transaction moves it.
            let command = if transactions { "insert c" } else { "update c" };
            scene.server.refuse_next(command, INVALID);
            let update = [("u", 1, r#"{"$v":1,"$set":{"k":2}}"#)];
            let (applied, refused) = scene.apply_all(&update).await?;
            assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
            assert_eq!(scene.documents()?, [before.as_str()], "{transactions}");
            assert_eq!(scene.metrics.unmatched_updates.get(), 0);
        }
    }
    Ok(())
}

/// The document has to move, and an index refuses it until another document is deleted.
#[tokio::test]
async fn a_held_document_that_moves_keeps_them() -> Result<()> {
    for transactions in [true, false] {
        for (before, after) in documents("1").iter().zip(documents("2")) {
            let scene = scene_with(transactions, &[]).await?;
            scene.on_target(UNIQUE)?;
            let other = r#"{"_id":2,"k":2}"#;
            scene.done(&[("i", 1, before), ("i", 2, other)]).await?;
            let update = ("u", 1, r#"{"$v":1,"$set":{"k":2}}"#);
            scene.done(&[update]).await?;
            assert_eq!(scene.sink.held_since("t", 0), Some(0));
            scene.done(&[("d", 2, r#"{"_id":2}"#)]).await?;
            assert_eq!(scene.documents()?, [after.as_str()], "{transactions}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_document_with_one_in_the_shard_key_is_refused() -> Result<()> {
    for transactions in [true, false] {
        let scene = scene_with(transactions, DEAD_LETTER).await?;
        let zero = format!(r#"{{"_id":1,"k":{ZERO}}}"#);
        let update = format!(r#"{{"$v":1,"$set":{{"k":{ZERO}}}}}"#);
        let before = r#"{"_id":1,"k":1}"#;
        let log: [&[(&str, i32, &str)]; 4] = [
            &[("i", 1, &zero)],
            &[("i", 1, before), ("u", 1, &update)],
            &[("u", 1, &zero)],
            &[("u", 1, r#"{"$v":1,"$set":{"k":2}}"#), ("u", 1, &zero)],
        ];
        for (batch, stored) in log.iter().zip([&[][..], &[before], &[before], &[before]]) {
            let (applied, refused) = scene.apply_all(batch).await?;
            assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
            assert!(refused[0].text.contains("timestamp zero"), "{refused:?}");
            assert_eq!(scene.documents()?, stored, "{batch:?}");
        }
        assert_eq!(scene.metrics.unmatched_updates.get(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_held_document_with_one_in_the_shard_key_is_refused() -> Result<()> {
    let scene = scene_with(true, DEAD_LETTER).await?;
    scene.on_target(UNIQUE)?;
    let update = format!(r#"{{"$v":1,"$set":{{"k":{ZERO}}}}}"#);
    let (applied, refused) = scene
        .apply_all(&[
            ("i", 1, r#"{"_id":1,"k":1}"#),
            ("i", 2, r#"{"_id":2,"k":1}"#),
            ("u", 2, &update),
        ])
        .await?;
    assert_eq!((applied, refused.len()), (Applied::Done, 1), "{refused:?}");
    assert!(refused[0].text.contains("timestamp zero"), "{refused:?}");
    assert_eq!(scene.documents()?, [r#"{"_id":1,"k":1}"#]);
    Ok(())
}
