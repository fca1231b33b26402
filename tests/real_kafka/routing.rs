//! Changes of the routing while consumers run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_core::format::Format;
use oplog_relay_kit::model::{Model, ModelServer, State};
use oplog_relay_kit::services::wait_until;
use oplog_relay_kit::topic_reader::{entries, read_topics};

use crate::carry::CATALOG;
use crate::made::Made;
use crate::topics::{LIMIT, Topics};

const DOCUMENTS: i32 = 60;
const KILLS: u64 = 10;
/// Ordinals from here on belong to barriers and changes of the routing, not to entries.
const NO_ENTRY: u32 = 0xfffe_0000;

/// Changes every document repeatedly, so that another order of the entries results in another
/// state.
fn change_all(made: &mut Made, ns: &str, times: i32) -> Result<()> {
    let begun = made.next_second()?;
    for time in 0..times {
        for id in 0..DOCUMENTS {
            let change = doc! { "n": time, "at": i64::from(begun) };
            made.set(ns, 1, id, change)?;
        }
    }
    Ok(())
}

fn begin(ns: &str) -> Result<Made> {
    let mut made = Made::default();
    made.create(ns, 1)?;
    for id in 0..DOCUMENTS {
        made.insert_with(ns, 1, doc! { "_id": id, "k": id })?;
    }
    Ok(made)
}

fn state(model: &Model) -> State {
    let mut state = model.state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    state
}

/// Replays everything with a new group for each of these numbers of processes, and checks the
/// results.
fn expect_replay(topics: &Topics, made: &Made, group: &str, processes: &[usize]) -> Result<()> {
    let expected = state(&made.expected()?);
    for count in processes {
        let target = ModelServer::start(Model::default())?;
        topics.replay(&target, &format!("{group}-{count}"), *count, &[])?;
        ensure!(state(&target.model()) == expected, "{group} by {count}");
    }
    Ok(())
}

#[test]
fn a_history_over_changes_of_order_and_format_leads_to_the_sources_state() -> Result<()> {
    let topics = Topics::none("switch")?;
    let mut made = begin("s.a")?;
    change_all(&mut made, "s.a", 60)?;
    topics.produce(&made.oplog()?, &["--order=id"])?;
    // Rules other than the saved ones are refused, and the error names the flag.
    let refused = (2, "--change-routing");
    let collection = ["--order=collection"];
    topics.produce_to_code(&made.oplog()?, &collection, refused)?;
    topics.produce_to_code(&made.oplog()?, &["--order=id", "--format=raw"], refused)?;
    // The member of `live` runs during the changes, `follower` replays after each of them, and new
    // groups start after all of them.
    let live = ModelServer::start(Model::default())?;
    let mut member = topics.start(&live, "live", &[])?;
    let follower = ModelServer::start(Model::default())?;
    topics.replay(&follower, "follower", 2, &[])?;

    let of_oplog = ["--format=json", "--json=canonical", "--envelope=oplog"];
    let steps: [&[&str]; 6] = [
        &["--order=collection"],
        &["--order=id", "--format=raw"],
        &["--order=collection", "--format=json", "--json=canonical"],
        &of_oplog,
        &["--order=auto", "--format=bson"],
        &["--order=id"],
    ];
    for (number, rules) in steps.into_iter().enumerate() {
        let at = || format!("step {number}: {rules:?}");
        let forced = [rules, &["--change-routing"]].concat();
        if number % 2 == 0 {
            // The producer has no new entries to send.
            topics.produce(&made.oplog()?, &forced).with_context(at)?;
        } else {
            change_all(&mut made, "s.a", 1)?;
            topics.produce(&made.oplog()?, &forced).with_context(at)?;
        }
        change_all(&mut made, "s.a", 2)?;
        topics.produce(&made.oplog()?, rules).with_context(at)?;
        topics.produce_to_code(&made.oplog()?, &["--order=id", "--format=json"], refused)?;
        topics
            .replay(&follower, "follower", 2, &[])
            .with_context(at)?;
        ensure!(
            state(&follower.model()) == state(&made.expected()?),
            "{}",
            at()
        );
    }
    let expected = state(&made.expected()?);
    wait_until("the end", LIMIT, || {
        state(&live.model()) == expected || !member.is_running().unwrap_or(false)
    })?;
    ensure!(member.is_running()?, "{}", member.stderr_text()?);
    expect_replay(&topics, &made, "switch", &[1, 2, 3])?;
    // Everything is applied again to the existing target.
    topics.reset("follower", &["--all-topics", "--to-earliest"])?;
    topics.replay(&follower, "follower", 2, &[])?;
    ensure!(
        state(&follower.model()) == state(&made.expected()?),
        "the target differs after the reset"
    );
    Ok(())
}

