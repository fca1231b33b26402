//! Recorded change streams lead to the state of the servers that recorded them.

use anyhow::{Context as _, Result, ensure};
use oplog_relay_kit::event_server::{EventServer, Events, Role};
use oplog_relay_kit::model::{Agreement, Scenario, State, Version};

use super::{Begin, MODE, config, read, replayed, serve};

const SETS: [(Version, &str); 10] = [
    (Version::V4_2, "transactions"),
    (Version::V4_2, "unique-indexes"),
    (Version::V5_0, "array-truncation"),
    (Version::V5_0, "crud-types"),
    (Version::V5_0, "fcv-switch"),
    (Version::V5_0, "pipeline-updates"),
    (Version::V5_0, "transactions"),
    (Version::V5_0, "transactions-prepared"),
    (Version::V5_0, "unique-indexes"),
    (Version::V5_0, "updates"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_sets_events_lead_to_its_state() -> Result<()> {
    let mut failures = Vec::new();
    for (version, name) in SETS {
        let scenario = Scenario::recorded_by(version, name);
        let outcome = carry(&scenario).await;
        if let Err(error) = outcome {
            failures.push(format!("{}: {error:#}", scenario.name()));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

async fn carry(scenario: &Scenario) -> Result<()> {
    let server = serve(scenario, Role::Primary([5, 0, 7]))?;
    let stream = config(&server.uri(), &[MODE])?;
    let reading = read(&stream, Begin::first(), usize::MAX).await?;
    let count = scenario.events()?.len();
    ensure!(
        reading.entries.len() == count,
        "{} of {count}",
        reading.entries.len()
    );
    let model = replayed(&reading.entries)?;
    let outcome = scenario.expect_as(&model.state(), Agreement::Fields);
    outcome.with_context(|| format!("{} unmatched", model.unmatched))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_clusters_events_lead_to_its_state() -> Result<()> {
    let scenario = Scenario::sharded();
    let server = serve(&scenario, Role::Mongos([5, 0, 7]))?;
    let stream = config(&server.uri(), &[])?;
    let reading = read(&stream, Begin::first(), usize::MAX).await?;
    ensure!(reading.entries.len() == 1789, "{}", reading.entries.len());
    let model = replayed(&reading.entries)?;
    let scenario = scenario.without("sharded.system.views");
    scenario.expect_as(&model.state(), Agreement::Fields)
}

/// The state that these events lead to was not recorded, but each of them must have an entry that a
/// replay understands.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_4_2_becomes_an_entry() -> Result<()> {
    for name in ["crud-types", "updates"] {
        let events = Scenario::events_of_4_2(name).events()?;
        let count = events.len();
        let role = Role::Primary([4, 4, 0]);
        let server = EventServer::start(Events::new(events), State::new(), role)?;
        let stream = config(&server.uri(), &[MODE])?;
        let reading = read(&stream, Begin::first(), usize::MAX).await?;
        ensure!(
            reading.entries.len() == count && count > 1000,
            "{name}: {count}"
        );
        ensure!(server.looked_up().is_empty(), "{:?}", server.looked_up());
        replayed(&reading.entries).with_context(|| name.to_owned())?;
    }
    Ok(())
}
