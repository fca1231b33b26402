//! Documents that only a literal in an update pipeline preserves byte for byte.

use anyhow::Result;
use oplog_relay_kit::model::{Model, Version};

use super::Scene;

const ZERO: &str = r#"{"$timestamp":{"t":0,"i":0}}"#;

/// Returns documents that a server would change or refuse in a plain replacement.
fn documents() -> Vec<String> {
    let fields = [
        r#""1":ZERO"#,
        r#""":ZERO"#,
        r#""a.b":ZERO,"t":ZERO"#,
        r#""$t":ZERO"#,
        r#""$x":1,"t":ZERO"#,
        r#""t":ZERO,"é":ZERO"#,
        r#""$x":1,"$set":{"a":1}"#,
    ];
    let fields = fields.iter();
    fields
        .map(|fields| format!(r#"{{"_id":1,{}}}"#, fields.replace("ZERO", ZERO)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_timestamps_and_dollar_names_are_kept_however_the_document_arrives() -> Result<()> {
    for version in [Version::V5_0, Version::V7_0] {
        for document in documents() {
            let scene = Scene::of(Model::of(version), "stop").await?;
            // The document is inserted, inserted again, and replaces another one.
            for _ in 0..2 {
                scene.done(&[("i", 1, &document)]).await?;
                assert_eq!(scene.documents()?, [document.as_str()], "{version:?}");
            }
            scene.done(&[("i", 1, r#"{"_id":1,"a":1}"#)]).await?;
            scene.done(&[("u", 1, &document)]).await?;
            assert_eq!(scene.documents()?, [document.as_str()], "{version:?}");
            // The update is in one batch with the writes before and after it.
            let diff = ("u", 1, r#"{"$v":2,"diff":{"i":{"k":1}}}"#);
            scene
                .done(&[("d", 1, r#"{"_id":1}"#), ("i", 1, &document), diff])
                .await?;
            let changed = document
                .replace("}}}", "}},\"k\":1}")
                .replace("\"a\":1}}", "\"a\":1},\"k\":1}");
            assert_eq!(scene.documents()?, [changed.as_str()], "{version:?}");
        }
    }
    Ok(())
}

/// The updates are rewrites, and their documents do not exist.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_updates_create_keep_empty_timestamps_and_their_order() -> Result<()> {
    let scene = Scene::new("upsert").await?;
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"key":{"k":1},"name":"k_1","unique":true}]}"#,
    )?;
    let update = |id: i32| format!(r#"{{"$v":2,"diff":{{"i":{{"k":{id},"t":{ZERO}}}}}}}"#);
    let updates: Vec<String> = (1..=9).map(update).collect();
    let log = (1..).zip(&updates).map(|(id, o)| ("u", id, o.as_str()));
    scene.done(&log.collect::<Vec<_>>()).await?;
    let expected = |id: i32| format!(r#"{{"_id":{id},"k":{id},"t":{ZERO}}}"#);
    let expected: Vec<String> = (1..=9).map(expected).collect();
    assert_eq!(scene.documents()?, expected);
    Ok(())
}
