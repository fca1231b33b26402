//! Documents that are held while they move between the shards of the target.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use oplog_relay_kit::model::{Model, ModelServer, Version};

use crate::idle::on_target;
use crate::made::Made;
use crate::topics::Topics;

/// Returns the topics of a history in which a document gets another shard key, and a target without
/// transactions, on which another document has the new values in a unique index.
fn held(prefix: &str, has_command: bool) -> Result<(Topics, ModelServer)> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    made.insert_with("s.a", 1, doc! { "_id": 1, "k": 1, "u": "a" })?;
    made.set("s.a", 1, 1, doc! { "k": 2 })?;
    if has_command {
        let command = doc! { "createIndexes": "a", "v": 2, "unique": true, "key": { "k": 1, "z": 1 }, "name": "z" };
        made.command("s.a", 1, command)?;
    }
    let topics = Topics::none(prefix)?;
    topics.produce(&made.oplog()?, &["--order=collection"])?;
    let target = ModelServer::start(Model::cluster(Version::V6_0, 2))?;
    target.model().refuse_transactions();
    on_target(
        &target,
        doc! { "shardCollection": "s.a", "key": { "k": 1 } },
    )?;
    let index = doc! { "key": { "k": 1, "u": 1 }, "name": "k_1_u_1", "unique": true };
    on_target(&target, doc! { "createIndexes": "a", "indexes": [index] })?;
    let other = doc! { "_id": 100, "k": 2, "u": "a" };
    on_target(&target, doc! { "insert": "a", "documents": [other] })?;
    Ok((topics, target))
}

/// The replay stops because of the held document, whose stored form was deleted to be moved.
#[test]
fn a_document_that_is_held_while_it_moves_is_stored_when_the_replay_stops() -> Result<()> {
    for (prefix, has_command, text) in [
        ("moves-before", true, "and a command follows"),
        ("moves-end", false, "no more records follow"),
    ] {
        let (topics, target) = held(prefix, has_command)?;
        // The next start applies the entries again.
        for _ in 0..2 {
            topics.refused(&target, prefix, &[], (6, text))?;
            let state = target.model().state();
            let found = state["s.a"].iter();
            let found = found.map(|bytes| Ok(Document::from_reader(bytes.as_slice())?));
            let mut found: Vec<Document> = found.collect::<Result<_>>()?;
            found.sort_by_key(|document| document.get_i32("_id").unwrap_or_default());
            let before = doc! { "_id": 1, "k": 1, "u": "a" };
            let other = doc! { "_id": 100, "k": 2, "u": "a" };
            ensure!(found == [before, other], "{prefix}: {found:?}");
            let notes = state.get("oplog_relay.moving");
            ensure!(notes.is_none_or(Vec::is_empty), "{prefix}: a note remains");
        }
    }
    Ok(())
}
