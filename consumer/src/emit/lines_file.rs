//! The output file of `emit`. It is locked, receives whole lines only, and is synced before the
//! offsets of its lines are committed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ConsumerError;

/// Number of bytes read at once while searching for the last whole line.
const BLOCK: u64 = 64 << 10;

/// An output file that lines are appended to. Clones write to the same file.
#[derive(Debug, Clone)]
pub struct LinesFile {
    name: Arc<str>,
    file: Arc<File>,
    /// True for a regular file, which can be locked, truncated and synced; false for a pipe or a
    /// device.
    is_regular: bool,
    had_lines: bool,
    /// True if the file was written to since the last sync.
    is_dirty: Arc<AtomicBool>,
}

impl LinesFile {
    /// Opens a file for appending, and creates it if it does not exist. A partial last line that a
    /// crash left is removed: its offset was not committed, so its entry is emitted again.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or written, or if another process writes to
    /// it.
    pub fn open(path: &Path) -> Result<Self, ConsumerError> {
        let name = path.display().to_string();
        let failed = |error| ConsumerError::Output {
            file: name.clone(),
            source: error,
        };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.open(path).map_err(failed)?;
        let is_regular = file.metadata().map_err(failed)?.is_file();
        let mut had_lines = false;
        if is_regular {
            lock(&file, &name)?;
            had_lines = truncate_unfinished_line(&mut file, path).map_err(failed)? > 0;
            sync_folder(path).map_err(failed)?;
        }
        Ok(Self {
            name: name.as_str().into(),
            file: Arc::new(file),
            is_regular,
            had_lines,
            is_dirty: Arc::default(),
        })
    }

    /// Returns a file with unsynced lines whose sync fails, because the device does not support it.
    #[cfg(test)]
    pub(crate) fn unsyncable() -> Self {
        let file = OpenOptions::new().write(true).open("/dev/null").unwrap();
        Self {
            name: "/dev/null".into(),
            file: Arc::new(file),
            is_regular: true,
            had_lines: false,
            is_dirty: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Returns whether the file had lines when it was opened; `None` if it is not a regular file.
    #[must_use]
    pub const fn had_lines(&self) -> Option<bool> {
        if self.is_regular {
            Some(self.had_lines)
        } else {
            None
        }
    }

    /// Waits until all written lines are on disk.
    ///
    /// # Errors
    /// Returns an error if the file system cannot write them. The sync must not be retried: the
    /// operating system may have dropped the pages that it could not write.
    pub fn sync(&self) -> Result<(), ConsumerError> {
        // The flag is cleared before the sync, so that a line that is written during the sync is
        // synced by the next call.
        if !self.is_regular || !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|error| ConsumerError::Output {
                file: self.name.to_string(),
                source: error,
            })
    }
}

impl Write for LinesFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&*self.file).write(bytes);
        self.is_dirty.store(true, Ordering::Release);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.file).flush()
    }
}

/// Locks the file until its last clone is dropped. The operating system also releases the lock if
/// the process crashes.
fn lock(file: &File, name: &str) -> Result<(), ConsumerError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(ConsumerError::OutputInUse {
            file: name.to_owned(),
        }),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(
                %error,
                file = name,
                "the output file cannot be locked on this file system; make sure that no other \
                 member writes to it"
            );
            Ok(())
        }
    }
}

/// Syncs the directory of the file, so that the name of a new file survives a crash.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Truncates the file after the last whole line. Returns the remaining length.
fn truncate_unfinished_line(file: &mut File, path: &Path) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file)
            .take(end - start)
            .read_to_end(&mut block)?;
        if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
            end = start + u64::try_from(newline).expect("an index has at most 64 bits") + 1;
            break;
        }
        end = start;
    }
    if end < length {
        tracing::warn!(
            path = %path.display(),
            bytes = length - end,
            "removed an unfinished last line; its entry will be emitted again"
        );
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_runtime::exit::ExitCode;
    use std::path::PathBuf;

    /// A path in the directory for temporary files. The file is removed on drop.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let name = format!("oplog-emit-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    #[test]
    fn an_unfinished_line_is_truncated() {
        let path = Temporary::new("cut");
        let long = "x".repeat(usize::try_from(BLOCK).unwrap() * 2);
        for (before, after) in [
            (String::new(), String::new()),
            ("one\ntwo\n".to_owned(), "one\ntwo\n".to_owned()),
            ("one\ntw".to_owned(), "one\n".to_owned()),
            (format!("one\n{long}"), "one\n".to_owned()),
            (long.clone(), String::new()),
        ] {
            std::fs::write(&path.0, before).unwrap();
            let mut file = LinesFile::open(&path.0).unwrap();
            assert_eq!(file.had_lines(), Some(!after.is_empty()));
            file.write_all(b"next\n").unwrap();
            let found = std::fs::read_to_string(&path.0).unwrap();
            assert_eq!(found, format!("{after}next\n"));
        }
    }

    #[test]
    fn a_file_has_one_writer_and_is_unlocked_when_the_writer_is_dropped() {
        let path = Temporary::new("lock");
        let first = LinesFile::open(&path.0).unwrap();
        let error = LinesFile::open(&path.0).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
        assert!(error.to_string().contains("a file of its own"), "{error}");
        drop(first);
        LinesFile::open(&path.0).unwrap();
    }

    #[test]
    fn a_device_is_neither_locked_nor_synced() {
        let mut first = LinesFile::open(Path::new("/dev/null")).unwrap();
        let second = LinesFile::open(Path::new("/dev/null")).unwrap();
        first.write_all(b"line\n").unwrap();
        first.sync().unwrap();
        assert_eq!(second.had_lines(), None);
    }

    #[test]
    fn a_file_needs_a_sync_only_after_a_write() {
        let path = Temporary::new("sync");
        let mut file = LinesFile::open(&path.0).unwrap();
        let is_dirty = |file: &LinesFile| file.is_dirty.load(Ordering::Acquire);
        assert!(!is_dirty(&file));
        file.clone().write_all(b"line\n").unwrap();
        assert!(is_dirty(&file));
        file.sync().unwrap();
        assert!(!is_dirty(&file));
        file.write_all(b"line\n").unwrap();
        assert!(is_dirty(&file));
    }
}
