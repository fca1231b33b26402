//! The result as text.

use std::fmt;
use std::time::Duration;

use super::case::Case;
use super::measure::Measured;

/// All rounds of all cases.
#[derive(Debug)]
pub(super) struct Table {
    partitions: u32,
    entries: u64,
    bytes: u64,
    rows: Vec<(Case, Vec<Measured>)>,
}

impl Table {
    pub(super) const fn new(partitions: u32, entries: u64, bytes: u64) -> Table {
        Table {
            partitions,
            entries,
            bytes,
            rows: Vec::new(),
        }
    }

    /// Adds a round of a case.
    pub(super) fn add(&mut self, case: Case, measured: Measured) {
        match self.rows.iter_mut().find(|(known, _)| *known == case) {
            Some((_, rounds)) => rounds.push(measured),
            None => self.rows.push((case, vec![measured])),
        }
    }

    fn row(&self, case: Case, rounds: &[Measured], against: Option<Duration>) -> String {
        let middle = middle(rounds);
        let rate = |time: Duration| self.entries as f64 / time.as_secs_f64().max(1e-9);
        let rates = rounds.iter().map(|round| rate(round.total));
        let slowest = rates.clone().fold(f64::INFINITY, f64::min);
        let fastest = rates.fold(0.0, f64::max);
        let ratio = against.map_or_else(
            || "-".to_owned(),
            |against| format!("{:.2}", against.as_secs_f64() / middle.total.as_secs_f64()),
        );
        format!(
            "{:<9} {:>9.0} {:>19} {:>9.0} {:>6.0} {:>6.2} {:>7.2} {:>6.2} {:>9.0} {:>6}",
            case.name(),
            rate(middle.total),
            format!("{slowest:.0}-{fastest:.0}"),
            rate(middle.steady),
            self.bytes as f64 / 1e6 / middle.total.as_secs_f64(),
            middle.cpu.as_secs_f64(),
            middle.broker_cpu.as_secs_f64(),
            middle.stub_cpu.as_secs_f64(),
            middle.peak_kib as f64 / 1024.0,
            ratio,
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.bytes as f64 / self.entries as f64;
        let rounds = self.rows.first().map_or(0, |(_, rounds)| rounds.len());
        writeln!(
            f,
            "{} entries of {mean:.0} bytes, {} partitions, the middle of {rounds} rounds",
            self.entries, self.partitions,
        )?;
        writeln!(
            f,
            "{:<9} {:>9} {:>19} {:>9} {:>6} {:>6} {:>7} {:>6} {:>9} {:>6}",
            "case",
            "entries/s",
            "slowest-fastest",
            "steady/s",
            "MB/s",
            "CPU s",
            "broker",
            "stub",
            "peak MiB",
            "ratio",
        )?;
        let against = self.rows.iter().find(|(case, _)| *case == Case::Loop);
        let against = against.map(|(_, rounds)| middle(rounds).total);
        for (case, rounds) in &self.rows {
            writeln!(f, "{}", self.row(*case, rounds, against))?;
        }
        Ok(())
    }
}

/// The round of middle length.
fn middle(rounds: &[Measured]) -> Measured {
    let mut rounds = rounds.to_vec();
    rounds.sort_by_key(|round| round.total);
    rounds[(rounds.len() - 1) / 2]
}

/// What it was measured on.
pub(super) fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned()
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores of {cpu}, {:.0} GiB; load {load} at start",
        kib / 1024.0 / 1024.0
    )
}
