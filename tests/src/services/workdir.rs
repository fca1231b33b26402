//! The temporary directory of one server or program.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where Linux has a file system in memory.
const MEMORY: &str = "/dev/shm";

/// Removed when dropped, unless the test is failing or `OPLOG_RELAY_KEEP=1` is set.
#[derive(Debug)]
pub(crate) struct Workdir {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Workdir {
    /// Creates the directory, with `logs` in it.
    pub(crate) fn create(name: &str) -> Result<Workdir> {
        Workdir::create_under(&std::env::temp_dir(), name)
    }

    /// The same, in memory where the host has a place for that.
    pub(crate) fn create_in_memory(name: &str) -> Result<Workdir> {
        match Workdir::create_under(Path::new(MEMORY), name) {
            Ok(workdir) => Ok(workdir),
            Err(error) => {
                eprintln!("on disk, as there is no place in memory: {error:#}");
                Workdir::create(name)
            }
        }
    }

    fn create_under(parent: &Path, name: &str) -> Result<Workdir> {
        let temporary = tempfile::Builder::new()
            .prefix(&format!("oplog-relay-{name}-"))
            .tempdir_in(parent)
            .context("cannot create a temporary directory")?;
        fs::create_dir_all(temporary.path().join("logs"))?;
        Ok(Workdir {
            path: temporary.path().to_owned(),
            temporary: Some(temporary),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory where it is when the owner goes.
    pub(crate) fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            eprintln!("kept: {}", temporary.keep().display());
        }
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        let told = std::env::var_os("OPLOG_RELAY_KEEP").is_some_and(|value| value == "1");
        if told || std::thread::panicking() {
            self.keep();
        }
    }
}
