//! The cost of an idle producer and an idle consumer.

use std::time::Duration;

use anyhow::{Context, Result};

use super::case::Case;
use super::options::Options;
use super::sample::{peak_kib, sample};
use super::scene::Scene;
use super::target;
use super::verdict::{MOST_MIB, at_most};
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

const PREFIX: &str = "idle";
const ENTRIES: u64 = 1000;
const LIMIT: Duration = Duration::from_secs(60);
/// The largest permitted processor time, in percent of one core.
const MOST_PERCENT: f64 = 1.0;

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
        program.terminate()?;
        program.wait(LIMIT)?;
    }
    scene.remove(PREFIX)?;
    Ok(lines.join("\n"))
}

fn cpu(id: u32) -> Result<Duration> {
    Ok(sample(id).context("a program is gone")?.cpu)
}
