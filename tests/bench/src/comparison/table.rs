//! The ratios as text.

use std::fmt;

use super::case::Case;
use super::measure::Measured;
use super::verdict::{MOST_MIB, at_least, verdict};

/// The minimum speed of a full sync relative to plain cursors, on a server whose reads take time.
const LEAST_OF_RANGES: f64 = 0.80;

/// All rounds of all cases.
#[derive(Debug)]
pub(super) struct Table {
    partitions: u32,
    rows: Vec<(Case, Vec<Measured>)>,
}

impl Table {
    pub(super) const fn new(partitions: u32) -> Table {
        Table {
            partitions,
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

    /// Returns the ratio of the rates of two cases.
    fn ratio(&self, case: Case, other: Case) -> Option<f64> {
        let rate = |case| {
            let row = self.rows.iter().find(|(known, _)| *known == case);
            row.map(|(_, rounds)| middle(rounds).rate())
        };
        Some(rate(case)? / rate(other)?)
    }

    fn row(&self, case: Case, rounds: &[Measured]) -> String {
        let middle = middle(rounds);
        let rates = rounds.iter().map(Measured::rate);
        let slowest = rates.clone().fold(f64::INFINITY, f64::min);
        let fastest = rates.fold(0.0, f64::max);
        let ratio = self.ratio(case, case.against());
        let figure = |figure: Option<f64>| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"))
        };
        let verdict = case.least().map_or_else(String::new, |least| {
            verdict(&[
                ("ratio", ratio.is_none_or(|ratio| ratio >= least)),
                ("memory", middle.peak_mib() <= MOST_MIB),
            ])
        });
        let line = format!(
            "{:<18} {:>9.0} {:>17} {:>7.2} {:>5.0} {:>6.2} {:>6.2} {:>6.2} {:>5.0} {:>6} {:>5} {verdict}",
            case.name(),
            middle.rate(),
            format!("{slowest:.0}-{fastest:.0}"),
            middle.start().as_secs_f64(),
            middle.bytes as f64 / 1e6 / middle.steady.as_secs_f64().max(1e-9),
            middle.cpu.as_secs_f64(),
            middle.broker_cpu.as_secs_f64(),
            middle.server_cpu.as_secs_f64(),
            middle.peak_mib(),
            figure(ratio),
            figure(case.least()),
        );
        line.trim_end().to_owned()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((_, rounds)) = self.rows.first() else {
            return Ok(());
        };
        let Measured { entries, bytes, .. } = middle(rounds);
        writeln!(
            f,
            "{entries} entries of {:.0} bytes, {} partitions, the median of {} rounds",
            bytes as f64 / entries as f64,
            self.partitions,
            rounds.len(),
        )?;
        writeln!(
            f,
            "{:<18} {:>9} {:>17} {:>7} {:>5} {:>6} {:>6} {:>6} {:>5} {:>6} {:>5}",
            "case",
            "entries/s",
            "slowest-fastest",
            "start s",
            "MB/s",
            "CPU s",
            "broker",
            "server",
            "MiB",
            "ratio",
            "least",
        )?;
        for (case, rounds) in &self.rows {
            writeln!(f, "{}", self.row(*case, rounds))?;
        }
        // A case that writes to Kafka cannot be as fast as cursors on a server that does no work;
        // the goal is meant for a server whose reads take time.
        match self.ratio(Case::Copy, Case::Ranges) {
            Some(ratio) => writeln!(
                f,
                "{}",
                at_least("copy against ranges", ratio, LEAST_OF_RANGES)
            ),
            None => Ok(()),
        }
    }
}

/// Returns the round with the median duration.
pub(super) fn middle(rounds: &[Measured]) -> Measured {
    let mut rounds = rounds.to_vec();
    rounds.sort_by_key(|round| round.steady);
    rounds[(rounds.len() - 1) / 2]
}

/// Describes the machine of the measurement.
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
