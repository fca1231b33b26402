//! A stream that continues at any of its positions reads the same entries.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bson::{Document as Bson, doc};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_kit::event_server::{EventServer, Role};
use oplog_relay_kit::model::{Agreement, Scenario};

use super::{Begin, Read, Until, config, read, replayed, serve};

const MONGOS: Role = Role::Mongos([5, 0, 7]);

/// Reads the recorded stream of the sharded cluster from its start.
async fn whole(server: &EventServer) -> Result<Vec<Read>> {
    let stream = config(&server.uri(), &[])?;
    Ok(read(&stream, Begin::first(), Until::CaughtUp)
        .await?
        .entries)
}

/// Checks that two readings have the same entries with the same identities.
fn expect_equal(found: &[Read], expected: &[Read]) -> Result<()> {
    for (found, expected) in found.iter().zip(expected) {
        ensure!(
            (found.id, &found.entry) == (expected.id, &expected.entry),
            "{} is {}",
            found.id,
            expected.id
        );
    }
    ensure!(
        found.len() == expected.len(),
        "{} of {}",
        found.len(),
        expected.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_continues_at_every_position_with_the_same_entries() -> Result<()> {
    let server = serve(&Scenario::sharded(), MONGOS)?;
    let all = whole(&server).await?;
    let stream = config(&server.uri(), &[])?;
    server.reply_with(10);
    let mut within = 0;
    for (place, last) in all.iter().enumerate() {
        let rest = &all[place + 1..];
        let is_within = rest.first().is_some_and(|next| next.id.ts == last.id.ts);
        // Every position among events of the same cluster time, and some of the others.
        if !is_within && place % 25 != 0 {
            continue;
        }
        within += usize::from(is_within);
        // Two shards may report a command with the same token, and a server continues after both.
        let repeated = rest
            .iter()
            .take_while(|next| next.point.token == last.point.token);
        let rest = &rest[repeated.count()..];
        let expected = &rest[..rest.len().min(10)];
        let mut found = read(&stream, last.after(), Until::Entries(expected.len()))
            .await?
            .entries;
        found.truncate(expected.len());
        expect_equal(&found, expected)?;
    }
    ensure!(within > 250, "{within}");
    Ok(())
}

/// The insert of a document that changes its shard may come before its delete. A restart between
/// the two must not send the delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_the_events_of_a_document_that_moves_keeps_the_document() -> Result<()> {
    let server = serve(&Scenario::sharded(), MONGOS)?;
    let all = whole(&server).await?;
    let stream = config(&server.uri(), &[])?;
    let mut inserted = BTreeMap::<Vec<u8>, usize>::new();
    let mut restarts = 0;
    for (place, event) in Scenario::sharded().events()?.iter().enumerate() {
        let event = Bson::from_reader(event.as_slice())?;
        let (Ok(key), Ok(lsid)) = (
            event.get_document("documentKey"),
            event.get_document("lsid"),
        ) else {
            continue;
        };
        let identity = doc! {
            "ns": event.get_document("ns")?.clone(), "_id": key.get("_id"),
            "lsid": lsid.clone(), "txnNumber": event.get("txnNumber"),
        };
        let identity = identity.to_vec()?;
        match event.get_str("operationType")? {
            "insert" => drop(inserted.insert(identity, place)),
            "delete" if inserted.contains_key(&identity) => {
                let before = inserted[&identity]..place;
                for (from, last) in (before.start..).zip(&all[before]) {
                    let rest = read(&stream, last.after(), Until::Entries(place - from)).await?;
                    let found = &rest.entries[place - from - 1];
                    let entry = Entry::parse(Document::new(&found.entry)?)?;
                    ensure!(entry.operation == Operation::Noop, "{}", found.id);
                    restarts += 1;
                }
            }
            _ => {}
        }
    }
    ensure!(restarts >= 3, "{restarts}");
    Ok(())
}

/// Between the reports of two shards, a restart must not run a command a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_every_shard_reports_is_carried_once_across_restarts() -> Result<()> {
    let scenario = Scenario::sharded();
    let server = serve(&scenario, MONGOS)?;
    let stream = config(&server.uri(), &[])?;
    let mut carried = Vec::new();
    let mut begin = Begin::first();
    // Each part ends after a few events, so every command is between two restarts.
    for part in 0.. {
        let mut entries = read(&stream, begin, Until::EntriesOrCaughtUp(3 + part % 2))
            .await?
            .entries;
        entries.truncate(3 + part % 2);
        let Some(last) = entries.last() else { break };
        begin = last.after();
        carried.append(&mut entries);
    }
    let mut commands = BTreeMap::<String, usize>::new();
    for read in &carried {
        let entry = Entry::parse(Document::new(&read.entry)?)?;
        if entry.operation == Operation::Command {
            let name = String::from_utf8_lossy(entry.command()?.name).into_owned();
            *commands.entry(name).or_default() += 1;
        }
    }
    let expected = [("drop", 2), ("dropDatabase", 1), ("renameCollection", 2)];
    let expected = expected.map(|(name, count)| (name.to_owned(), count));
    ensure!(commands == BTreeMap::from(expected), "{commands:?}");
    let scenario = scenario.without("sharded.system.views");
    scenario.expect_as(&replayed(&carried)?.state(), Agreement::Fields)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_opened_again_after_faults_without_a_gap() -> Result<()> {
    let server = serve(&Scenario::sharded(), MONGOS)?;
    let all = whole(&server).await?;
    server.reply_with(200);
    for (command, code) in [
        ("getMore", 43),
        ("getMore", 0),
        ("aggregate", 11600),
        ("getMore", 234),
        ("getMore", 10107),
    ] {
        server.fail(command, code);
    }
    let found = whole(&server).await?;
    ensure!(server.has_failed(), "not all failures occurred");
    expect_equal(&found, &all)
}
