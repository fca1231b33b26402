//! Names that several incarnations of a collection have one after the other.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use oplog_relay_kit::model::{Model, ModelServer};

use crate::carry::CATALOG;
use crate::made::{BEGIN, Made};
use crate::topics::Topics;

const DOCUMENTS: i32 = 12;

/// Returns for each namespace, document by document, the number of the incarnation in which the
/// document was inserted.
fn found(target: &ModelServer) -> Result<BTreeMap<String, Vec<i32>>> {
    let state = target.model().state();
    let state = state.into_iter().filter(|(ns, _)| !ns.starts_with(CATALOG));
    state
        .map(|(ns, documents)| {
            let written = documents.iter().map(|bytes| {
                let document = bson::Document::from_reader(bytes.as_slice())?;
                Ok(document.get_i32("ui")?)
            });
            Ok((ns, written.collect::<Result<_>>()?))
        })
        .collect()
}

fn all(ui: i32) -> Vec<i32> {
    vec![ui; usize::try_from(DOCUMENTS).unwrap_or_default()]
}

fn fill(made: &mut Made, ns: &str, ui: u8) -> Result<()> {
    (0..DOCUMENTS).try_for_each(|id| made.insert(ns, ui, id))
}

/// Returns a history: create, rename, create again, drop, create again.
fn history() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    fill(&mut made, "s.a", 1)?;
    made.rename("s.a", 1, "s.b")?;
    made.create("s.a", 2)?;
    fill(&mut made, "s.a", 2)?;
    made.drop("s.a", 2)?;
    made.create("s.a", 3)?;
    fill(&mut made, "s.a", 3)?;
    Ok(made)
}

fn expect(target: &ModelServer) -> Result<()> {
    let found = found(target)?;
    let expected = BTreeMap::from([("s.a".to_owned(), all(3)), ("s.b".to_owned(), all(1))]);
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn a_full_reset_over_a_rename_and_a_drop_leaves_every_incarnation_its_documents() -> Result<()> {
    for (prefix, made) in [
        ("lives", history()?),
        ("lives-without", history()?.without_uuids()),
    ] {
        let topics = Topics::carry(prefix, &made.oplog()?)?;
        let target = ModelServer::start(Model::default())?;
        topics.replay(&target, prefix, 2, &[])?;
        expect(&target)?;
        for _ in 0..2 {
            topics.reset(prefix, &["--all-topics", "--to-earliest"])?;
            topics.replay(&target, prefix, 3, &[])?;
            expect(&target)?;
        }
    }
    Ok(())
}

#[test]
fn a_reset_to_a_time_within_an_incarnation_leads_to_the_same_state() -> Result<()> {
    let topics = Topics::carry("between", &history()?.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "between", 1, &[])?;
    // The middle of the second incarnation.
    let second = BEGIN + 1 + u32::try_from(DOCUMENTS)? + 6;
    let time = bson::DateTime::from_millis(i64::from(second) * 1000).try_to_rfc3339_string()?;
    let time = time.replace('Z', ".000Z");
    topics.reset("between", &["--all-topics", "--to-datetime", &time])?;
    topics.replay(&target, "between", 3, &[])?;
    expect(&target)?;

    // A new group that starts there receives only the entries after that point.
    let target = ModelServer::start(Model::default())?;
    let start = format!("--start={second}:0");
    topics.replay(&target, "later", 3, &[&start])?;
    let found = found(&target)?;
    ensure!(
        found == BTreeMap::from([("s.a".to_owned(), all(3))]),
        "{found:?}"
    );
    Ok(())
}

#[test]
fn a_start_that_is_not_a_consistent_cut_is_refused_before_a_command_runs() -> Result<()> {
    let topics = Topics::carry("uneven", &history()?.oplog()?)?;
    // Partition 0 of the topic is at its start, the others are at their ends, and the catalog is
    // empty.
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "uneven", 1, &["--start=now"])?;
    topics.reset("uneven", &["--topic", "uneven.s.a:0", "--to-earliest"])?;
    let refused = (4, "--allow-partial-reset");
    topics.refused(&target, "uneven", &[], refused)?;
    ensure!(found(&target)?.is_empty(), "{:?}", found(&target)?);

    // The same reset is accepted if all commands have run: entries find their own incarnations.
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "part", 1, &[])?;
    topics.reset("part", &["--topic", "uneven.s.a:0", "--to-earliest"])?;
    topics.replay(&target, "part", 2, &[])?;
    expect(&target)
}

#[test]
fn an_unknown_collection_under_a_taken_name_is_refused() -> Result<()> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    fill(&mut made, "s.a", 1)?;
    // The drop and the second create are missing.
    made.insert("s.a", 2, 99)?;
    let topics = Topics::carry("foreign", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    topics.refused(&target, "foreign", &[], (6, "a different collection named"))?;
    ensure!(
        found(&target)?.get("s.a") == Some(&all(1)),
        "{:?}",
        found(&target)?
    );
    Ok(())
}

#[test]
fn a_rename_out_of_the_namespaces_of_a_group_is_replayed_and_one_into_them_is_refused() -> Result<()>
{
    let topics = Topics::carry("sides", &history()?.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "out", 2, &["--include-namespaces=s.a"])?;
    let expected = BTreeMap::from([("s.a".to_owned(), all(3))]);
    ensure!(found(&target)? == expected, "{:?}", found(&target)?);
    let target = ModelServer::start(Model::default())?;
    let into = ["--include-namespaces=s.b"];
    topics.refused(&target, "into", &into, (6, "only the new name is replayed"))
}

/// A command that a filter passes must have run, as without a filter; a command that the filter
/// excludes need not.
#[test]
fn a_filter_hides_no_command_that_did_not_run() -> Result<()> {
    let topics = Topics::carry("hidden", &history()?.oplog()?)?;
    // The leader's partition is past the commands, the others are at their start.
    for (group, filter) in [
        ("hidden-in", "--include-namespaces=s.a"),
        ("hidden-all", "--exclude-namespaces=s.c"),
    ] {
        let target = ModelServer::start(Model::default())?;
        topics.replay(&target, group, 1, &["--start=now", filter])?;
        for partition in 1..8 {
            let place = format!("hidden.s.a:{partition}");
            topics.reset(group, &["--topic", &place, "--to-earliest"])?;
        }
        let refused = (4, "did not run on this target");
        topics.refused(&target, group, &[filter], refused)?;
    }
    let target = ModelServer::start(Model::default())?;
    let filter = "--include-namespaces=s.x";
    topics.replay(&target, "hidden-out", 2, &[filter])?;
    ensure!(found(&target)?.is_empty(), "{:?}", found(&target)?);
    Ok(())
}

#[test]
fn an_emit_leaves_out_the_commands_of_other_collections() -> Result<()> {
    let topics = Topics::carry("emit-sides", &history()?.oplog()?)?;
    let all = topics.emit("emit-all")?;
    ensure!(all.lines().any(|line| line.contains("rename")), "{all}");
    for (filter, expected) in [("s.x", 0), ("s", all.lines().count())] {
        let filter = format!("--include-namespaces={filter}");
        let lines = topics.emit_with(&filter, &[&filter])?;
        ensure!(lines.lines().count() == expected, "{filter}: {lines}");
    }
    Ok(())
}
