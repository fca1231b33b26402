//! Barriers and the byte budget: those who wait must not keep out what they wait for.

use anyhow::{Result, ensure};
use bson::doc;
use oplog_relay_core::key::partition_for;
use oplog_relay_tests::model::{Model, ModelServer};

use crate::made::Made;
use crate::topics::Topics;

const PARTITIONS: u32 = 8;
/// Documents of a kilobyte before the command, all in the leader's partition.
const BEFORE: usize = 4_000;
/// And after it, everywhere.
const AFTER: i32 = 8_000;

#[test]
fn partitions_at_a_barrier_make_room_for_the_one_that_they_wait_for() -> Result<()> {
    let mut made = Made::default();
    let text = "x".repeat(1_000);
    let of_leader = (0..).filter(|id: &i32| {
        let key = format!("{{\"_id\":{id}}}");
        partition_for(key.as_bytes(), PARTITIONS) == 0
    });
    for id in of_leader.take(BEFORE) {
        made.insert_with("s.a", 1, doc! { "_id": id, "text": &text })?;
    }
    made.drop("s.a", 1)?;
    for id in 0..AFTER {
        made.insert_with("s.a", 2, doc! { "_id": id, "text": &text })?;
    }
    let topics = Topics::carry("memory", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    let small = ["--queue-bytes=1MiB", "--log-level=debug"];
    let told = topics.replay(&target, "memory", 1, &small)?;
    let state = target.model().state();
    let count = state.get("s.a").map_or(0, Vec::len);
    ensure!(i32::try_from(count)? == AFTER, "{count} documents");
    // It was needed.
    ensure!(
        told.contains("made room at a barrier"),
        "nobody had to make room"
    );
    Ok(())
}
