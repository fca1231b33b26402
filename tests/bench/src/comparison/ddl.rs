//! The lag of both programs while collections are created and dropped.
//!
//! The stub writes rounds of `create`, `insert`, `createIndexes` and `drop` at an even pace, each
//! of a new collection. The target stores what it receives. Producer and consumer run before the
//! first round, with their default settings.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::case::{Case, Place};
use super::options::Options;
use super::scene::Scene;
use super::verdict::at_most;
use oplog_relay_kit::ddl::Rounds;
use oplog_relay_kit::http_status::status;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Port, Program, wait_for, wait_until};
use oplog_relay_kit::stub::{Oplog, Server};

const PREFIX: &str = "ddl";
/// Time before the first round, in which both programs start.
const AHEAD: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(300);
const MOST_SECONDS: f64 = 5.0;
/// Duration of a round, which has four entries.
const ROUND: Duration = Duration::from_millis(66);

/// Measures the lag with the first number of partitions, and returns the report.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let partitions = *options.partitions.first().context("partitions")?;
    let begin = millis()? + AHEAD.as_millis() as i64;
    let rounds = Rounds {
        rounds: options.ddl_rounds,
        names: options.ddl_rounds,
        begin,
        span: ROUND * options.ddl_rounds,
    };
    let source = Server::start_live(Oplog::given(&rounds.oplog()?)?)?;
    let target = ModelServer::start(Model::default())?;
    let (source_uri, target_uri) = (source.uri(), target.uri());
    let place = Place {
        source: &source_uri,
        target: &target_uri,
        ..scene.place_of(PREFIX, partitions)
    };
    let ports = [Port::lease()?, Port::lease()?];
    let [at_producer, at_consumer] = ports
        .each_ref()
        .map(|port| format!("--http=127.0.0.1:{}", port.number()));
    let mut consumer = Case::ReplayInserts.start_consumer(&place, &[&at_consumer])?;
    let mut producer = Case::Bson.start_producer(&place, &[&at_producer])?;
    let newest = source.oplog().newest().context("no oplog")?.to_string();
    wait_for("the end of the source", LIMIT, || {
        Ok((millis()? >= rounds.end()).then_some(()))
    })?;
    let ended = Instant::now();
    let sent = wait_for("the whole source in Kafka", LIMIT, || {
        let shown = status(ports[0].number());
        let is_sent = shown.is_some_and(|shown| shown["position"]["ts"] == newest.as_str());
        Ok(is_sent.then(|| ended.elapsed()))
    })?;
    wait_until("the whole source in the target", LIMIT, || {
        rounds.are_applied(&target.model())
    })?;
    let applied = ended.elapsed();
    let sessions = status(ports[0].number()).context("the producer is gone")?["sessions"].clone();
    ensure!(sessions == 1, "the producer has had {sessions} sessions");
    let assignments = assignments(&consumer)?;
    for program in [&mut consumer, &mut producer] {
        program.terminate()?;
        program.wait(LIMIT)?;
    }
    scene.remove(PREFIX)?;
    let first = format!(
        "{} rounds of create, insert, createIndexes, drop in {:.0} s, {partitions} partitions; \
         {assignments} assignments to the consumer",
        rounds.rounds,
        rounds.span.as_secs_f64()
    );
    Ok(report(first, sent, applied))
}

fn report(first: String, sent: Duration, applied: Duration) -> String {
    let line = |what, took: Duration| at_most(what, took.as_secs_f64(), MOST_SECONDS, "s");
    let lines = [
        first,
        line("in Kafka after the last", sent),
        line("in the target after the last", applied),
    ];
    lines.join("\n")
}

/// Returns how often the consumer was assigned partitions.
fn assignments(consumer: &Program) -> Result<usize> {
    Ok(consumer
        .stderr_text()?
        .matches("partitions assigned")
        .count())
}

fn millis() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_millis())?)
}
