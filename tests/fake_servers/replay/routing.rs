//! A change of the routing that moves a collection from one partition to several.

use std::sync::Arc;

use anyhow::Result;
use oplog_consumer::replay::suspended_indexes;
use oplog_consumer::worker::applied::Applied;
use oplog_consumer::worker::batch::Located;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::{EntryId, Position, Timestamp};
use oplog_relay_core::routing::{RoutingChange, SpreadCollection};

use super::{NS, Scene, UNAUTHORIZED};

const UNIQUE: &str = r#"{"createIndexes":"c","indexes":[
    {"key":{"k":1},"name":"k_1","unique":true,"sparse":true},{"key":{"m":1},"name":"m_1"}]}"#;

/// Returns the indexes of a collection other than that of `_id`.
fn indexes(scene: &Scene) -> Vec<(String, bool, bool)> {
    let described = &scene.server.model().collections()["db"][0];
    let indexes = described.get_array("indexes").into_iter().flatten();
    let indexes = indexes.filter_map(bson::Bson::as_document);
    let is_true = |index: &bson::Document, name: &str| index.get_bool(name).unwrap_or(false);
    let mut found: Vec<_> = indexes
        .filter(|index| index.get_str("name").ok() != Some("_id_"))
        .map(|index| {
            let name = index.get_str("name").unwrap_or_default().to_owned();
            (name, is_true(index, "unique"), is_true(index, "sparse"))
        })
        .collect();
    found.sort_unstable();
    found
}

/// Returns the entry with which the collection is spread over several partitions.
fn spread_entry() -> (EntryId, Vec<u8>) {
    let at = Position {
        ts: Timestamp::new(9, 1),
        term: 1,
        ord: 0,
    };
    let spread = |ns: &str| SpreadCollection {
        ns: ns.to_owned(),
        ui: None,
    };
    let change = RoutingChange {
        version: 2,
        spread: vec![spread(NS), spread("db.gone")],
    };
    let mut entry = Vec::new();
    change.write(at, &mut entry);
    let id = EntryId {
        ts: at.ts,
        ..change.id(at.ts)
    };
    (id, entry)
}

/// Applies the entry with which the collection is spread.
async fn spread(scene: &Scene) -> Result<Applied> {
    let (id, entry) = spread_entry();
    let located = Located {
        offset: 0,
        id,
        entry: Entry::parse(Document::new(&entry)?)?,
    };
    let none = NamespaceFilter::default();
    let changed = scene
        .sink
        .change_routing("rs0", &located, &none, &scene.token);
    Ok(changed.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_spread_has_non_unique_indexes_from_then_on() -> Result<()> {
    let scene = Scene::new("count").await?;
    scene.on_target(UNIQUE)?;
    assert_eq!(spread(&scene).await?, Applied::Done);
    let plain = ("k_1".to_owned(), false, true);
    let other = ("m_1".to_owned(), false, false);
    assert_eq!(indexes(&scene), [plain.clone(), other.clone()]);
    assert!(scene.sink.has_run("rs0", spread_entry().0).await?);

    // The change is applied again, as after a reset: indexes that were created since then stay.
    scene.on_target(r#"{"dropIndexes":"c","index":"k_1"}"#)?;
    scene.on_target(UNIQUE)?;
    assert_eq!(spread(&scene).await?, Applied::Done);
    assert_eq!(indexes(&scene), [("k_1".to_owned(), true, true), other]);
    Ok(())
}

/// The replay stops before the index is dropped, or after that and before it is built.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_dropped_to_be_rebuilt_is_built_when_the_change_is_repeated() -> Result<()>
{
    const CANNOT_CREATE_INDEX: i32 = 67;
    let other = ("m_1".to_owned(), false, false);
    let unique = ("k_1".to_owned(), true, true);
    for (command, code, left, message) in [
        (
            "createIndexes",
            CANNOT_CREATE_INDEX,
            None,
            "suspended_indexes",
        ),
        (
            "dropIndexes",
            UNAUTHORIZED,
            Some(unique),
            "dropping an index",
        ),
    ] {
        let scene = Scene::new("count").await?;
        scene.on_target(UNIQUE)?;
        scene.server.fail_next(command, code);
        let stopped = spread(&scene).await;
        let reason = stopped.expect_err("a command was refused").to_string();
        assert!(reason.contains(message), "{reason}");
        let left: Vec<_> = left.into_iter().chain([other.clone()]).collect();
        assert_eq!(indexes(&scene), left);

        let next = Scene::on(Arc::clone(&scene.server), &[]).await?;
        assert_eq!(spread(&next).await?, Applied::Done);
        let rebuilt = ("k_1".to_owned(), false, true);
        assert_eq!(indexes(&next), [rebuilt, other.clone()]);
        assert_eq!(suspended_indexes(next.sink.client(), "g").await?, [""; 0]);
    }
    Ok(())
}
