//! A child process with its output in files; it is ended when its owner is dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::services::wait::wait_for;

/// A running or finished child process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// Returns a command that the kernel kills when the process that spawned it dies, if `setpriv` of
/// util-linux is installed; otherwise a plain command.
pub(crate) fn tied(program: impl AsRef<OsStr>) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let probe = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "true"])
            .output();
        probe.is_ok_and(|output| output.status.success())
    });
    if *SETPRIV {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// Spawns on one thread that lives as long as the process. The kernel treats the death of the
/// spawning *thread* as that of the parent, and a test's thread ends with its test.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    type Request = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<SyncSender<Request>> = LazyLock::new(|| {
        let (requests, queue) = sync_channel::<Request>(1);
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                // The receiver is gone only if the thread that sent the request has died.
                drop(answer.send(command.spawn()));
            }
        });
        requests
    });
    let (answer, spawned) = sync_channel(1);
    SPAWNER
        .send((command, answer))
        .map_err(|_| io::Error::other("the spawning thread is gone"))?;
    spawned
        .recv()
        .map_err(|_| io::Error::other("the spawning thread is gone"))?
}

impl Process {
    /// Starts `command` with its output appended to `<name>.out` and `<name>.err` in `logs`.
    pub(crate) fn spawn(name: &str, mut command: Command, logs: &Path) -> Result<Process> {
        fs::create_dir_all(logs)?;
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        command.stdout(append(&stdout)?).stderr(append(&stderr)?);
        let child =
            spawn_on_lasting_thread(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, once the process has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the end of its error output, if the process has ended.
    pub(crate) fn expect_running(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended ({status}):\n{}", self.name, self.stderr_tail());
        }
        Ok(())
    }

    /// Sends a signal by name, unless the process has ended.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        send_signal(self.child.id(), signal)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let ended = wait_for(&what, limit, || self.ended());
        ended.with_context(|| format!("its error output ends:\n{}", self.stderr_tail()))
    }

    /// Sends SIGTERM, and SIGKILL if the process does not end within `limit`; returns true if
    /// SIGKILL was needed.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<bool> {
        self.signal("TERM")?;
        if self.wait(limit).is_ok() {
            return Ok(false);
        }
        self.kill()?;
        Ok(true)
    }

    pub(crate) fn stdout(&self) -> Result<Vec<u8>> {
        Ok(fs::read(&self.stdout)?)
    }

    pub(crate) fn stderr(&self) -> Result<Vec<u8>> {
        Ok(fs::read(&self.stderr)?)
    }

    pub(crate) fn stderr_tail(&self) -> String {
        tail(&self.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the code that a shell would show: the exit code, or 128 plus the signal.
pub(crate) fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

/// Sends a signal to a child process by the shell's own `kill`, which needs no package.
pub(crate) fn send_signal(id: u32, signal: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal])
        .arg(id.to_string())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("cannot send {signal} to process {id}");
    }
    Ok(())
}

/// Returns the peak resident memory of a process, in KiB; `None` once it has ended.
#[must_use]
pub fn peak_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(crate) fn append(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Returns the last lines of a log file.
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 30;
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(script: &str, logs: &Path) -> Process {
        let mut command = tied("sh");
        command.args(["-c", script]);
        Process::spawn("shell", command, logs).expect("a shell")
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut ended = shell("echo out; echo err >&2; exit 7", logs.path());
        assert_eq!(shell_code(ended.wait(LIMIT).expect("an end")), 7);
        assert_eq!(ended.stdout().expect("output"), b"out\n");
        assert_eq!(ended.stderr_tail(), "err");
        let mut killed = shell("exec sleep 600", logs.path());
        killed.signal("TERM").expect("a signal");
        assert_eq!(shell_code(killed.wait(LIMIT).expect("an end")), 143);
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut deaf = shell("trap '' TERM; echo ready; exec sleep 600", logs.path());
        wait_for("the trap", LIMIT, || {
            Ok((deaf.stdout()? == b"ready\n").then_some(()))
        })
        .expect("a trap");
        assert!(deaf.stop(Duration::from_millis(100)).expect("a stop"));
        assert!(deaf.expect_running().is_err());
    }

    #[test]
    fn a_process_outlives_the_thread_that_started_it() {
        let logs = tempfile::tempdir().expect("a directory");
        let path = logs.path().to_owned();
        let started = std::thread::spawn(move || shell("exec sleep 600", &path));
        let mut process = started.join().expect("a process");
        process.expect_running().expect("it runs");
    }
}
