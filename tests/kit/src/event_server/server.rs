//! The server: the state that its connections share, and the controls of a test.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bson::{Document as Bson, Timestamp};

use super::answer::answer;
use super::events::{Events, next, order};
use crate::model::State;
use crate::wire::{Closing, Listener, Reply, Request, Service};

/// What the server claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A mongos of this version.
    Mongos([i32; 3]),
    /// A primary of the replica set `rs0`, of this version.
    Primary([i32; 3]),
}

impl Role {
    pub(super) const fn version(self) -> [i32; 3] {
        match self {
            Role::Mongos(version) | Role::Primary(version) => version,
        }
    }
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct EventServer {
    shared: Arc<Shared>,
    listener: Listener,
}

/// The state that the connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) events: Events,
    pub(super) documents: State,
    pub(super) role: Role,
    pub(super) address: String,
    closing: Arc<Closing>,
    state: Mutex<Changing>,
}

/// What a test changes while the server runs.
#[derive(Debug)]
pub(super) struct Changing {
    /// Number of events that exist.
    pub(super) released: usize,
    /// Number of the first event that the oplog still has.
    pub(super) first: usize,
    /// Maximum number of events in a reply.
    pub(super) reply: usize,
    /// The logical time; later than every event that exists.
    pub(super) clock: Timestamp,
    /// The codes with which the next commands of a name fail; 0 ends the connection.
    pub(super) failures: VecDeque<(String, i32)>,
    /// The `$changeStream` stages of all streams that were opened.
    pub(super) opened: Vec<Bson>,
    /// The filters of all lookups of documents.
    pub(super) found: Vec<Bson>,
    pub(super) cursors: HashMap<i64, usize>,
    pub(super) next_cursor: i64,
    /// Number of replies with events.
    pub(super) replies: usize,
    /// True if the logical time advances while nothing happens.
    pub(super) ticks: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Changing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an event with this number exists, but at most for `limit`.
    pub(super) fn wait_for(&self, number: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.lock().released <= number
            && Instant::now() < deadline
            && !self.closing.is_requested()
        {
            self.closing.wait(Duration::from_millis(5));
        }
    }
}

impl Service for Shared {
    fn answer(&self, request: &Request<'_>, reply: Reply<'_>) -> io::Result<()> {
        let answer = answer(self, request.body).map_err(io::Error::other)?;
        reply.send(&[&answer])
    }
}

impl EventServer {
    /// Serves events on a free port of 127.0.0.1. All of them exist from the start. `documents` are
    /// those that lookups find.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(events: Events, documents: State, role: Role) -> io::Result<EventServer> {
        let changing = Changing {
            released: events.len(),
            first: 0,
            reply: usize::MAX,
            clock: next(events.newest()),
            failures: VecDeque::new(),
            opened: Vec::new(),
            found: Vec::new(),
            cursors: HashMap::new(),
            next_cursor: 1,
            replies: 0,
            ticks: false,
        };
        let (listener, shared) = Listener::start(|address, closing| Shared {
            events,
            documents,
            role,
            address: address.to_string(),
            closing,
            state: Mutex::new(changing),
        })?;
        Ok(EventServer { shared, listener })
    }

    /// Returns the connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.listener.uri()
    }

    /// Sets the number of events that exist, and the logical time to just after the last of them.
    pub fn release(&self, number: usize) {
        let mut state = self.shared.lock();
        state.released = number;
        let last = number.checked_sub(1);
        state.clock = last.map_or(state.clock, |last| next(self.shared.events.time(last)));
    }

    /// Sets the maximum number of events in a reply.
    pub fn reply_with(&self, events: usize) {
        self.shared.lock().reply = events;
    }

    /// Advances the logical time to this one, without an event. Earlier times are ignored.
    pub fn set_clock(&self, time: Timestamp) {
        let mut state = self.shared.lock();
        if order(time) > order(state.clock) {
            state.clock = time;
        }
    }

    /// Lets the logical time advance with each empty reply, as periodic noops do in a replica set.
    pub fn tick(&self) {
        self.shared.lock().ticks = true;
    }

    /// Removes the events before this number from the oplog.
    pub fn truncate(&self, first: usize) {
        self.shared.lock().first = first;
    }

    /// Lets the next command of a name fail with a code; with 0 the connection ends.
    pub fn fail(&self, command: &str, code: i32) {
        let failure = (command.to_owned(), code);
        self.shared.lock().failures.push_back(failure);
    }

    /// Returns true if all failures have occurred.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.lock().failures.is_empty()
    }

    /// Returns the `$changeStream` stages of all streams that were opened.
    #[must_use]
    pub fn opened(&self) -> Vec<Bson> {
        self.shared.lock().opened.clone()
    }

    /// Returns the number of events that it serves.
    #[must_use]
    pub fn events(&self) -> usize {
        self.shared.events.len()
    }

    /// Returns the number of replies with events so far.
    #[must_use]
    pub fn replies(&self) -> usize {
        self.shared.lock().replies
    }

    /// Returns the filters of all lookups of documents.
    #[must_use]
    pub fn looked_up(&self) -> Vec<Bson> {
        self.shared.lock().found.clone()
    }
}