/// Returns true if a collection of a target has a unique index.
fn has_unique(target: &ModelServer, db: &str) -> Result<bool> {
    let mut collections = target.model().collections();
    let found = collections.remove(db).context("no database")?;
    let indexes = found
        .first()
        .context("no collection")?
        .get_array("indexes")?;
    let mut indexes = indexes.iter().filter_map(bson::Bson::as_document);
    Ok(indexes.any(|index| index.get_bool("unique").unwrap_or(false)))
}

#[test]
fn a_collection_that_is_spread_loses_its_unique_indexes_on_the_target() -> Result<()> {
    let topics = Topics::none("spread")?;
    let mut made = begin("s.a")?;
    let index =
        doc! { "createIndexes": "a", "v": 2, "key": { "k": 1 }, "name": "k_1", "unique": true };
    made.command("s.a", 1, index)?;
    topics.produce(&made.oplog()?, &["--order=collection"])?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "spread", 2, &[])?;
    ensure!(
        has_unique(&target, "s")?,
        "the index is not unique at first"
    );
    // Values move from document to document. In different partitions, any of these writes may come
    // first.
    for time in 0..20 {
        for id in 0..DOCUMENTS - 1 {
            let (from, to) = if time % 2 == 0 {
                (id, id + 1)
            } else {
                (id + 1, id)
            };
            made.set("s.a", 1, from, doc! { "k": 1000 + time })?;
            made.set("s.a", 1, to, doc! { "k": id })?;
            made.set("s.a", 1, from, doc! { "k": 2000 + from })?;
        }
    }
    topics.produce(&made.oplog()?, &["--order=id", "--change-routing"])?;
    topics.replay(&target, "spread", 2, &[])?;
    let fresh = ModelServer::start(Model::default())?;
    topics.replay(&fresh, "spread-fresh", 3, &[])?;
    for target in [target, fresh] {
        ensure!(!has_unique(&target, "s")?, "the index is still unique");
        ensure!(state(&target.model()) == state(&made.expected()?));
    }
    Ok(())
}

#[test]
fn a_producer_killed_around_a_change_sends_every_entry_once() -> Result<()> {
    let topics = Topics::none("turn")?;
    let mut made = begin("s.a")?;
    change_all(&mut made, "s.a", 20)?;
    topics.produce(&made.oplog()?, &["--order=id"])?;
    change_all(&mut made, "s.a", 20)?;
    let oplog = made.oplog()?;
    let rules = ["--order=collection", "--change-routing"];
    let folder = tempfile::tempdir()?;
    let mut killed = 0;
    for kill in 0..KILLS {
        let mut producer = topics.start_producer(folder.path(), &oplog, &rules)?;
        let opened = |log: &str| log.contains("session opened");
        wait_until("a session", LIMIT, || {
            producer.stderr_text().is_ok_and(|log| opened(&log))
        })?;
        let (begun, life) = (Instant::now(), Duration::from_millis(6 * kill));
        wait_until("the moment", LIMIT, || begun.elapsed() >= life)?;
        killed += u32::from(producer.is_running()?);
        producer.kill_9()?;
    }
    ensure!(killed > 0, "no kill hit unfinished work");
    topics.produce(&oplog, &rules)?;
    topics.produce(&oplog, &rules[..1])?;
    let mut seen = BTreeMap::new();
    let contents = read_topics(&topics.brokers(), "turn", Format::Bson)?;
    for (_, _, entry) in entries(&contents).filter(|it| it.2.id.ord < NO_ENTRY) {
        *seen.entry(entry.id).or_insert(0) += 1;
    }
    let count = usize::try_from(made.next_second()? - crate::made::BEGIN)?;
    ensure!(seen.len() == count, "{} of {count}", seen.len());
    ensure!(
        seen.values().all(|times| *times == 1),
        "some entries were sent twice"
    );
    expect_replay(&topics, &made, "turn", &[2])
}
