//! What can be typed.

use anyhow::{Context, Result, bail, ensure};

use super::case::Case;

/// What the command line may hold.
pub const USAGE: &str = "usage: bench [--entries N] [--partitions N,N] [--rounds N] \
                         [--cases cursor,producer,loop,raw,bson,json]";

/// A run.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) entries: u64,
    pub(super) partitions: Vec<u32>,
    pub(super) cases: Vec<Case>,
    /// Each case runs so often; the table shows the middle one.
    pub(super) rounds: u32,
    /// For working on the bench itself.
    pub(super) allow_debug: bool,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// What cannot be understood, with the usage.
    pub(super) fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options {
            entries: 1_000_000,
            partitions: vec![4],
            cases: Case::ALL.to_vec(),
            rounds: 3,
            allow_debug: false,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            if flag == "--allow-debug" {
                options.allow_debug = true;
                continue;
            }
            let value = args.next().context(USAGE)?;
            match flag.as_str() {
                "--entries" => options.entries = value.parse().context(USAGE)?,
                "--partitions" => options.partitions = list(value, |item| item.parse().ok())?,
                "--cases" => options.cases = list(value, Case::from_name)?,
                "--rounds" => options.rounds = value.parse().context(USAGE)?,
                _ => bail!("unknown option {flag}; {USAGE}"),
            }
        }
        ensure!(options.entries > 0 && options.rounds > 0, USAGE);
        Ok(options)
    }
}

fn list<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    text.split(',')
        .map(|item| parse(item).with_context(|| format!("{item:?}; {USAGE}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn flags_are_read_and_faults_told() {
        let options = parse("--entries 7 --partitions 4,16 --cases loop,bson").expect("options");
        assert_eq!((options.entries, options.partitions), (7, vec![4, 16]));
        assert_eq!(options.cases, [Case::Loop, Case::Bson]);
        assert_eq!(parse("").expect("options").cases, Case::ALL);
        for wrong in [
            "--entries",
            "--entries x",
            "--cases loop,",
            "--rounds 0",
            "--fast 1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
