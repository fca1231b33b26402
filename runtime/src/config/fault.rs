//! Configuration faults, collected so that all of them are reported at once.

use std::fmt;
use std::io::{self, Write};

use crate::exit::ExitCode;

/// A fault and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The flag, variable or key, as the operator wrote it.
    pub place: String,
    /// The fault itself; lowercase, without a full stop.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The faults that have been found while a configuration is checked.
#[derive(Debug, Default)]
pub struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    /// Creates an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault.
    pub fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.found.push(Fault {
            place: place.into(),
            message: message.into(),
        });
    }

    /// Returns the value, or adds the error as a fault and returns `None`.
    pub fn take_or<T, E: fmt::Display>(&mut self, place: &str, outcome: Result<T, E>) -> Option<T> {
        outcome
            .map_err(|error| self.add(place, error.to_string()))
            .ok()
    }

    /// Returns true if no fault was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns the faults found so far.
    #[must_use]
    pub fn found(&self) -> &[Fault] {
        &self.found
    }

    /// Ends the check.
    ///
    /// # Errors
    /// [`ConfigError`] with all faults, if any was added.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Faults(self.found))
        }
    }
}

/// The reason why a program cannot start with its arguments.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// All faults, one per line.
    #[error("{}", lines(.0))]
    Faults(Vec<Fault>),
    /// The result of parsing the command line: a mistake, or a request for help or the version.
    #[error("{0}")]
    Usage(Box<clap::Error>),
}

impl ConfigError {
    /// Prints the error for the operator: help and version to standard output, the rest to standard
    /// error.
    ///
    /// # Errors
    /// An I/O error if the stream is closed.
    pub fn print(&self) -> io::Result<()> {
        match self {
            Self::Usage(error) => error.print(),
            Self::Faults(found) => {
                let mut stderr = io::stderr().lock();
                found
                    .iter()
                    .try_for_each(|fault| writeln!(stderr, "error: {fault}"))
            }
        }
    }

    /// Returns the exit code. Help and version are successes.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(error) if !error.use_stderr() => ExitCode::Done,
            Self::Usage(_) | Self::Faults(_) => ExitCode::Usage,
        }
    }
}

fn lines(found: &[Fault]) -> String {
    found
        .iter()
        .map(Fault::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_on_its_line() {
        let mut faults = Faults::new();
        assert_eq!(faults.take_or("--a", Ok::<_, String>(7)), Some(7));
        assert!(faults.is_empty());
        faults.add("--partitions", "must be at least 1");
        assert_eq!(faults.take_or::<u8, _>("--batch", "x".parse::<u8>()), None);
        let error = faults.finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "--partitions: must be at least 1\n--batch: invalid digit found in string"
        );
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert!(Faults::new().finish().is_ok());
    }
}
