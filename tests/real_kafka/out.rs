//! A `$out` that runs repeatedly: each round creates a collection with a temporary name, and
//! renames it over the collection of the previous round.

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_core::state::State;
use oplog_relay_core::topic::state_topic;
use oplog_relay_kit::http_status::metric;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Port, wait_until};
use oplog_relay_runtime::kafka::{KafkaOptions, Reader};

use crate::carry::CATALOG;
use crate::idle;
use crate::made::{BEGIN, Made};
use crate::topics::{LIMIT, Topics};

const ROUNDS: u32 = 120;
const DOCUMENTS: i32 = 3;
/// The maximum number of commands and names that a member may hold in memory at the end of a topic.
/// It is enough for a few rounds; the catalog has hundreds.
const FEW: f64 = 40.0;

fn rounds(made: &mut Made, rounds: std::ops::Range<u32>) -> Result<()> {
    for round in rounds {
        made.out("s.report", round, DOCUMENTS)?;
        let update = doc! { "round": i64::from(round) };
        made.set("s.live", 1, 1, update)?;
    }
    Ok(())
}

/// Checks that the target has the two collections that exist at the end with their documents, and no
/// others, not even empty ones.
fn expect(made: &Made, target: &ModelServer) -> Result<()> {
    let mut found = target.model().state();
    found.retain(|ns, _| !ns.starts_with(CATALOG));
    let mut expected = made.expected()?.state();
    for state in [&mut found, &mut expected] {
        state.values_mut().for_each(|documents| documents.sort());
    }
    let names: Vec<&String> = found.keys().collect();
    ensure!(names == ["s.live", "s.report"], "{names:?}");
    ensure!(found == expected, "{found:?}");
    Ok(())
}

/// Returns the namespaces of the routes that the source has saved.
fn routes(topics: &Topics) -> Result<Vec<String>> {
    let options = KafkaOptions {
        brokers: topics.brokers(),
        options: Vec::new(),
    };
    let name = state_topic(topics.prefix(), "golden");
    let mut state = State::default();
    for record in Reader::new(&options).read_all_blocking(&name)? {
        let key = String::from_utf8(record.key.context("no key")?)?;
        state.apply(&key, record.value.as_deref())?;
    }
    let mut all: Vec<String> = state.routes.into_values().map(|route| route.ns).collect();
    all.sort();
    Ok(all)
}

/// Waits for the routes, because a Kafka transaction becomes visible shortly after its producer has
/// exited.
fn await_routes(topics: &Topics) -> Result<()> {
    let are_two = || routes(topics).is_ok_and(|all| all == ["s.live", "s.report"]);
    wait_until("one route for each collection", LIMIT, are_two)
        .with_context(|| format!("{:?}", routes(topics)))
}

#[test]
fn repeated_out_leaves_state_only_in_the_topics_and_the_catalog() -> Result<()> {
    let mut made = Made::default();
    made.create("s.live", 1)?;
    made.insert_with("s.live", 1, doc! { "_id": 1 })?;
    rounds(&mut made, 0..ROUNDS)?;
    let topics = Topics::carry("out", &made.oplog()?)?;
    await_routes(&topics)?;

    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "out", 1, &[])?;
    expect(&made, &target)?;
    // The topics are replayed again, from the start and from the middle, into the target, which is
    // ahead.
    topics.reset("out", &["--all-topics", "--to-earliest"])?;
    topics.replay(&target, "out", 2, &[])?;
    expect(&made, &target)?;
    let middle = i64::from(BEGIN + (made.next_second()? - BEGIN) / 2) * 1000;
    let middle = bson::DateTime::from_millis(middle).try_to_rfc3339_string()?;
    let middle = middle.replace('Z', ".000Z");
    topics.reset("out", &["--all-topics", "--to-datetime", &middle])?;
    topics.replay(&target, "out", 2, &[])?;
    expect(&made, &target)?;

    // The producer resumes from its saved state. A member that joins late holds only a few of the
    // commands in the catalog.
    let port = Port::lease()?;
    let mut late = idle::start(&topics, "out", &target, &port, &[])?;
    rounds(&mut made, ROUNDS..ROUNDS + 3)?;
    topics.produce(&made.oplog()?, &[])?;
    await_routes(&topics)?;
    let arrived = || expect(&made, &target).is_ok();
    wait_until("the last rounds", LIMIT, arrived).with_context(|| {
        let log = late.stderr_text().unwrap_or_default();
        format!("the late member: {log}")
    })?;
    let held = metric(port.number(), "oplog_consumer_catalog_held");
    ensure!(
        held.is_some_and(|held| held > 0.0 && held <= FEW),
        "{held:?} commands and names are held"
    );
    late.terminate()?;
    late.wait(LIMIT).map(drop)
}
