//! A million documents and more, generated on request: the differences that are found, the memory
//! that the comparison needs, and how an interrupted comparison resumes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oplog_relay_kit::generated::{Generated, GeneratedServer};
use oplog_relay_kit::services::{Program, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);
const MILLION: i64 = 1_000_000;
const MOST_MEMORY_KIB: u64 = 256 << 10;

fn start(servers: [&GeneratedServer; 2], report: &Path, more: &[&str]) -> Result<Program> {
    let [source, target] = servers.map(GeneratedServer::uri);
    let flags = [
        "verify".to_owned(),
        format!("--source={source}"),
        format!("--target={target}"),
        format!("--report={}", report.display()),
    ];
    Program::consumer(flags.iter().map(String::as_str).chain(more.iter().copied()))
}

/// Waits for the end. Returns the exit code, the lines of the report and the peak memory in KiB.
fn finish(mut program: Program, report: &Path) -> Result<(i32, Vec<Value>, u64)> {
    let (code, most) = program.wait_measured(LIMIT)?;
    Ok((code, lines(report)?, most))
}

fn lines(report: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(report)?;
    // The last line may be incomplete while the report is still written.
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn of<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

#[test]
fn one_change_of_each_kind_among_a_million_documents_is_found_and_repaired() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let source = GeneratedServer::start(Generated::of(MILLION))?;
    let mut damaged = Generated::of(MILLION);
    damaged.missing.insert(700_001);
    damaged
        .other
        .insert(123_456, "some texs that makes a document".to_owned());
    damaged.other.insert(MILLION + 7, "extra".to_owned());
    damaged.indexes.clear();
    let target = GeneratedServer::start(damaged)?;
    let both = [&source, &target];
    let (code, found, most) = finish(start(both, &report, &[])?, &report)?;
    ensure!(code == 7, "{code}");
    let id = |kind: &str| {
        let ids = of(&found, kind)
            .into_iter()
            .map(|line| line["_id"]["$numberLong"].clone());
        ids.collect::<Vec<_>>()
    };
    ensure!(
        id("missing") == ["700001"] && id("different") == ["123456"] && id("extra") == ["1000007"]
    );
    ensure!(of(&found, "different")[0]["paths"] == serde_json::json!(["text"]));
    ensure!(of(&found, "definition")[0]["what"] == "index n_1");
    ensure!(most < MOST_MEMORY_KIB, "{most} KiB");

    let (code, repaired, _) = finish(start(both, &report, &["--repair"])?, &report)?;
    ensure!(
        code == 0 && of(&repaired, "repaired").len() == 4,
        "{code}: {:?}",
        of(&repaired, "repaired")
    );
    let (code, equal, _) = finish(start(both, &report, &[])?, &report)?;
    ensure!(code == 0 && of(&equal, "collection")[0]["equal"] == MILLION);
    Ok(())
}

#[test]
fn five_million_documents_take_no_more_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let server = || GeneratedServer::start(Generated::of(5 * MILLION));
    let (source, target) = (server()?, server()?);
    let (code, found, most) = finish(start([&source, &target], &report, &[])?, &report)?;
    ensure!(
        code == 0 && of(&found, "collection")[0]["equal"] == 5 * MILLION,
        "{code}"
    );
    ensure!(most > 0 && most < MOST_MEMORY_KIB, "{most} KiB");
    Ok(())
}

#[test]
fn an_empty_target_takes_no_more_memory() -> Result<()> {
    const MANY: i64 = 100_000;
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let source = GeneratedServer::start(Generated::of(MANY))?;
    let target = GeneratedServer::start(Generated::of(0))?;
    let (code, found, most) = finish(start([&source, &target], &report, &[])?, &report)?;
    ensure!(
        code == 7 && of(&found, "missing").len() == usize::try_from(MANY)?,
        "{code}"
    );
    ensure!(most < MOST_MEMORY_KIB, "{most} KiB");
    Ok(())
}

#[test]
fn a_killed_comparison_resumes_where_it_stopped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let source = GeneratedServer::start(Generated::of(MILLION))?;
    let mut damaged = Generated::of(MILLION);
    damaged.missing.extend([1000, MILLION - 1000]);
    let target = GeneratedServer::start(damaged)?;
    let both = [&source, &target];
    let flags = ["--range-documents=10000", "--resume"];
    let mut program = start(both, &report, &flags)?;
    wait_until("forty ranges", LIMIT, || {
        lines(&report).is_ok_and(|lines| of(&lines, "range").len() >= 40)
    })?;
    program.kill_9()?;
    let done = of(&lines(&report)?, "range").len() as u64;
    let read = target.made().read;
    let (code, found, _) = finish(start(both, &report, &flags)?, &report)?;
    ensure!(code == 7, "{code}");
    let mut ranges: Vec<u64> = of(&found, "range")
        .iter()
        .map(|line| line["range"].as_u64().context("not a number"))
        .collect::<Result<_>>()?;
    ranges.sort_unstable();
    let all = ranges.len() as u64;
    ranges.dedup();
    ensure!(
        ranges.len() as u64 == all && all >= 100,
        "{all} ranges, some of them twice"
    );
    ensure!(of(&found, "missing").len() == 2 && of(&found, "verify").len() == 1);
    let collection = of(&found, "collection");
    ensure!(collection.len() == 1 && collection[0]["equal"] == MILLION - 2);
    // Completed ranges are not read again; a range that differs is read twice.
    let again = target.made().read - read;
    let left = MILLION as u64 - done * 10_000;
    ensure!(
        again <= left + 50_000,
        "{again} read again of {left}, {done} ranges were done"
    );

    let mut program = start(both, &report, &flags)?;
    ensure!(program.wait(LIMIT)? == 2 && program.stderr_text()?.contains("finished"));
    Ok(())
}
