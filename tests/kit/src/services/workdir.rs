//! The temporary directory of one server or program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The memory file system of Linux.
const MEMORY: &str = "/dev/shm";

/// The prefix of the names of all such directories.
const PREFIX: &str = "oplog-relay-";
/// The name of a file in each directory that is locked as long as its owner lives.
const OWNER: &str = "owner.lock";
/// A time longer than the creation of a directory takes.
const MAKING: Duration = Duration::from_secs(60);

/// A directory that is removed when dropped, unless the test is failing or `OPLOG_RELAY_KEEP=1` is
/// set. A directory that is never dropped, because its process was killed, is removed by the next
/// process.
#[derive(Debug)]
pub(crate) struct Workdir {
    path: PathBuf,
    temporary: Option<TempDir>,
    _owner: File,
}

impl Workdir {
    /// Creates the directory, with `logs` in it.
    pub(crate) fn create(name: &str) -> Result<Workdir> {
        Workdir::create_under(&std::env::temp_dir(), name)
    }

    /// Creates the directory in memory if the host has a memory file system.
    pub(crate) fn create_in_memory(name: &str) -> Result<Workdir> {
        match Workdir::create_under(Path::new(MEMORY), name) {
            Ok(workdir) => Ok(workdir),
            Err(error) => {
                eprintln!("cannot use the memory file system, using the disk: {error:#}");
                Workdir::create(name)
            }
        }
    }

    fn create_under(parent: &Path, name: &str) -> Result<Workdir> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| {
            remove_ownerless(&std::env::temp_dir());
            remove_ownerless(Path::new(MEMORY));
        });
        let temporary = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{name}-"))
            .tempdir_in(parent)
            .context("cannot create a temporary directory")?;
        let owner = File::create(temporary.path().join(OWNER))?;
        owner.lock()?;
        fs::create_dir_all(temporary.path().join("logs"))?;
        Ok(Workdir {
            path: temporary.path().to_owned(),
            temporary: Some(temporary),
            _owner: owner,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory after its owner is dropped.
    pub(crate) fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Without this file a later process does not regard the directory as left over.
            drop(fs::remove_file(temporary.path().join(OWNER)));
            eprintln!("kept: {}", temporary.keep().display());
        }
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        let is_requested = std::env::var_os("OPLOG_RELAY_KEEP").is_some_and(|value| value == "1");
        if is_requested || std::thread::panicking() {
            self.keep();
        }
    }
}

/// Removes directories whose owner has ended. A directory that cannot be removed is left for the
/// next process.
fn remove_ownerless(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy());
        if !name.is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        let Ok(owner) = File::open(path.join(OWNER)) else {
            continue;
        };
        // Another process may be between creating the file and locking it.
        let age = owner
            .metadata()
            .ok()
            .and_then(|file| file.modified().ok()?.elapsed().ok());
        let is_old = age.is_some_and(|age| age > MAKING);
        if is_old && owner.try_lock().is_ok() {
            drop(fs::remove_dir_all(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_directories_without_an_owner_are_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let mut kept = Workdir::create_under(parent.path(), "kept").expect("a directory");
        kept.keep();
        let owned = Workdir::create_under(parent.path(), "owned").expect("a directory");
        let left = parent.path().join("oplog-relay-left");
        fs::create_dir(&left).expect("a directory");
        let owner = File::create(left.join(OWNER)).expect("a file");
        let before = SystemTime::now() - 2 * MAKING;
        owner.set_modified(before).expect("a time");
        remove_ownerless(parent.path());
        assert!(!left.exists());
        assert!(owned.path().exists() && kept.path().exists());
    }
}
