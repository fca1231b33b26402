//! Small entries of documents that are large on the target. The documents that the replay reads
//! from the target must not fill the memory.

use anyhow::{Result, ensure};
use bson::doc;
use oplog_relay_core::document::Document;
use oplog_relay_kit::model::{Model, ModelServer};

use super::compressible::MOST;
use crate::made::Made;
use crate::oversize::state;
use crate::topics::{LIMIT, Topics};

/// Number of inserted documents. If all partitions read their documents at once, these would need
/// more than [`MOST`].
const INSERTED: i32 = 500;
/// Number of updated documents. The documents that each partition has to rewrite do not fit into
/// one reply.
const UPDATED: i32 = 200;
/// The largest permitted memory, in MiB, of a consumer that rewrites large documents. Each document
/// is in memory three times: as it was read, as it is written, and in the command.
const MOST_OF_REWRITES: u64 = 360;
const LARGE: usize = 1_000_000;

/// Returns a target with large documents.
fn large(documents: i32) -> Result<ModelServer> {
    let target = ModelServer::start(Model::default())?;
    let text = "x".repeat(LARGE);
    for id in 0..documents {
        let insert = doc! { "insert": "a", "documents": [{ "_id": id, "text": &text }] };
        let bytes = insert.to_vec()?;
        let reply = target.model().command("s", Document::new(&bytes)?)?;
        let reply = bson::Document::from_reader(reply.as_slice())?;
        ensure!(reply.get_i32("n").is_ok_and(|n| n == 1), "{reply}");
    }
    Ok(target)
}

/// Replays to the end; returns the peak memory in MiB.
fn replayed(topics: &Topics, target: &ModelServer) -> Result<u64> {
    let flags = ["--until-caught-up"];
    let mut member = topics.start(target, "stored", &flags)?;
    let (code, peak) = member.wait_measured(LIMIT)?;
    ensure!(code == 0, "{code}: {}", member.stderr_text()?);
    Ok(peak / 1024)
}

#[test]
fn redelivered_inserts_do_not_load_all_their_stored_documents() -> Result<()> {
    let mut made = Made::default();
    for id in 0..INSERTED {
        made.insert_with("s.a", 1, doc! { "_id": id, "text": "small" })?;
    }
    let topics = Topics::carry("stored-inserts", &made.oplog()?)?;
    let target = large(INSERTED)?;
    let peak = replayed(&topics, &target)?;
    ensure!(peak < MOST, "the replay took {peak} MiB");
    ensure!(state(&target) == made.expected()?.state());
    Ok(())
}

#[test]
fn small_updates_of_large_documents_are_rewritten_a_few_at_a_time() -> Result<()> {
    let mut made = Made::default();
    for id in 0..UPDATED {
        let diff = doc! { "$v": 2, "diff": { "i": { "small": id } } };
        made.update("s.a", 1, id, diff)?;
    }
    let topics = Topics::carry("stored-updates", &made.oplog()?)?;
    let target = large(UPDATED)?;
    let peak = replayed(&topics, &target)?;
    ensure!(peak < MOST_OF_REWRITES, "the replay took {peak} MiB");
    let state = state(&target);
    let documents = state.get("s.a").map_or(&[][..], Vec::as_slice);
    ensure!(i32::try_from(documents.len())? == UPDATED);
    for document in documents {
        let small = Document::new(document)?.get("small")?;
        ensure!(small.is_some(), "a document was not updated");
    }
    Ok(())
}
