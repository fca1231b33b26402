//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::case::{Case, Group};
use super::takeover::Ending;

/// The usage text of the command line.
pub const USAGE: &str = "\
usage: bench [--quick] [--cases NAME,NAME] [--entries N] [--partitions N,N] [--rounds N]
             [--ferretdb-entries N] [--large-entries N] [--growth-entries N]
             [--growth-partitions N,N] [--growth-collections N,N]
             [--latency-seconds N] [--steady-seconds N] [--idle-seconds N] [--ddl-rounds N]
             [--svg FILE]
NAME is a case or a group of cases (produce, full-sync, emit, replay, ferretdb), or latency, steady,
idle, large, ddl, takeover, growth. --quick runs everything with few entries, as a check. --svg draws the
curves of growth.";

/// A measurement other than ratios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Latency,
    Steady,
    Idle,
    Large,
    Ddl,
    Takeover,
    Growth,
}

impl Extra {
    /// All measurements, with their names on the command line.
    pub(super) const NAMES: [(Extra, &str); 7] = [
        (Extra::Latency, "latency"),
        (Extra::Steady, "steady"),
        (Extra::Idle, "idle"),
        (Extra::Large, "large"),
        (Extra::Ddl, "ddl"),
        (Extra::Takeover, "takeover"),
        (Extra::Growth, "growth"),
    ];
}

/// The options of a run.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) entries: u64,
    pub(super) partitions: Vec<u32>,
    pub(super) cases: Vec<Case>,
    pub(super) extras: Vec<Extra>,
    /// Number of rounds of each case; the table shows the median.
    pub(super) rounds: u32,
    /// Number of entries for FerretDB, which is slow.
    pub(super) ferretdb_entries: u64,
    /// Number of entries of 16 MB.
    pub(super) large_entries: u64,
    /// Number of entries at the end of the growth curves.
    pub(super) growth_entries: u64,
    pub(super) growth_partitions: Vec<u32>,
    pub(super) growth_collections: Vec<u64>,
    /// Time over which latencies are measured.
    pub(super) latency: Duration,
    /// Rates at which latency is measured, in entries a second.
    pub(super) latency_rates: &'static [u64],
    /// Time over which the worst second is determined.
    pub(super) steady: Duration,
    /// Time over which the processor time of idle programs is measured.
    pub(super) idle: Duration,
    /// Number of collections that are created and dropped.
    pub(super) ddl_rounds: u32,
    /// The ways in which instances end, for the time until another one takes over.
    pub(super) endings: &'static [Ending],
    /// The file for the curves of growth.
    pub(super) svg: Option<PathBuf>,
    /// Permits a debug build, for work on the bench itself.
    pub(super) allow_debug: bool,
}

impl Options {
    fn usual() -> Options {
        Options {
            entries: 1_000_000,
            partitions: vec![4, 16],
            cases: Case::all().collect(),
            extras: Extra::NAMES.map(|(extra, _)| extra).to_vec(),
            rounds: 3,
            ferretdb_entries: 150_000,
            large_entries: 40,
            growth_entries: 10_000_000,
            growth_partitions: vec![1, 4, 16, 64],
            growth_collections: vec![1, 10, 50, 200],
            latency: Duration::from_secs(30),
            latency_rates: &[100, 1000, 10_000],
            steady: Duration::from_secs(600),
            idle: Duration::from_secs(30),
            ddl_rounds: 300,
            endings: Ending::ALL,
            svg: None,
            allow_debug: false,
        }
    }

    fn quick() -> Options {
        Options {
            entries: 2000,
            partitions: vec![4],
            rounds: 1,
            ferretdb_entries: 200,
            large_entries: 2,
            growth_entries: 2000,
            growth_partitions: vec![2, 4],
            growth_collections: vec![1, 5],
            latency: Duration::from_secs(1),
            latency_rates: &[1000],
            steady: Duration::from_secs(10),
            idle: Duration::from_secs(1),
            ddl_rounds: 20,
            // A takeover after a crash takes as long as the session timeout.
            endings: &[Ending::Stopped],
            ..Options::usual()
        }
    }

    /// Parses the command line.
    ///
    /// # Errors
    /// The argument that cannot be parsed, with the usage.
    pub(super) fn parse(args: &[String]) -> Result<Options> {
        let mut options = match args.iter().any(|flag| flag == "--quick") {
            true => Options::quick(),
            false => Options::usual(),
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--quick" => {}
                "--allow-debug" => options.allow_debug = true,
                _ => options.set(flag, args.next().context(USAGE)?)?,
            }
        }
        let counts = [
            options.entries,
            options.ferretdb_entries,
            options.large_entries,
        ];
        let at_all = counts.iter().all(|count| *count > 0) && options.rounds > 0;
        ensure!(at_all && !options.partitions.contains(&0), USAGE);
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<()> {
        let seconds = || number(value).map(Duration::from_secs);
        match flag {
            "--entries" => self.entries = number(value)?,
            "--partitions" => self.partitions = numbers(value)?,
            "--cases" => self.choose(value)?,
            "--rounds" => self.rounds = number(value)?,
            "--ferretdb-entries" => self.ferretdb_entries = number(value)?,
            "--large-entries" => self.large_entries = number(value)?,
            "--growth-entries" => self.growth_entries = number(value)?,
            "--growth-partitions" => self.growth_partitions = numbers(value)?,
            "--growth-collections" => self.growth_collections = numbers(value)?,
            "--latency-seconds" => self.latency = seconds()?,
            "--steady-seconds" => self.steady = seconds()?,
            "--idle-seconds" => self.idle = seconds()?,
            "--ddl-rounds" => self.ddl_rounds = number(value)?,
            "--svg" => self.svg = Some(PathBuf::from(value)),
            _ => bail!("unknown option {flag}; {USAGE}"),
        }
        Ok(())
    }

    fn choose(&mut self, names: &str) -> Result<()> {
        self.cases.clear();
        self.extras.clear();
        for name in names.split(',') {
            if let Some(case) = Case::from_name(name) {
                self.cases.push(case);
            } else if let Some((group, _)) = Group::NAMES.iter().find(|(_, known)| *known == name) {
                self.cases.extend(group.cases());
            } else if let Some((extra, _)) = Extra::NAMES.iter().find(|(_, known)| *known == name) {
                self.extras.push(*extra);
            } else {
                bail!("no case has the name {name:?}; {USAGE}");
            }
        }
        Ok(())
    }
}

fn numbers<T: FromStr>(text: &str) -> Result<Vec<T>> {
    text.split(',').map(number).collect()
}

fn number<T: FromStr>(text: &str) -> Result<T> {
    let number = text.parse().ok();
    number.with_context(|| format!("{text:?} is not a number; {USAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn flags_are_parsed_and_faults_reported() {
        let options = parse("--entries 7 --partitions 4,16 --cases loop,emit,idle --quick");
        let options = options.expect("options");
        assert_eq!((options.entries, options.partitions), (7, vec![4, 16]));
        let emit = [Case::Loop, Case::Consume, Case::EmitRaw, Case::EmitBson];
        assert_eq!(
            (options.cases, options.extras),
            (emit.to_vec(), vec![Extra::Idle])
        );
        assert_eq!(options.rounds, 1);
        let all = parse("").expect("options");
        assert!(all.cases.into_iter().eq(Case::all()) && all.extras.len() == Extra::NAMES.len());
        for wrong in [
            "--entries",
            "--entries x",
            "--cases loop,",
            "--rounds 0",
            "--partitions 4,0",
            "--fast 1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
