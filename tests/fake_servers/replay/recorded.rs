//! Entries that a real server wrote and that targets have refused, applied to several versions of the
//! model.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oplog_consumer::worker::applied::Applied;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::model::{Model, State, Version};

use super::Scene;

const SINCE_5_0: [Version; 4] = [Version::V5_0, Version::V6_0, Version::V7_0, Version::V8_0];

/// Returns the entries of a dump, with the ids that a producer gives them.
fn dump(name: &str) -> Result<Vec<(EntryId, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/refused");
    let bytes = fs::read(folder.join(name))?;
    let (mut rest, mut entries) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (document, after) = Document::split(rest)?;
        let ts = Entry::parse(document)?.ts;
        entries.push((EntryId { ts, ord: 0 }, document.as_bytes().to_vec()));
        rest = after;
    }
    Ok(entries)
}

/// Applies a dump in one batch or entry by entry, and again from its first entry. Returns the
/// documents that exist then.
async fn applied_twice(version: Version, name: &str, batch: usize) -> Result<State> {
    let scene = Scene::of(Model::of(version), "stop").await?;
    let entries = dump(name)?;
    let mut states = Vec::new();
    for _ in 0..2 {
        for entries in entries.chunks(batch) {
            let (applied, refused) = scene.apply_entries(entries).await?;
            ensure!(
                applied == Applied::Done && refused.is_empty(),
                "{refused:?}"
            );
        }
        let mut state = scene.server.model().state();
        state.retain(|ns, _| !ns.starts_with("oplog_relay."));
        states.push(state);
    }
    ensure!(states[0] == states[1], "{name} differs the second time");
    Ok(states.swap_remove(0))
}

fn document(entries: &[(EntryId, Vec<u8>)], index: usize) -> Result<Vec<u8>> {
    let entry = Entry::parse(Document::new(&entries[index].1)?)?;
    Ok(entry.o.as_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_with_a_collation_can_be_applied_again() -> Result<()> {
    for version in SINCE_5_0 {
        for batch in [1, 100] {
            let state = applied_twice(version, "collation.bson", batch).await?;
            let expected = [
                bson::doc! { "_id": "zz", "k": 1 }.to_vec()?,
                bson::doc! { "_id": "é", "k": 2 }.to_vec()?,
            ];
            ensure!(state["bugs_live.c1"] == expected, "{version:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_index_is_created_on_every_version_and_expires_nothing() -> Result<()> {
    for version in [Version::V4_4].into_iter().chain(SINCE_5_0) {
        // If the target already has the index with its true expiry, the expiry is postponed.
        for there in [None, Some(3600)] {
            let scene = Scene::of(Model::of(version), "stop").await?;
            if let Some(seconds) = there {
                let index = bson::doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": seconds };
                let create = bson::doc! { "createIndexes": "c", "indexes": [index] };
                let create = create.to_vec()?;
                let command = Document::new(&create)?;
                scene.server.model().command("bugs_ttl", command)?;
            }
            for entry in dump("ttl-index.bson")? {
                let (applied, _) = scene.apply_entries(&[entry]).await?;
                ensure!(applied == Applied::Done);
            }
            let described = scene.server.model().collections()["bugs_ttl"][0].clone();
            let indexes = described.get_array("indexes")?;
            let index = indexes[1].as_document().context("no index")?;
            ensure!(index.get_str("name")? == "at_1");
            let seconds = index.get("expireAfterSeconds").cloned();
            let expected = there.map(|_| bson::Bson::Int32(i32::MAX));
            ensure!(seconds == expected, "{version:?}: {seconds:?}");
            let state = scene.server.model().state();
            ensure!(state["bugs_ttl.c"].len() == 2, "{version:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_begins_with_a_dollar_is_kept_and_its_document_changed() -> Result<()> {
    let entries = dump("dollar-field.bson")?;
    let mut expected = bson::Document::from_reader(document(&entries, 1)?.as_slice())?;
    expected.insert("k", 1);
    for version in SINCE_5_0 {
        for batch in [1, 100] {
            let state = applied_twice(version, "dollar-field.bson", batch).await?;
            ensure!(state["bugs_live.du"] == [expected.to_vec()?], "{version:?}");
        }
    }
    Ok(())
}
