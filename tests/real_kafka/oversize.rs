//! Records that exceed their topic's size limit.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_core::format::fragment::FRAGMENT_HEADER;
use oplog_relay_kit::model::{Model, ModelServer, State};
use oplog_relay_kit::services::wait_until;
use oplog_relay_kit::topic_reader::{Contents, read_undecoded};

use crate::carry::CATALOG;
use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The size limit of the topic.
const MAX_BYTES: usize = 64 << 10;
const KILLS: u64 = 6;

/// Returns a text that hardly compresses.
pub(crate) fn noise(length: usize, seed: u64) -> String {
    let mut state = seed | 1;
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-";
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(letters[(state % 64) as usize])
    };
    (0..length).map(|_| letter()).collect()
}

/// Returns documents, updates and a command of sizes around the limit and far beyond it.
fn history() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    let sizes = [
        10, 9_000, 64_000, 65_300, 65_536, 66_000, 131_000, 200_000, 1_000_000,
    ];
    for (id, size) in (0..).zip(sizes.into_iter().cycle().take(45)) {
        let text = noise(size, u64::try_from(id)? + 7);
        made.insert_with("s.a", 1, doc! { "_id": id, "text": text })?;
    }
    made.insert_with("s.a", 1, doc! { "_id": 100, "text": noise(5_000_000, 5) })?;
    let rule = doc! { "text": { "$ne": noise(150_000, 3) } };
    made.command("s.a", 1, doc! { "collMod": "a", "validator": rule })?;
    for id in (0..45).step_by(2) {
        made.set("s.a", 1, id, doc! { "more": noise(70_000, 11), "id": id })?;
    }
    for id in (0..45).step_by(5) {
        made.delete("s.a", 1, id)?;
    }
    Ok(made)
}

pub(crate) fn state(target: &ModelServer) -> State {
    let mut state = target.model().state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    state
}

/// Returns topics of which an operator has created that of `s.a`, with a small size limit.
fn small_topic(prefix: &str) -> Result<Topics> {
    let topics = Topics::none(prefix)?;
    let name = format!("{prefix}.s.a");
    let max = format!("max.message.bytes={MAX_BYTES}");
    let create = ["--create", "--topic", &name, "--partitions", "8"];
    let settings = ["--config", "retention.ms=-1", "--config", &max];
    topics.tool("kafka-topics", &[&create[..], &settings[..]].concat())?;
    Ok(topics)
}

/// Checks that the fragments of a record fit into the limit, are consecutive, and have the same key
/// and timestamp.
fn check_fragments(contents: &Contents) -> Result<()> {
    let mut largest = 0;
    for records in contents.values() {
        for pair in records.windows(2) {
            let [one, next] = pair else { continue };
            let header = |of: &oplog_relay_kit::topic_reader::TopicRecord| {
                of.header(FRAGMENT_HEADER)
                    .map(|text| String::from_utf8_lossy(text).into_owned())
            };
            let (Some(first), Some(second)) = (header(one), header(next)) else {
                continue;
            };
            if second.starts_with("0/") {
                continue;
            }
            let number = |text: &str| text.split_once('/')?.0.parse().ok();
            let (first, second): (Option<u32>, _) = (number(&first), number(&second));
            ensure!(first.map(|it| it + 1) == second && one.offset + 1 == next.offset);
            ensure!(one.key == next.key && one.timestamp == next.timestamp);
            largest = largest.max(second.unwrap_or_default());
        }
        ensure!(records.iter().all(|record| record.value.len() < MAX_BYTES));
    }
    ensure!(
        largest > 70,
        "the document of five megabytes has only fragments up to {largest}"
    );
    Ok(())
}

#[test]
fn entries_larger_than_the_topic_takes_reach_the_target_in_fragments() -> Result<()> {
    let made = history()?;
    let (oplog, expected) = (made.oplog()?, made.expected()?.state());
    for format in ["bson", "raw"] {
        let prefix = format!("fragments-{format}");
        let topics = small_topic(&prefix)?;
        let format = format!("--format={format}");
        // The producer ends with an error that names the remedy, and does not retry indefinitely.
        let remedy = "--oversize split";
        topics.produce_to_code(&oplog, &[&format], (6, remedy))?;
        topics.produce(&oplog, &[&format, "--oversize=split"])?;
        let contents = read_undecoded(&topics.brokers(), &prefix)?;
        check_fragments(&contents)?;
        for processes in [1, 3] {
            let target = ModelServer::start(Model::default())?;
            let group = format!("{prefix}-{processes}");
            topics.replay(&target, &group, processes, &["--queue-bytes=1MiB"])?;
            ensure!(state(&target) == expected, "{group}");
        }
        // Fragments result in the same lines as records that were not split.
        let lines =
            |text: String| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
        let emitted = lines(topics.emit(&format!("{prefix}-lines"))?);
        let group = format!("whole-{prefix}");
        let whole = Topics::none(&group)?;
        whole.produce(&oplog, &[&format])?;
        ensure!(emitted == lines(whole.emit(&group)?), "{prefix}");
    }
    Ok(())
}

