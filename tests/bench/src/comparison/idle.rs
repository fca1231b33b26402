//! The cost of an idle producer and an idle consumer, and of a producer with many idle sources.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::case::Case;
use super::options::Options;
use super::sample::{peak_kib, sample};
use super::scene::Scene;
use super::target;
use super::verdict::{MOST_MIB, at_most};
use oplog_relay_kit::http_status::status;
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::stub::{Flow, Oplog, Recipe, Server, Shape, StubProcess};

const PREFIX: &str = "idle";
const ENTRIES: u64 = 1000;
const LIMIT: Duration = Duration::from_secs(60);
/// Maximum processor time of a program, in percent of one core.
const MOST_PERCENT: f64 = 1.0;
/// Number of sources of the producer with many sources.
const SOURCES: usize = 50;
/// Maximum processor time of that producer, in percent of one core.
const MOST_PERCENT_OF_MANY: f64 = 5.0;

/// Measures the idle cost after a thousand entries went through both programs, and returns the
/// report.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let partitions = *options.partitions.first().context("partitions")?;
    let source = StubProcess::start(&Recipe::new(ENTRIES, Shape::Inserts), Flow::Past)?;
    let place = scene.place(&source, PREFIX, partitions, ENTRIES);
    let before = target::acknowledged(place.target)?;
    let mut producer = Case::Bson.start_producer(&place, &[])?;
    let mut consumer = Case::ReplayInserts.start_consumer(&place, &[])?;
    wait_until("a thousand entries in the target", LIMIT, || {
        target::acknowledged(place.target).is_ok_and(|count| count >= before + ENTRIES)
    })?;
    let programs = [&producer, &consumer].map(Program::id);
    let begin = [cpu(programs[0])?, cpu(programs[1])?];
    // Nothing is written during this time, because the processor time of idle programs is measured.
    std::thread::sleep(options.idle);
    let seconds = options.idle.as_secs_f64();
    let mut lines = vec![format!("idle for {seconds:.0} s, {partitions} partitions")];
    for (number, name) in ["producer", "consumer"].into_iter().enumerate() {
        let used = cpu(programs[number])?.saturating_sub(begin[number]);
        let percent = used.as_secs_f64() / seconds * 100.0;
        lines.push(at_most(name, percent, MOST_PERCENT, "% of core"));
        let peak = peak_kib(programs[number]).context("a program is gone")? as f64 / 1024.0;
        lines.push(at_most(&format!("{name}, peak"), peak, MOST_MIB, "MiB"));
    }
    for program in [&mut consumer, &mut producer] {
        program.stop(LIMIT)?;
    }
    scene.remove(PREFIX)?;
    lines.extend(measure_many(scene, options)?);
    Ok(lines.join("\n"))
}

/// Measures the idle cost of one producer that follows many sources.
fn measure_many(scene: &Scene, options: &Options) -> Result<Vec<String>> {
    let start = |_| Server::start(Oplog::generate(1, Shape::Inserts));
    let servers = (0..SOURCES)
        .map(start)
        .collect::<io::Result<Vec<Server>>>()?;
    let port = Port::lease()?;
    let place = scene.place_of(PREFIX, 1);
    let mut flags = vec![
        "run".to_owned(),
        format!("--http=127.0.0.1:{}", port.number()),
        format!("--brokers={}", place.brokers),
        "--start=oldest".to_owned(),
        "--partitions=1".to_owned(),
    ];
    for (number, server) in servers.iter().enumerate() {
        let source = json!({
            "name": format!("s{number}"), "uri": server.uri(),
            // Sources never share a topic, and all of these have the same collection.
            "topic_prefix": format!("{PREFIX}{number}"),
        });
        flags.push(format!("--source={source}"));
    }
    let mut producer = Program::producer(flags)?;
    wait_until("all sources", LIMIT, || {
        let shown = status(port.number()).unwrap_or_default();
        let sources = shown["sources"].as_array();
        let are_caught_up = |all: &Vec<Value>| all.iter().all(|it| it["caught_up"] == true);
        sources.is_some_and(are_caught_up)
    })?;
    let begin = cpu(producer.id())?;
    // Nothing is written during this time either.
    std::thread::sleep(options.idle);
    let used = cpu(producer.id())?.saturating_sub(begin).as_secs_f64();
    let percent = used / options.idle.as_secs_f64() * 100.0;
    let peak = peak_kib(producer.id()).context("the producer is gone")? as f64 / 1024.0;
    producer.stop(LIMIT)?;
    let name = format!("producer of {SOURCES} sources");
    Ok(vec![
        at_most(&name, percent, MOST_PERCENT_OF_MANY, "% of core"),
        at_most(&format!("{name}, peak"), peak, MOST_MIB, "MiB"),
    ])
}

fn cpu(id: u32) -> Result<Duration> {
    Ok(sample(id).context("a program is gone")?.cpu)
}
