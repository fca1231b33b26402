//! Entries that are applied again after a reset: the target is ahead of them, and ends in the same
//! state.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use oplog_relay_kit::model::{Model, ModelServer};

use crate::carry::CATALOG;
use crate::made::Made;
use crate::topics::Topics;

const PLACES: i32 = 40;

/// Returns a history with documents that would be refused by an index that is created later.
fn refused_later() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.u", 1)?;
    // Two documents have a value before the index is created, and a third one has it in the end.
    made.insert_with("s.u", 1, doc! { "_id": 1, "k": 1 })?;
    made.insert_with("s.u", 1, doc! { "_id": 2, "k": 1 })?;
    made.delete("s.u", 1, 1)?;
    let unique = doc! {
        "createIndexes": "u", "v": 2, "key": { "k": 1 }, "name": "k_1", "unique": 1.0,
    };
    made.command("s.u", 1, unique)?;
    made.delete("s.u", 1, 2)?;
    made.insert_with("s.u", 1, doc! { "_id": 3, "k": 1 })?;
    // After a command the value belongs to another document.
    made.insert_with("s.u", 1, doc! { "_id": 4, "k": 4 })?;
    made.command("s.u", 1, doc! { "collMod": "u", "validationLevel": "off" })?;
    made.delete("s.u", 1, 4)?;
    made.insert_with("s.u", 1, doc! { "_id": 5, "k": 4 })?;
    // Invalid geometries until they are corrected, in all partitions.
    made.create("s.g", 2)?;
    for id in 0..PLACES {
        made.insert_with("s.g", 2, doc! { "_id": id, "place": "nowhere" })?;
    }
    let point = |id: i32| doc! { "type": "Point", "coordinates": [id, 1] };
    for id in 0..PLACES {
        made.set("s.g", 2, id, doc! { "place": point(id) })?;
    }
    let sphere = doc! {
        "createIndexes": "g", "v": 2, "key": { "place": "2dsphere" }, "name": "place_2dsphere",
        "2dsphereIndexVersion": 3,
    };
    made.command("s.g", 2, sphere)?;
    for id in PLACES..2 * PLACES {
        made.insert_with("s.g", 2, doc! { "_id": id, "place": point(id) })?;
    }
    Ok(made)
}

fn index_names(target: &ModelServer, name: &str) -> Vec<String> {
    let collections = target.model().collections();
    let all = collections.get("s").into_iter().flatten();
    let here = all.filter(|described| described.get_str("name").ok() == Some(name));
    let indexes = here.filter_map(|described| described.get_array("indexes").ok());
    let specs = indexes.flatten().filter_map(|spec| spec.as_document());
    let names = specs.filter_map(|spec: &Document| spec.get_str("name").ok().map(str::to_owned));
    names.collect()
}

#[test]
fn indexes_that_refuse_earlier_documents_are_suspended_and_restored() -> Result<()> {
    let made = refused_later()?;
    let sorted = |mut documents: Vec<Vec<u8>>| {
        documents.sort();
        documents
    };
    let expected = made.expected()?.state();
    let topics = Topics::carry("refused-later", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    let group = "refused-later";
    for processes in [1, 3, 1] {
        topics.replay(&target, group, processes, &[])?;
        let mut state = target.model().state();
        let suspended = state.get(&format!("{CATALOG}.suspended_indexes"));
        ensure!(
            suspended.is_none_or(Vec::is_empty),
            "an index is still suspended"
        );
        for ns in ["s.u", "s.g"] {
            let found = state.remove(ns).map(sorted);
            ensure!(
                found == expected.get(ns).cloned().map(sorted),
                "{ns} differs"
            );
        }
        ensure!(index_names(&target, "u") == ["_id_", "k_1"]);
        ensure!(index_names(&target, "g") == ["_id_", "place_2dsphere"]);
        topics.reset(group, &["--all-topics", "--to-earliest"])?;
    }
    Ok(())
}
