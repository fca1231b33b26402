//! The parts that the end-to-end tests share: the source, the command lines and outcomes of
//! programs, and Kafka's tools.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka, Program};

/// A limit above the duration of every step, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(400);

/// Starts a FerretDB that writes an oplog.
pub(crate) fn source() -> Result<FerretDb> {
    FerretDb::start(&FerretDbOptions::source())
}

/// A command line that is extended step by step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(Vec<OsString>);

impl Line {
    pub(crate) fn new(command: &str) -> Line {
        Line(vec![command.into()])
    }

    /// Returns `oplog-producer run` from a source (an address or a path) under a prefix.
    pub(crate) fn run(kafka: &Kafka, source: impl Into<OsString>, prefix: &str) -> Line {
        Line::new("run")
            .with("--source", source)
            .with("--brokers", kafka.brokers())
            .with("--topic-prefix", prefix)
    }

    pub(crate) fn with(mut self, flag: &str, value: impl Into<OsString>) -> Line {
        self.0.extend([flag.into(), value.into()]);
        self
    }

    pub(crate) fn flag(mut self, flag: &str) -> Line {
        self.0.push(flag.into());
        self
    }

    pub(crate) fn words(self) -> Vec<OsString> {
        self.0
    }

    /// Starts the producer. HTTP is off unless the line sets it, because tests run side by side.
    pub(crate) fn start_producer(&self) -> Result<Program> {
        let served = self.0.iter().any(|word| word == "--http");
        let run = self.0.iter().any(|word| word == "run");
        if run && !served {
            return Program::producer(self.clone().with("--http", "off").0);
        }
        Program::producer(&self.0)
    }

    /// Runs the producer to its end and returns its outcome.
    pub(crate) fn produce(&self) -> Result<Ended> {
        Ended::wait(self.start_producer()?)
    }

    /// Runs the producer to its end and checks that it ended with code 0.
    pub(crate) fn produce_all(&self) -> Result<Ended> {
        self.produce()?.with_code(0)
    }
}

/// The outcome of a program: its exit code and its output.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn wait(mut program: Program) -> Result<Ended> {
        let code = program.wait(LIMIT)?;
        Ok(Ended {
            code,
            stdout: program.stdout_text()?,
            stderr: program.stderr_text()?,
        })
    }

    /// Checks that it ended with that code.
    pub(crate) fn with_code(self, code: i32) -> Result<Ended> {
        ensure!(
            self.code == code,
            "ended with {}, not {code}:\n{}",
            self.code,
            self.stderr
        );
        Ok(self)
    }

    /// Checks that it wrote each of these texts to standard error.
    pub(crate) fn with_log(self, parts: &[&str]) -> Result<Ended> {
        for part in parts {
            let is_logged = self.stderr.contains(part);
            ensure!(is_logged, "the log does not say {part:?}:\n{}", self.stderr);
        }
        Ok(self)
    }
}

/// A random number generator. The seed is printed, so that a failure can be reproduced.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    #[allow(clippy::print_stderr, reason = "the report of a failing test")]
    pub(crate) fn new() -> Result<Random> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let seed = now.as_nanos() as u64 | 1;
        eprintln!("random seed {seed}");
        Ok(Random(seed))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Runs one of Kafka's tools, which must succeed, and returns its output.
pub(crate) fn tool(kafka: &Kafka, name: &str, args: &[&str]) -> Result<String> {
    let output = kafka.tool(name, args)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut output_text = text.clone();
    write!(output_text, "{}", String::from_utf8_lossy(&output.stderr))?;
    ensure!(
        output.status.success(),
        "{name} {args:?} failed: {output_text}"
    );
    Ok(text)
}

/// Compresses bytes as `mongodump --gzip` does.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}
