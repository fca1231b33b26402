//! The entries of open transactions of a dump. They are stored, because a dump is read only once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{OpTime, Timestamp};
use rustc_hash::FxHashMap;

use crate::error::ProducerError;
use crate::prepare::transaction::Link;

/// Number of bytes of entries that are kept in memory; the excess goes to a file.
const MEMORY_BYTES: usize = 64 << 20;

/// The entries of open transactions, by timestamp. Each is stored until its transaction ends.
#[derive(Debug)]
pub struct SpooledParts {
    parts: BTreeMap<Timestamp, Part>,
    /// The open transaction of each session, and its entries.
    sessions: FxHashMap<Vec<u8>, Open>,
    /// The highest term so far.
    term: i64,
    memory: usize,
    budget: usize,
    spill: Spill,
}

#[derive(Debug)]
struct Part {
    link: Link,
    session: Option<Vec<u8>>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    File { offset: u64, length: usize },
}

#[derive(Debug, Default)]
struct Open {
    number: i64,
    parts: Vec<Timestamp>,
}

/// A temporary file without a name, which the operating system removes however the process ends.
#[derive(Debug, Default)]
struct Spill {
    file: Option<File>,
    /// Number of entries in the file that are still needed.
    entries: usize,
    end: u64,
}

impl Default for SpooledParts {
    fn default() -> Self {
        Self::with_budget(MEMORY_BYTES)
    }
}

/// The size of the stored parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolSize {
    /// Number of bytes in memory.
    pub bytes_in_memory: usize,
    /// Number of entries in the temporary file.
    pub entries_in_file: usize,
}

impl SpooledParts {
    /// Creates an empty store; `budget` is in bytes.
    #[must_use]
    pub fn with_budget(budget: usize) -> Self {
        Self {
            parts: BTreeMap::new(),
            sessions: FxHashMap::default(),
            term: -1,
            memory: 0,
            budget,
            spill: Spill::default(),
        }
    }

    /// Returns the time of the oldest entry in the store.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.parts.first_key_value().map(|(ts, _)| *ts)
    }

    /// Returns the size of what is stored.
    #[must_use]
    pub const fn size(&self) -> SpoolSize {
        SpoolSize {
            bytes_in_memory: self.memory,
            entries_in_file: self.spill.entries,
        }
    }

    /// Stores an entry of an open transaction.
    ///
    /// # Errors
    /// [`ProducerError::File`] if the temporary file fails.
    pub fn keep(&mut self, entry: &Entry<'_>, link: Link) -> Result<(), ProducerError> {
        let bytes = entry.raw.as_bytes();
        let place = if self.memory + bytes.len() <= self.budget {
            self.memory += bytes.len();
            Place::Memory(bytes.to_vec())
        } else {
            self.spill.write(bytes).map_err(spill_failed)?
        };
        let session = entry.lsid.map(|lsid| lsid.as_bytes().to_vec());
        let session = session.filter(|_| entry.txn_number.is_some());
        if let Some(session) = &session {
            let open = self.sessions.entry(session.clone()).or_default();
            open.number = entry.txn_number.unwrap_or_default();
            open.parts.push(entry.ts);
        }
        let part = Part {
            link,
            session,
            place,
        };
        self.parts.insert(entry.ts, part);
        Ok(())
    }

    /// Drops the open transaction of an entry's session if the entry has a higher `txnNumber`: an abort
    /// that was not logged, or an election, ended the transaction.
    #[inline]
    pub fn session_moved_on(&mut self, entry: &Entry<'_>) {
        if self.sessions.is_empty() {
            return;
        }
        if let (Some(lsid), Some(number)) = (entry.lsid, entry.txn_number) {
            let open = self.sessions.get_mut(lsid.as_bytes());
            let ended = open.filter(|open| open.number < number);
            let parts = ended.map(|open| std::mem::take(&mut open.parts));
            for ts in parts.unwrap_or_default() {
                self.remove(ts);
            }
        }
    }

    /// Drops the transactions that an election ended: a new primary continues only those that were
    /// prepared.
    #[inline]
    pub fn term_moved_on(&mut self, entry: &Entry<'_>) {
        if entry.term > self.term {
            self.term = entry.term;
            self.drop_unprepared();
        }
    }

    #[cold]
    fn drop_unprepared(&mut self) {
        let is_prepared = |part: &Part| {
            let session = part.session.as_ref();
            let open = session.and_then(|session| self.sessions.get(session));
            let mut parts = open.iter().flat_map(|open| &open.parts);
            part.link.prepare
                || parts.any(|ts| self.parts.get(ts).is_some_and(|part| part.link.prepare))
        };
        let parts = self.parts.iter().filter(|(_, part)| !is_prepared(part));
        let ended: Vec<Timestamp> = parts.map(|(ts, _)| *ts).collect();
        if let Some(first) = ended.first() {
            tracing::info!(
                term = self.term,
                entries = ended.len(),
                %first,
                "an election aborted transactions that were not prepared; their entries are dropped"
            );
        }
        for ts in ended {
            self.remove(ts);
        }
    }

    /// Returns true if an entry with the same time in another term is stored.
    #[must_use]
    pub fn has_another_at(&self, at: OpTime) -> bool {
        self.parts.contains_key(&at.ts) && self.link(at).is_none()
    }

    /// Returns the link of the entry at an optime.
    #[must_use]
    pub fn link(&self, at: OpTime) -> Option<Link> {
        let part = self.parts.get(&at.ts)?;
        (part.link.at == at).then_some(part.link)
    }

    /// Returns the bytes of the entry at an optime.
    ///
    /// # Errors
    /// The errors of [`SpooledParts::keep`].
    pub fn read(&self, at: OpTime) -> Result<Option<Vec<u8>>, ProducerError> {
        let part = self.parts.get(&at.ts).filter(|part| part.link.at == at);
        match part.map(|part| &part.place) {
            None => Ok(None),
            Some(Place::Memory(bytes)) => Ok(Some(bytes.clone())),
            Some(Place::File { offset, length }) => {
                let bytes = self.spill.read(*offset, *length);
                bytes.map(Some).map_err(spill_failed)
            }
        }
    }

    /// Drops the entry at an optime.
    pub fn forget(&mut self, at: OpTime) {
        if self.link(at).is_some() {
            self.remove(at.ts);
        }
    }

    fn remove(&mut self, ts: Timestamp) {
        let Some(part) = self.parts.remove(&ts) else {
            return;
        };
        match part.place {
            Place::Memory(bytes) => self.memory -= bytes.len(),
            Place::File { .. } => self.spill.release(),
        }
        let Some(session) = part.session else { return };
        if let Some(open) = self.sessions.get_mut(&session) {
            open.parts.retain(|part| *part != ts);
            if open.parts.is_empty() {
                self.sessions.remove(&session);
            }
        }
    }
}

impl Spill {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<Place> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        file.write_all(bytes)?;
        let offset = self.end;
        self.end += bytes.len() as u64;
        self.entries += 1;
        Ok(Place::File {
            offset,
            length: bytes.len(),
        })
    }

    fn read(&self, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut bytes, offset)?;
        }
        Ok(bytes)
    }

    /// Releases an entry. With the last one the file is removed, which frees its disk space.
    fn release(&mut self) {
        self.entries -= 1;
        if self.entries == 0 {
            *self = Self::default();
        }
    }
}

fn spill_failed(source: std::io::Error) -> ProducerError {
    ProducerError::File {
        path: "the temporary file for open transactions".to_owned(),
        source,
    }
}
