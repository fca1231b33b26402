//! Recorded change streams lead to the state of the servers that recorded them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use oplog_producer::source::change_stream::event::Event;
use oplog_relay_core::document::{Document, Element, kind};
use oplog_relay_kit::event_server::{EventServer, Events, Role};
use oplog_relay_kit::model::{Agreement, Model, Scenario, State, Version};

use super::{Begin, MODE, Until, config, read, replayed, serve};

/// Collections that a user's own `applyOps` writes, which a change stream does not show.
const BY_A_USER: [&str; 2] = ["transactions_a.plain", "transactions_a.byapplyops"];

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
    let reading = read(&stream, Begin::first(), Until::CaughtUp).await?;
    let events = scenario.events()?;
    ensure!(
        reading.entries.len() == events.len(),
        "{}",
        reading.entries.len()
    );
    let model = replayed(&reading.entries)?;
    let visible = scenario.clone().within_the_applier()?;
    let mut visible = BY_A_USER.into_iter().fold(visible, Scenario::without);
    for (ns, documents) in scenario.expected()? {
        // No event shows an empty collection or a view.
        if documents.is_empty() || ns.ends_with(".system.views") {
            visible = visible.without(&ns);
        }
    }
    for ns in with_dotted_names(&events)? {
        visible = visible.without(&ns);
    }
    let outcome = visible.expect_as(&visible_state(&model, &visible)?, Agreement::Fields);
    outcome.with_context(|| format!("{} unmatched", model.unmatched))
}

/// Returns the documents of the collections that are compared.
fn visible_state(model: &Model, visible: &Scenario) -> Result<State> {
    let expected = visible.expected()?;
    let mut state = model.state();
    state.retain(|ns, documents| expected.contains_key(ns) || !documents.is_empty());
    let all = visible.all_expected()?;
    state.retain(|ns, _| expected.contains_key(ns) || !all.contains_key(ns));
    Ok(state)
}

/// Returns the collections with field names that contain dots. Before MongoDB 6.1, an update of the
/// field `a.b` looks like one of `b` in `a`.
fn with_dotted_names(events: &[Vec<u8>]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for event in events {
        let event = Event::read(Document::new(event)?)?;
        let updated = event.update.map(|update| update.get("updatedFields"));
        let updated = updated.transpose()?.flatten().map(Element::document);
        let mut is_dotted = event.whole.map(has_dots).transpose()? == Some(true);
        for field in updated
            .transpose()?
            .iter()
            .flat_map(|fields| fields.elements())
        {
            let field = field?;
            if matches!(field.kind, kind::DOCUMENT | kind::ARRAY) {
                is_dotted |= has_dots(field.document()?)?;
            }
        }
        if is_dotted {
            found.insert(event.ns());
        }
    }
    Ok(found)
}

fn has_dots(document: Document<'_>) -> Result<bool> {
    for field in document.elements() {
        let field = field?;
        let is_nested = matches!(field.kind, kind::DOCUMENT | kind::ARRAY);
        if field.name.contains(&b'.') || (is_nested && has_dots(field.document()?)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_clusters_events_lead_to_its_state() -> Result<()> {
    let scenario = Scenario::sharded();
    let server = serve(&scenario, Role::Mongos([5, 0, 7]))?;
    let stream = config(&server.uri(), &[])?;
    let reading = read(&stream, Begin::first(), Until::CaughtUp).await?;
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
        let server = EventServer::start(Events::new(events)?, State::new(), role)?;
        let stream = config(&server.uri(), &[MODE])?;
        let reading = read(&stream, Begin::first(), Until::CaughtUp).await?;
        ensure!(
            reading.entries.len() == count && count > 1000,
            "{name}: {count}"
        );
        ensure!(server.looked_up().is_empty(), "{:?}", server.looked_up());
        replayed(&reading.entries).with_context(|| name.to_owned())?;
    }
    Ok(())
}
