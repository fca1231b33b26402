//! Guards against regressions in the work per entry: callgrind counts the instructions of each
//! piece, and the test compares the counts with the committed table.
//!
//! The counts do not depend on the machine's load, so the tolerance is small. They depend on the
//! profile. The tests are built with the development profile, so the counts do not measure speed,
//! but a change that makes the work more expensive there makes it more expensive in a release build
//! too. The C library may execute slightly different code on another processor.
//!
//! `make instructions` updates the table after a change that justifies its cost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use oplog_relay_bench::pieces::ENTRIES;

/// Number of passes over each piece.
const PASSES: u64 = 10;
/// Percentage by which a count may exceed the table.
const TOLERANCE_PERCENT: u64 = 5;
/// The environment variable that makes the test write the table instead of comparing it.
const REFRESH: &str = "OPLOG_RELAY_REFRESH_INSTRUCTIONS";

/// Instructions for one entry, by piece.
type Table = BTreeMap<String, u64>;

fn table_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions/table.txt")
}

fn read_table(text: &str) -> Result<Table> {
    let line = |line: &str| {
        let (name, count) = line.split_once(' ').context("no count")?;
        anyhow::Ok((name.to_owned(), count.trim().parse::<u64>()?))
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("the table's line {text:?}")))
        .collect()
}

fn write_table(table: &Table) -> String {
    let mut text = String::new();
    for (name, count) in table {
        writeln!(text, "{name:<28} {count:>7}").expect("writing to a String cannot fail");
    }
    text
}

/// Describes the pieces whose count exceeds that of the table by more than the tolerance, and those
/// that only one of both has.
fn regressions(table: &Table, counted: &Table) -> Vec<String> {
    let judge = |(name, count): (&String, &u64)| match table.get(name) {
        None => Some(format!("{name}: {count}, not in the table")),
        Some(known) if count * 100 > known * (100 + TOLERANCE_PERCENT) => {
            Some(format!("{name}: {count}, {known} in the table"))
        }
        Some(_) => None,
    };
    let gone = table.keys().filter(|name| !counted.contains_key(*name));
    counted
        .iter()
        .filter_map(judge)
        .chain(gone.map(|name| format!("{name}: in the table only")))
        .collect()
}

fn has_valgrind() -> bool {
    let version = Command::new("valgrind").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Runs the program of all pieces under callgrind. Callgrind counts in `counted_passes` only and
/// writes its counts whenever `warmed_piece` returns.
fn count() -> Result<Table> {
    let folder = tempfile::tempdir()?;
    let counts = folder.path().join("counts");
    let output = Command::new("valgrind")
        // Valgrind 3.19 keeps only one of two options for the same function, so two functions are
        // used.
        .args(["--tool=callgrind", "--toggle-collect=*counted_passes*"])
        .arg("--dump-after=*warmed_piece*")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(env!("CARGO_BIN_EXE_pieces"))
        .arg(PASSES.to_string())
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "valgrind: {}\n{log}",
        output.status
    );
    let names = String::from_utf8(output.stdout)?;
    let mut table = Table::new();
    for (name, number) in names.lines().zip(1..) {
        let part = counts.with_extension(number.to_string());
        let text = fs::read_to_string(&part).with_context(|| format!("no count of {name}"))?;
        let total = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .with_context(|| format!("no total of {name}"))?;
        table.insert(name.to_owned(), total.parse::<u64>()? / (PASSES * ENTRIES));
    }
    let counted = !table.is_empty() && table.values().all(|count| *count > 0);
    ensure!(counted, "some pieces were not counted: {table:?}\n{log}");
    Ok(table)
}

#[test]
fn no_piece_of_work_became_more_expensive() -> Result<()> {
    if !has_valgrind() {
        eprintln!("SKIPPED: instructions are not counted, because valgrind is not installed");
        return Ok(());
    }
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: the table holds the counts of the development profile");
        return Ok(());
    }
    let counted = count()?;
    if std::env::var_os(REFRESH).is_some() {
        fs::write(table_path(), write_table(&counted))?;
        return Ok(());
    }
    let table = read_table(&fs::read_to_string(table_path())?)?;
    let regressions = regressions(&table, &counted);
    if !regressions.is_empty() {
        bail!(
            "the counts of instructions for an entry are more than {TOLERANCE_PERCENT} % above the \
             table, or in only one of both (`make instructions` writes the new counts):\n{}",
            regressions.join("\n")
        );
    }
    Ok(())
}

#[test]
fn a_piece_that_costs_a_tenth_more_is_named() -> Result<()> {
    let table = read_table("key 1000\nplan 200\n")?;
    assert_eq!(read_table(&write_table(&table))?, table);
    let judged = |key, plan| {
        let counted = [("key".to_owned(), key), ("plan".to_owned(), plan)];
        regressions(&table, &Table::from(counted))
    };
    assert!(judged(1050, 150).is_empty());
    assert_eq!(judged(1100, 200), ["key: 1100, 1000 in the table"]);
    let other = Table::from([("key".to_owned(), 1), ("new".to_owned(), 1)]);
    assert_eq!(regressions(&table, &other).len(), 2);
    Ok(())
}
