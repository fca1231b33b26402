//! A full sync into a target that already has the collection.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use bson::doc;
use oplog_consumer::worker::applied::SinkError;
use oplog_consumer::worker::batch::{Batch, Located};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{EntryId, Position, Timestamp};
use oplog_relay_core::snapshot::{Captured, FIRST_ORD};
use oplog_relay_kit::model::Model;

use super::Scene;

/// Applies two entries of a full sync of `db.c`, whose collection UUID is `ui`: the `create` command
/// and one document.
async fn fill(scene: &Scene, ui: u8, ord: u32) -> Result<()> {
    let at = Position {
        ts: Timestamp::new(9, 1),
        term: 1,
        ord: 0,
    };
    let captured = Captured {
        at,
        ns: "db.c",
        ui: Some(CollectionUuid([ui; 16])),
        millis: 7,
    };
    let (mut create, mut read) = (Vec::new(), Vec::new());
    let command = doc! { "create": "c" }.to_vec()?;
    captured.write_command(Document::new(&command)?, &mut create);
    let document = doc! { "_id": 1, "ui": i32::from(ui) }.to_vec()?;
    captured.write_document(Document::new(&document)?, &mut read);
    let mut entries = Vec::new();
    for (offset, bytes) in (0..).zip([&create, &read]) {
        let ord = FIRST_ORD + ord + u32::try_from(offset)?;
        entries.push(Located {
            offset,
            id: EntryId { ts: at.ts, ord },
            entry: Entry::parse(Document::new(bytes)?)?,
        });
    }
    let batch = Batch {
        topic: "t",
        partition: 0,
        source: "rs0",
        entries: &entries,
    };
    let applied = scene.sink.apply(&batch, &scene.token).await;
    applied.map(drop).map_err(|error| match error {
        SinkError::Entry(error) => anyhow!(error),
        SinkError::Fatal(error) => anyhow!(error),
    })
}

async fn scene(policy: &str) -> Result<Scene> {
    Scene::with(Model::default(), &["--if-target-not-empty", policy]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sync_into_a_collection_with_documents_follows_the_policy() -> Result<()> {
    let synced = r#"{"_id":1,"ui":7}"#;
    let table: [(&str, Option<&[&str]>); 3] = [
        ("fail", None),
        ("merge", Some(&[r#"{"_id":0}"#, synced])),
        ("drop", Some(&[synced])),
    ];
    for (policy, expected) in table {
        let scene = scene(policy).await?;
        scene.on_target(r#"{"insert":"c","documents":[{"_id":0}]}"#)?;
        let filled = fill(&scene, 7, 0).await;
        let Some(expected) = expected else {
            let reason = format!("{:#}", filled.err().unwrap_or_else(|| anyhow!("none")));
            assert!(reason.contains("--if-target-not-empty"), "{reason}");
            continue;
        };
        filled?;
        assert_eq!(scene.documents()?, expected, "{policy}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_or_already_synced_collection_is_filled_under_every_policy() -> Result<()> {
    for policy in ["fail", "merge", "drop"] {
        let scene = scene(policy).await?;
        scene.on_target(r#"{"create":"c"}"#)?;
        fill(&scene, 7, 0).await?;
        // The entries are applied again after a crash, and by another full sync of the same collection.
        fill(&scene, 7, 0).await?;
        scene.on_target(r#"{"insert":"c","documents":[{"_id":2}]}"#)?;
        fill(&scene, 7, 10).await?;
        assert_eq!(scene.documents()?.len(), 2, "{policy}");
    }
    Ok(())
}

/// The member that fills the collection again has read the catalog before another member created the
/// collection.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_another_member_created_belongs_to_the_group() -> Result<()> {
    for policy in ["fail", "drop"] {
        let one = scene(policy).await?;
        let flags = ["--if-target-not-empty", policy];
        let other = Scene::on(Arc::clone(&one.server), &flags).await?;
        fill(&one, 7, 0).await?;
        one.on_target(r#"{"insert":"c","documents":[{"_id":2}]}"#)?;
        fill(&other, 7, 10).await?;
        assert_eq!(one.documents()?.len(), 2, "{policy}");
    }
    Ok(())
}
