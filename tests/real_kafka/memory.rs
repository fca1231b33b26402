//! Barriers and the byte budget: partitions at a barrier must not block the records that they wait
//! for.

mod compressible;
mod stored;

use anyhow::{Result, bail, ensure};
use bson::doc;
use oplog_relay_core::key::partition_for;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Program, wait_until};

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

const PARTITIONS: u32 = 8;
/// Number of documents of a kilobyte before the command, all in the leader's partition.
const BEFORE: usize = 4_000;
/// Number of documents after it, in all partitions.
const AFTER: i32 = 8_000;
/// Maximum number of groups that replay the history. The test ends with the first one that has to
/// make room at a barrier.
const GROUPS: u32 = 10;

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
    insert_all(&mut made, 2)?;
    let topics = Topics::carry("memory", &made.oplog()?)?;
    // The client decides which partition's records come first. If the leader's come first, no
    // partition has to make room.
    for group in 0..GROUPS {
        let target = ModelServer::start(Model::default())?;
        let log = topics.replay(&target, &format!("memory-{group}"), 1, &SMALL)?;
        let state = target.model().state();
        let count = state.get("s.a").map_or(0, Vec::len);
        ensure!(i32::try_from(count)? == AFTER, "{count} documents");
        if log.contains("evicted queued records") {
            return Ok(());
        }
    }
    bail!("no group had to make room")
}

/// A member with little memory, whose target stops answering while many records remain to be
/// replayed.
struct Standstill {
    topics: Topics,
    target: ModelServer,
    member: Program,
}

const SMALL: [&str; 2] = ["--queue-bytes=1MiB", "--log-level=debug"];

impl Standstill {
    /// Starts the member, stops the target from taking inserts into `s.a`, sends the entries that
    /// `make` adds to the history, and waits until the member has paused all partitions.
    fn begin(name: &str, mut made: Made, make: impl Fn(&mut Made) -> Result<()>) -> Result<Self> {
        made.insert_with("s.other", 9, doc! { "_id": 0 })?;
        let topics = Topics::carry(name, &made.oplog()?)?;
        let target = ModelServer::start(Model::default())?;
        let member = topics.start(&target, name, &SMALL)?;
        let standstill = Standstill {
            topics,
            target,
            member,
        };
        wait_until("the first document", LIMIT, || {
            standstill.count("s.other") == 1
        })?;
        standstill.target.hold("insert", "a");
        make(&mut made)?;
        standstill.topics.produce(&made.oplog()?, &[])?;
        standstill.wait_for_log("the sink is slower than Kafka")?;
        Ok(standstill)
    }

    fn count(&self, ns: &str) -> usize {
        self.target.model().state().get(ns).map_or(0, Vec::len)
    }

    fn wait_for_log(&self, text: &str) -> Result<()> {
        wait_until(text, LIMIT, || {
            self.member
                .stderr_text()
                .is_ok_and(|log| log.contains(text))
        })
    }

    /// Lets the target answer again, and checks that everything arrives.
    fn go_on(mut self) -> Result<()> {
        self.target.resume();
        let all = usize::try_from(AFTER)?;
        wait_until("all documents", LIMIT, || self.count("s.a") == all)?;
        self.member.stop(LIMIT)
    }
}

fn insert_all(made: &mut Made, ui: u8) -> Result<()> {
    let text = "x".repeat(1_000);
    for id in 0..AFTER {
        made.insert_with("s.a", ui, doc! { "_id": id, "text": &text })?;
    }
    Ok(())
}

/// When the target continues, the partition whose records fill the memory reaches a barrier. It
/// waits there for partitions of which nothing was fetched yet.
#[test]
fn a_partition_that_reaches_a_barrier_while_all_are_paused_makes_room() -> Result<()> {
    let standstill = Standstill::begin("standstill", Made::default(), |made| {
        for id in 0..100 {
            made.insert_with("s.a", 1, doc! { "_id": id })?;
        }
        made.drop("s.a", 1)?;
        insert_all(made, 2)
    })?;
    standstill.go_on()
}

/// Partitions that are revoked while they are paused are no longer paused when they are assigned
/// again.
#[test]
fn partitions_assigned_again_after_a_standstill_are_read() -> Result<()> {
    let standstill = Standstill::begin("back", Made::default(), |made| insert_all(made, 1))?;
    let elsewhere = ModelServer::start(Model::default())?;
    elsewhere.hold("insert", "a");
    let mut other = standstill.topics.start(&elsewhere, "back", &SMALL)?;
    standstill.wait_for_log("partitions revoked")?;
    standstill.target.resume();
    standstill.wait_for_log("the sink has caught up")?;
    other.kill_9()?;
    standstill.go_on()
}

/// A blocked worker holds only its own records, not those of another collection.
#[test]
fn a_collection_whose_writes_are_blocked_does_not_stop_another_one() -> Result<()> {
    let mut standstill = Standstill::begin("apart", Made::default(), |made| insert_all(made, 1))?;
    let mut made = Made::default();
    made.insert_with("s.other", 9, doc! { "_id": 0 })?;
    insert_all(&mut made, 1)?;
    made.insert_with("s.other", 9, doc! { "_id": 1 })?;
    standstill.topics.produce(&made.oplog()?, &[])?;
    wait_until("the other collection", LIMIT, || {
        standstill.count("s.other") == 2
    })?;
    ensure!(standstill.member.is_running()?);
    standstill.go_on()
}
