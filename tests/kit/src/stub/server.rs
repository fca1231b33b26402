//! The server: the state that its connections share.

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
use super::timing::Timing;
use crate::wire::{Closing, Listener, Reply, Request, Service};

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listener: Listener,
}

/// The pace of a slow server: replies with few entries, each after a pause.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The largest number of entries in a reply.
    pub entries: u64,
    /// The pause before each reply.
    pub pause: Duration,
}

/// The ways in which a server differs from one that serves its oplog at once.
#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    pace: Option<Pace>,
    live: bool,
    timing: bool,
}

/// The state that the connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) oplog: Oplog,
    pub(super) documents: Documents,
    pub(super) pace: Option<Pace>,
    /// True if each entry appears at its time; otherwise all exist from the start.
    live: bool,
    /// The times of inserts, if they are measured.
    pub(super) timing: Option<Timing>,
    pub(super) address: String,
    pub(super) cursors: Cursors,
    pub(super) written: Written,
    pub(super) points: Points,
    pub(super) faults: Faults,
    closing: Arc<Closing>,
}

/// Number of acknowledged statements.
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
    /// Returns the number of entries that exist now.
    pub(super) fn len(&self) -> u64 {
        if !self.live {
            return self.oplog.len();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.map_or(0, |now| now.as_millis());
        self.oplog.until(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// Returns the number of the first entry that still exists.
    pub(super) fn first(&self) -> u64 {
        self.faults.first(false)
    }

    /// Returns the entries of the next reply.
    pub(super) fn batch(&self, next: u64, limit: u64) -> Range<u64> {
        let there = self.len().saturating_sub(next);
        self.oplog.batch(next, limit.min(there))
    }

    /// Waits like a tailable cursor at the end: until entry `next` exists, but at most for `limit`.
    pub(super) fn wait_for(&self, next: u64, limit: Duration) {
        if next >= self.oplog.len() {
            return self.wait(limit);
        }
        let deadline = Instant::now() + limit;
        while self.len() <= next && Instant::now() < deadline {
            self.wait(Duration::from_millis(1));
        }
    }

    /// Pauses before a reply, and returns the number of entries that it may have.
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
        let command = request.body.first();
        if let Ok(Some(command)) = command {
            self.faults.wait_while_held(command.name, || {
                self.wait(Duration::from_millis(5));
                !self.closing.is_requested()
            });
        }
        reply.send(&command::answer(self, request)?.parts())
    }
}

impl Server {
    /// Serves an oplog on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(oplog: Oplog) -> io::Result<Server> {
        Server::open(oplog, Contents::default(), Mode::default(), &[])
    }

    /// Serves an oplog, and documents in the first collection of its entries.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(oplog: Oplog, contents: Contents) -> io::Result<Server> {
        Server::open(oplog, contents, Mode::default(), &[])
    }

    /// Serves an oplog whose entries appear at their times.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_live(oplog: Oplog) -> io::Result<Server> {
        let mode = Mode {
            live: true,
            ..Mode::default()
        };
        Server::open(oplog, Contents::default(), mode, &[])
    }

    /// Measures how long after the time in its field `ordered` each document is inserted.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_timing(oplog: Oplog) -> io::Result<Server> {
        let mode = Mode {
            timing: true,
            ..Mode::default()
        };
        Server::open(oplog, Contents::default(), mode, &[])
    }

    /// Serves an oplog at a limited pace, so that a client that tails it is never at the end for
    /// long.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_slow(oplog: Oplog, pace: Pace) -> io::Result<Server> {
        let mode = Mode {
            pace: Some(pace),
            ..Mode::default()
        };
        Server::open(oplog, Contents::default(), mode, &[])
    }

    /// Serves an oplog, and lets `getMore` fail. Each fault occurs before the entry whose number is
    /// given with it; the faults are in the order of these numbers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_failing(oplog: Oplog, faults: &[(u64, Fault)]) -> io::Result<Server> {
        Server::open(oplog, Contents::default(), Mode::default(), faults)
    }

    /// Lets the next queries for the oldest or newest entry fail with these codes.
    pub fn fail_ends(&self, codes: &[i32]) {
        self.shared.faults.fail_ends(codes);
    }

    /// Shortens the oplog that reads from secondaries see: it starts at entry `first`, as after an
    /// initial sync.
    pub fn shorten_secondaries(&self, first: u64) {
        self.shared.faults.shorten_secondaries(first);
    }

    /// Removes the entries before number `first`, as a full oplog does.
    pub fn truncate(&self, first: u64) {
        self.shared.faults.truncate(first);
    }

    /// Makes this member fall behind: a majority of the set is `seconds` ahead of it.
    pub fn fall_behind(&self, seconds: u32) {
        self.shared.faults.fall_behind(seconds);
    }

    /// Withholds the answers to commands of that name until [`Server::resume`].
    pub fn hold(&self, command: &str) {
        self.shared.faults.hold(command);
    }

    /// Returns the number of commands that wait for their answers.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.faults.waiting()
    }

    /// Answers the commands that wait, and all later ones.
    pub fn resume(&self) {
        self.shared.faults.resume();
    }

    /// Returns true if all the failures have occurred.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.faults.are_over()
    }

    fn open(
        oplog: Oplog,
        contents: Contents,
        mode: Mode,
        faults: &[(u64, Fault)],
    ) -> io::Result<Server> {
        let (listener, shared) = Listener::start(|address, closing| Shared {
            oplog,
            documents: Documents::new(contents),
            pace: mode.pace,
            live: mode.live,
            timing: mode.timing.then(Timing::default),
            address: address.to_string(),
            cursors: Cursors::default(),
            written: Written::default(),
            points: Points::default(),
            faults: Faults::new(faults),
            closing,
        })?;
        Ok(Server { shared, listener })
    }

    /// Returns the connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.listener.uri()
    }

    /// Returns the oplog that it serves.
    #[must_use]
    pub fn oplog(&self) -> &Oplog {
        &self.shared.oplog
    }

    /// Returns the bytes of all documents, or of the oplog if there are none.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.shared.documents.bytes() {
            0 => self.shared.oplog.bytes(),
            bytes => bytes,
        }
    }

    /// Returns the number of inserts, updates and deletes acknowledged so far.
    #[must_use]
    pub fn written(&self) -> [u64; 3] {
        self.shared.written.counts()
    }

    /// Returns the number of reads of single entries so far: projected, and whole.
    #[must_use]
    pub fn points(&self) -> (u64, u64) {
        self.shared.points.counts()
    }

    /// Serves until the process is ended from outside.
    pub fn wait(self) {
        self.listener.wait();
    }
}
