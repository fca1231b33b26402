//! The server: what its connections share.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::command;
use super::cursor::Cursors;
use super::documents::{Contents, Documents};
use super::fault::{Fault, Faults};
use super::oplog::Oplog;
use super::point::Points;
use crate::wire::{Closing, Listener, Reply, Request, Service};

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listener: Listener,
}

/// How a slow server gives its entries: few at a time, each time after a pause.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Entries in a reply at most.
    pub entries: u64,
    /// Before each reply.
    pub pause: Duration,
}

/// What the connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) oplog: Oplog,
    pub(super) documents: Documents,
    pub(super) pace: Option<Pace>,
    /// Each entry is there from its time on; else all are there at once.
    live: bool,
    pub(super) address: String,
    pub(super) cursors: Cursors,
    pub(super) written: Written,
    pub(super) points: Points,
    pub(super) faults: Faults,
    closing: Arc<Closing>,
}

/// Statements that were acknowledged.
#[derive(Debug, Default)]
pub(super) struct Written {
    inserts: AtomicU64,
    updates: AtomicU64,
    deletes: AtomicU64,
}

impl Written {
    pub(super) fn add(&self, command: &[u8], count: u64) {
        let counter = match command {
            b"insert" => &self.inserts,
            b"update" => &self.updates,
            _ => &self.deletes,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> [u64; 3] {
        [&self.inserts, &self.updates, &self.deletes].map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// Number of entries that are there.
    pub(super) fn len(&self) -> u64 {
        if !self.live {
            return self.oplog.len();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.map_or(0, |now| now.as_millis());
        self.oplog.until(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// The entries of the next reply.
    pub(super) fn batch(&self, next: u64, limit: u64) -> Range<u64> {
        let there = self.len().saturating_sub(next);
        self.oplog.batch(next, limit.min(there))
    }

    /// Waits that long as a tailable cursor does at the end, or until entry `next` is there.
    pub(super) fn wait_for(&self, next: u64, limit: Duration) {
        if next >= self.oplog.len() {
            return self.wait(limit);
        }
        let deadline = Instant::now() + limit;
        while self.len() <= next && Instant::now() < deadline {
            self.wait(Duration::from_millis(1));
        }
    }

    /// Takes the pause before a reply, and says how many entries it may have.
    pub(super) fn at_pace(&self, wanted: u64) -> u64 {
        self.pace.map_or(wanted, |pace| {
            self.wait(pace.pause);
            wanted.min(pace.entries)
        })
    }

    fn wait(&self, limit: Duration) {
        self.closing.wait(limit);
    }
}

impl Service for Shared {
    fn answer(&self, request: &Request<'_>, reply: Reply<'_>) -> io::Result<()> {
        reply.send(&command::answer(self, request)?.parts())
    }
}

impl Server {
    /// Serves an oplog on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(oplog: Oplog) -> io::Result<Server> {
        Server::open(oplog, Contents::default(), (None, false), &[])
    }

    /// The same with documents in the collection of the oplog's first entries.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(oplog: Oplog, contents: Contents) -> io::Result<Server> {
        Server::open(oplog, contents, (None, false), &[])
    }

    /// The same, with each entry there only from its time on.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_live(oplog: Oplog) -> io::Result<Server> {
        Server::open(oplog, Contents::default(), (None, true), &[])
    }

    /// The same at a pace: whoever tails it is never at its end for long.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_slow(oplog: Oplog, pace: Pace) -> io::Result<Server> {
        Server::open(oplog, Contents::default(), (Some(pace), false), &[])
    }

    /// The same with failures of `getMore`, each before the entry of that number, in order.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_failing(oplog: Oplog, faults: &[(u64, Fault)]) -> io::Result<Server> {
        Server::open(oplog, Contents::default(), (None, false), faults)
    }

    /// The next reads of the oldest or newest entry get these codes.
    pub fn fail_ends(&self, codes: &[i32]) {
        self.shared.faults.fail_ends(codes);
    }

    /// Reads from secondaries find an oplog that begins at that entry, as after an initial sync.
    pub fn shorten_secondaries(&self, first: u64) {
        self.shared.faults.shorten_secondaries(first);
    }

    /// A majority of the set is that many seconds ahead of what this member gives.
    pub fn fall_behind(&self, seconds: u32) {
        self.shared.faults.fall_behind(seconds);
    }

    /// Whether all the failures came.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.faults.are_over()
    }

    fn open(
        oplog: Oplog,
        contents: Contents,
        (pace, live): (Option<Pace>, bool),
        faults: &[(u64, Fault)],
    ) -> io::Result<Server> {
        let (listener, shared) = Listener::start(|address, closing| Shared {
            oplog,
            documents: Documents::new(contents),
            pace,
            live,
            address: address.to_string(),
            cursors: Cursors::default(),
            written: Written::default(),
            points: Points::default(),
            faults: Faults::new(faults),
            closing,
        })?;
        Ok(Server { shared, listener })
    }

    /// The connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.listener.uri()
    }

    /// What it serves.
    #[must_use]
    pub fn oplog(&self) -> &Oplog {
        &self.shared.oplog
    }

    /// Bytes of all documents, or of the oplog where there are none.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.shared.documents.bytes() {
            0 => self.shared.oplog.bytes(),
            bytes => bytes,
        }
    }

    /// Inserts, updates and deletes acknowledged so far.
    #[must_use]
    pub fn written(&self) -> [u64; 3] {
        self.shared.written.counts()
    }

    /// Reads of single entries so far: of some fields, and of all.
    #[must_use]
    pub fn points(&self) -> (u64, u64) {
        self.shared.points.counts()
    }

    /// Serves until the process is ended from outside.
    pub fn wait(self) {
        self.listener.wait();
    }
}
