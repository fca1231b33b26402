//! Barriers and the byte budget: those who wait must not keep out what they wait for.

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
/// Documents of a kilobyte before the command, all in the leader's partition.
const BEFORE: usize = 4_000;
/// And after it, everywhere.
const AFTER: i32 = 8_000;
/// Groups that replay it until one had to make room.
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
    // Which partition's records come first is up to the client; if it is the leader's, it waits for none.
    for group in 0..GROUPS {
        let target = ModelServer::start(Model::default())?;
        let told = topics.replay(&target, &format!("memory-{group}"), 1, &SMALL)?;
        let state = target.model().state();
        let count = state.get("s.a").map_or(0, Vec::len);
        ensure!(i32::try_from(count)? == AFTER, "{count} documents");
        if told.contains("made room at a barrier") {
            return Ok(());
        }
    }
    bail!("nobody had to make room")
}

/// A member with little memory, whose target answers no more while there is much to replay.
struct Standstill {
    topics: Topics,
    target: ModelServer,
    member: Program,
}

const SMALL: [&str; 2] = ["--queue-bytes=1MiB", "--log-level=debug"];

impl Standstill {
    /// Until the member has paused all partitions.
    fn begin(name: &str, mut made: Made, make: impl Fn(&mut Made) -> Result<()>) -> Result<Self> {
        made.insert_with("s.other", 9, doc! { "_id": 0 })?;
        let topics = Topics::carry(name, &made.oplog()?)?;
        let target = ModelServer::start(Model::default())?;
        let member = topics.start(&target, name, &SMALL)?;
        let stands = Standstill {
            topics,
            target,
            member,
        };
        wait_until("the first document", LIMIT, || stands.count("s.other") == 1)?;
        stands.target.hold("insert", "a");
        make(&mut made)?;
        stands.topics.produce(&made.oplog()?, &[])?;
        stands.told("the sink is slower than kafka")?;
        Ok(stands)
    }

    fn count(&self, ns: &str) -> usize {
        self.target.model().state().get(ns).map_or(0, Vec::len)
    }

    fn told(&self, text: &str) -> Result<()> {
        wait_until(text, LIMIT, || {
            self.member
                .stderr_text()
                .is_ok_and(|told| told.contains(text))
        })
    }

    /// The target answers again: everything must arrive.
    fn go_on(mut self) -> Result<()> {
        self.target.resume();
        let all = usize::try_from(AFTER)?;
        wait_until("all documents", LIMIT, || self.count("s.a") == all)?;
        self.member.terminate()?;
        let code = self.member.wait(LIMIT)?;
        ensure!(code == 143, "ended with {code}");
        Ok(())
    }
}

fn insert_all(made: &mut Made, life: u8) -> Result<()> {
    let text = "x".repeat(1_000);
    for id in 0..AFTER {
        made.insert_with("s.a", life, doc! { "_id": id, "text": &text })?;
    }
    Ok(())
}

/// When the target goes on, the partition whose records fill the memory comes to a barrier, and waits
/// there for those of which nothing was taken yet.
#[test]
fn a_partition_that_comes_to_a_barrier_while_nothing_is_taken_makes_room() -> Result<()> {
    let stands = Standstill::begin("standstill", Made::default(), |made| {
        for id in 0..100 {
            made.insert_with("s.a", 1, doc! { "_id": id })?;
        }
        made.drop("s.a", 1)?;
        insert_all(made, 2)
    })?;
    stands.go_on()
}

/// Partitions that go while they are paused are paused no more when they come back.
#[test]
fn partitions_that_come_back_after_a_standstill_are_read() -> Result<()> {
    let stands = Standstill::begin("back", Made::default(), |made| insert_all(made, 1))?;
    let elsewhere = ModelServer::start(Model::default())?;
    elsewhere.hold("insert", "a");
    let mut other = stands.topics.start(&elsewhere, "back", &SMALL)?;
    stands.told("partitions revoked")?;
    stands.target.resume();
    stands.told("going on: the sink has caught up")?;
    other.kill_9()?;
    stands.go_on()
}

/// A worker that stands still keeps its own records waiting, not those of another collection.
#[test]
fn a_collection_whose_writes_stand_still_does_not_stop_another_one() -> Result<()> {
    let mut stands = Standstill::begin("apart", Made::default(), |made| insert_all(made, 1))?;
    let mut made = Made::default();
    made.insert_with("s.other", 9, doc! { "_id": 0 })?;
    insert_all(&mut made, 1)?;
    made.insert_with("s.other", 9, doc! { "_id": 1 })?;
    stands.topics.produce(&made.oplog()?, &[])?;
    wait_until("the other collection", LIMIT, || {
        stands.count("s.other") == 2
    })?;
    ensure!(stands.member.is_running()?);
    stands.go_on()
}
