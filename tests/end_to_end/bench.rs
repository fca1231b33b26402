//! The bench: every case runs and has a verdict. The bench itself fails if entries do not arrive.

use std::time::Duration;

use anyhow::{Result, ensure};
use oplog_relay_kit::services::Program;

/// The longest duration of the bench. It takes a minute on an idle machine with the servers
/// installed.
const LIMIT: Duration = Duration::from_secs(1200);

#[test]
fn every_case_of_the_bench_runs() -> Result<()> {
    let mut bench = Program::start(
        "bench",
        ["--quick", "--allow-debug", "--svg", "growth.svg"],
        &[],
    )?;
    let code = bench.wait(LIMIT)?;
    ensure!(
        code == 0,
        "the bench ended with {code}:\n{}",
        bench.stderr_text()?
    );
    let printed = bench.stdout_text()?;
    // The figures of a debug build, of few entries and on a busy machine mean nothing, so the test
    // only checks that they exist.
    let cases = [
        "json",
        "emit-raw",
        "emit-bson",
        "replay-raw-inserts",
        "replay-inserts",
        "replay-updates",
    ];
    let others = [
        "copy ",
        "copy against ranges",
        "replay-mixed",
        "replay-ferretdb",
        "reader, p99",
        "target, p99",
        "reader, worst second",
        "target, worst second",
        "consumer, peak",
        "bson, peak",
        "takeover after SIGTERM",
    ];
    for case in cases.into_iter().chain(others) {
        let line = printed.lines().find(|line| line.starts_with(case));
        let judged = line.is_some_and(|line| line.contains(" met") || line.contains(" missed: "));
        ensure!(judged, "{case} has no verdict:\n{printed}");
    }
    let curves = std::fs::read_to_string(bench.directory().join("growth.svg"))?;
    ensure!(curves.matches("<polyline").count() == 18, "{curves}");
    Ok(())
}