/// A frame has no more entries than fit into the limit of its topic, however small they are.
#[test]
fn frames_of_small_entries_keep_to_the_limit_of_their_topic() -> Result<()> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..6000 {
        let text = noise(100, u64::try_from(id)? + 7);
        made.insert_with("s.a", 1, doc! { "_id": id, "text": text })?;
    }
    let topics = small_topic("frames")?;
    topics.produce(&made.oplog()?, &["--format=raw"])?;
    let contents = read_undecoded(&topics.brokers(), "frames")?;
    let mut records = contents.values().flatten();
    ensure!(records.all(|record| record.value.len() < MAX_BYTES));
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "frames", 1, &[])?;
    ensure!(state(&target) == made.expected()?.state());
    Ok(())
}

#[test]
fn a_member_killed_between_fragments_loses_nothing_and_a_start_between_them_is_refused()
-> Result<()> {
    let made = history()?;
    let (oplog, expected) = (made.oplog()?, made.expected()?.state());
    let topics = small_topic("torn")?;
    topics.produce(&oplog, &["--oversize=split"])?;
    let target = ModelServer::start(Model::default())?;
    for kill in 0..KILLS {
        let mut member = topics.start(&target, "torn", &["--queue-bytes=1MiB", "--lanes=1"])?;
        wait_until("partitions", LIMIT, || {
            let log = member.stderr_text();
            log.is_ok_and(|log| log.contains("partitions assigned"))
        })?;
        let life = Duration::from_millis(31 * kill);
        let begun = Instant::now();
        wait_until("the moment", LIMIT, || begun.elapsed() >= life)?;
        ensure!(member.is_running()?, "{}", member.stderr_text()?);
        member.kill_9()?;
    }
    topics.replay(&target, "torn", 2, &[])?;
    ensure!(
        state(&target) == expected,
        "the target differs after the kills"
    );

    let contents = read_undecoded(&topics.brokers(), "torn")?;
    let inside = contents.iter().find_map(|((topic, partition), records)| {
        let inside = |text: &[u8]| text.starts_with(b"1/");
        let mut records = records.iter();
        let found = records.find(|record| record.header(FRAGMENT_HEADER).is_some_and(inside))?;
        Some((format!("{topic}:{partition}"), found.offset.to_string()))
    });
    let (place, offset) = inside.context("no second fragment")?;
    topics.reset("torn", &["--topic", &place, "--to-offset", &offset])?;
    topics.refused(&target, "torn", &[], (4, "fragment 1/"))?;
    ensure!(
        state(&target) == expected,
        "the target differs after the refusal"
    );
    topics.reset("torn", &["--all-topics", "--to-earliest"])?;
    topics.replay(&target, "torn", 1, &[])?;
    ensure!(
        state(&target) == expected,
        "the target differs after the reset"
    );
    Ok(())
}

/// Nobody can split these records, and a repetition would be refused as well.
#[test]
fn a_record_that_an_internal_topic_refuses_ends_the_producer() -> Result<()> {
    for kind in ["state", "position"] {
        let prefix = format!("tiny-{kind}");
        let topics = Topics::none(&prefix)?;
        let mut made = Made::default();
        made.create("s.a", 1)?;
        made.insert("s.a", 1, 1)?;
        topics.produce(&made.oplog()?, &[])?;
        let name = format!("__{prefix}.{kind}.golden");
        let topic = ["--entity-type", "topics", "--entity-name", &name];
        let alter = ["--alter", "--add-config", "max.message.bytes=100"];
        topics.tool("kafka-configs", &[&alter[..], &topic[..]].concat())?;
        made.create("s.b", 2)?;
        made.insert("s.b", 2, 2)?;
        for oversize in ["stop", "split"] {
            let flag = format!("--oversize={oversize}");
            let refusal = (6, "it cannot be split");
            topics.produce_to_code(&made.oplog()?, &[&flag], refusal)?;
        }
    }
    Ok(())
}
