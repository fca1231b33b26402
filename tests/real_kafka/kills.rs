//! Members that are killed, at barriers and under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::wait_until;
use oplog_relay_kit::stub::{Oplog, Shape};

use crate::carry::{CATALOG, Carried};
use crate::topics::{LIMIT, Topics};

const ENTRIES: u64 = 200_000;
const KILLS: u64 = 20;

/// Returns the number of commands that have run so far.
fn commands(target: &ModelServer) -> usize {
    let state = target.model().state();
    state.get("oplog_relay.catalog").map_or(0, Vec::len)
}

#[test]
fn one_of_three_members_can_be_killed_repeatedly_while_commands_run() -> Result<()> {
    let carried = Carried::new("ddl", "killed")?;
    let target = ModelServer::start(Model::default())?;
    let start = || carried.topics.start(&target, "killed", &[]);
    let mut members = vec![start()?, start()?, start()?];
    for kill in 0..6 {
        let before = commands(&target);
        // With so many commands, some worker waits at a barrier at nearly every moment.
        wait_until("commands", LIMIT, || commands(&target) >= before + 5)?;
        let mut member = members.remove(0);
        ensure!(member.is_running()?, "{kill}: {}", member.stderr_text()?);
        member.kill_9()?;
        members.push(start()?);
    }
    for mut member in members {
        ensure!(member.is_running()?, "{}", member.stderr_text()?);
        member.terminate()?;
        member.wait(LIMIT)?;
    }
    carried.replay(&target, "killed", 3)?;
    carried.expect(&target)
}

/// Returns the result of the entries when they are applied one after the other.
fn expected(oplog: &Oplog) -> Result<Model> {
    let (planner, mut model) = (Planner::new(1), Model::default());
    let mut entries = Vec::new();
    for number in 0..oplog.len() {
        let bytes = oplog.entry(number).context("no entry")?.to_vec();
        let ts = Entry::parse(Document::new(&bytes)?)?.ts;
        entries.push((EntryId { ts, ord: 0 }, bytes));
        if entries.len() == 5_000 || number + 1 == oplog.len() {
            model.replay(&planner, &entries)?;
            entries.clear();
        }
    }
    Ok(model)
}

#[test]
fn a_member_killed_twenty_times_over_200_000_entries_leaves_the_sources_documents() -> Result<()> {
    let oplog = Oplog::generate(ENTRIES, Shape::Mixed);
    let entries = (0..ENTRIES).filter_map(|number| oplog.entry(number));
    let topics = Topics::carry("many", &entries.collect::<Vec<_>>().concat())?;
    let target = ModelServer::start(Model::default())?;
    for kill in 0..KILLS {
        let mut member = topics.start(&target, "many", &["--queue-bytes=1MiB", "--lanes=1"])?;
        wait_until("partitions", LIMIT, || {
            member
                .stderr_text()
                .is_ok_and(|log| log.contains("partitions assigned"))
        })?;
        // Each kill happens at a different moment of the first second of work.
        let life = Duration::from_millis(37 * (kill * 7 % KILLS));
        let begun = Instant::now();
        wait_until("the moment", LIMIT, || begun.elapsed() >= life)?;
        ensure!(member.is_running()?, "{kill}: {}", member.stderr_text()?);
        member.kill_9()?;
    }
    let expected = expected(&oplog)?.state();
    let found = || {
        let mut found = target.model().state();
        found.retain(|ns, _| !ns.starts_with(CATALOG));
        found
    };
    // Every kill hit unfinished work.
    ensure!(
        found() != expected,
        "all entries were applied before the last kill"
    );
    topics.replay(&target, "many", 1, &[])?;
    let found = found();
    ensure!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for (ns, documents) in expected {
        ensure!(found.get(&ns) == Some(&documents), "{ns} differs");
    }
    Ok(())
}
