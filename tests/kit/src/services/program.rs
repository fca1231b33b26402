//! The programs of this workspace, run as processes that can be observed, terminated and killed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::services::process::{self, Process};
use crate::services::wait::wait_until;
use crate::services::workdir::Workdir;

/// The exit code of a program that SIGTERM ends.
const TERMINATED: i32 = 143;

/// A run of `oplog-producer` or `oplog-consumer`; it is killed when dropped.
#[derive(Debug)]
pub struct Program {
    // This field is dropped first, so that the process no longer writes into the directory.
    process: Process,
    workdir: Workdir,
}

impl Program {
    /// Starts `oplog-producer` with these arguments.
    pub fn producer(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Result<Program> {
        Program::start("oplog-producer", args, &[])
    }

    /// Starts `oplog-consumer` with these arguments.
    pub fn consumer(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Result<Program> {
        Program::start("oplog-consumer", args, &[])
    }

    /// Starts a program of this workspace with arguments and environment variables. It inherits the
    /// test's environment, except the `OPLOG_…` variables that set options of the programs.
    pub fn start(
        name: &str,
        args: impl IntoIterator<Item: AsRef<OsStr>>,
        variables: &[(&str, &str)],
    ) -> Result<Program> {
        Program::spawn(name, args, variables, Stdio::null())
    }

    /// Starts a program of this workspace that reads from `input`.
    pub fn with_input(
        name: &str,
        args: impl IntoIterator<Item: AsRef<OsStr>>,
        input: impl Into<Stdio>,
    ) -> Result<Program> {
        Program::spawn(name, args, &[], input.into())
    }

    fn spawn(
        name: &str,
        args: impl IntoIterator<Item: AsRef<OsStr>>,
        variables: &[(&str, &str)],
        input: Stdio,
    ) -> Result<Program> {
        let workdir = Workdir::create(name)?;
        let mut command = process::tied(binary(name)?);
        for (variable, _) in std::env::vars_os() {
            // Variables of the tests themselves (`OPLOG_RELAY_…`), such as the cache folder, are kept.
            let name = variable.to_string_lossy();
            if name.starts_with("OPLOG_") && !name.starts_with("OPLOG_RELAY_") {
                command.env_remove(variable);
            }
        }
        command
            .args(args)
            .envs(variables.iter().copied())
            .current_dir(workdir.path())
            .stdin(input);
        let process = Process::spawn(name, command, &workdir.path().join("logs"))?;
        Ok(Program { process, workdir })
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns its working directory. Its output is in the subdirectory `logs`.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        self.workdir.path()
    }

    /// Returns true if it is still running.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Sends SIGTERM and returns at once.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal("TERM")
    }

    /// Sends SIGTERM and waits for the exit. Fails if the program ends for another reason.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        self.terminate()?;
        let code = self.wait(limit)?;
        ensure!(
            code == TERMINATED,
            "the program ended with {code}: {}",
            self.stderr_text()?
        );
        Ok(())
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill_9(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Sends a signal by its name. `STOP` and `CONT` suspend and resume the process.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for the exit and returns the exit code (128 plus the signal number, if a signal killed it).
    /// Fails with the last lines of its log if it is still running after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        self.process.wait(limit).map(process::shell_code)
    }

    /// Waits for the exit and returns the exit code and its peak memory in KiB.
    pub fn wait_measured(&mut self, limit: Duration) -> Result<(i32, u64)> {
        let mut most = 0;
        wait_until("the exit of the program", limit, || {
            most = most.max(process::peak_kib(self.id()).unwrap_or(0));
            !self.is_running().unwrap_or(false)
        })?;
        Ok((self.wait(limit)?, most))
    }

    /// Returns its peak memory so far, in MiB. Fails if it has exited.
    pub fn peak_mib(&self) -> Result<u64> {
        let peak = process::peak_kib(self.id()).context("the program has exited")?;
        Ok(peak / 1024)
    }

    /// Returns its standard output so far.
    pub fn stdout_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.process.stdout()?).into_owned())
    }

    /// Returns its standard error so far.
    pub fn stderr_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.process.stderr()?).into_owned())
    }

    /// Keeps its directory after it is dropped.
    pub fn keep(&mut self) {
        self.workdir.keep();
    }
}

/// Finds a program in the directory `OPLOG_RELAY_BIN_DIR`, or, if this is not set, beside the running
/// test in `target/<profile>/`.
///
/// # Errors
/// An error if it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("OPLOG_RELAY_BIN_DIR") {
        folders.push(PathBuf::from(folder));
    } else {
        let test = std::env::current_exe()?;
        folders.extend(test.ancestors().skip(1).take(2).map(PathBuf::from));
    }
    let found = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found
        .with_context(|| format!("{name} is not in {folders:?}: run `cargo build -p {name}` first"))
}
