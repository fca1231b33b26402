//! Serves the model on a port, and makes it fail on request.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oplog_relay_core::document::{Document, DocumentBuilder, kind};

use super::Model;
use super::failure::Failure;
use crate::wire::{Listener, Reply, Request, Service};

/// Time for which a `getMore` of a tailing cursor waits before it returns an empty batch.
const AWAIT: Duration = Duration::from_millis(20);
/// Commands by which drivers monitor a server. A pause does not delay their replies.
const MONITORING: [&[u8]; 3] = [b"hello", b"isMaster", b"ismaster"];

/// A model that is served on a free port of 127.0.0.1, to any number of connections. The server ends
/// when it is dropped.
#[derive(Debug)]
pub struct ModelServer {
    shared: Arc<Shared>,
    listener: Listener,
}

#[derive(Debug)]
struct Shared {
    model: Mutex<Model>,
    /// Commands that fail on request, with the code.
    failing: Mutex<VecDeque<(String, i32)>>,
    /// Commands whose writes are refused on request, with the code.
    refusing: Mutex<VecDeque<(String, i32)>>,
    /// Commands that report a write concern error on request, with the code.
    failing_concern: Mutex<VecDeque<(String, i32)>>,
    /// Commands whose answer is lost on request. The number has no meaning.
    losing: Mutex<VecDeque<(String, i32)>>,
    paused: Mutex<bool>,
    resumed: Condvar,
    /// Commands and collections whose answers are held, and the number of answers that wait.
    held: Mutex<(Vec<(String, String)>, usize)>,
    /// Commands and collections that are not executed, and the number of commands that wait.
    blocked: Mutex<(Vec<(String, String)>, usize)>,
}

impl ModelServer {
    /// Serves a model.
    ///
    /// # Errors
    /// Fails if no port is free.
    pub fn start(mut model: Model) -> io::Result<ModelServer> {
        let (listener, shared) = Listener::start(|address, _| {
            model.address = address.to_string();
            Shared {
                model: Mutex::new(model),
                failing: Mutex::default(),
                refusing: Mutex::default(),
                failing_concern: Mutex::default(),
                losing: Mutex::default(),
                paused: Mutex::default(),
                resumed: Condvar::new(),
                held: Mutex::default(),
                blocked: Mutex::default(),
            }
        })?;
        Ok(ModelServer { shared, listener })
    }

    /// Returns the connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.listener.uri()
    }

    /// Locks the model: no command changes it while the guard lives.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.shared.model)
    }

    /// Makes the next command of that name fail with this code, without being executed. Several requests
    /// are queued.
    pub fn fail_next(&self, command: &str, code: i32) {
        lock(&self.shared.failing).push_back((command.to_owned(), code));
    }

    /// Makes the next `getMore` on that collection fail with this code, without being executed.
    pub fn fail_next_batch(&self, collection: &str, code: i32) {
        self.fail_next(&format!("getMore {collection}"), code);
    }

    /// Makes the next command of that name succeed as a command, while each of its writes that is
    /// attempted fails with this code and is not executed. Several requests are queued. The name may be
    /// followed by a space and a collection.
    pub fn refuse_next(&self, command: &str, code: i32) {
        lock(&self.shared.refusing).push_back((command.to_owned(), code));
    }

    /// Returns the number of failures and refusals that were requested and have not happened yet.
    #[must_use]
    pub fn requested(&self) -> usize {
        lock(&self.shared.failing).len() + lock(&self.shared.refusing).len()
    }

    /// Executes the next command of that name, but answers it with a write concern error of this
    /// code.
    pub fn fail_write_concern_next(&self, command: &str, code: i32) {
        lock(&self.shared.failing_concern).push_back((command.to_owned(), code));
    }

    /// Executes the next command of this name, but closes its connection without an answer.
    pub fn lose_reply_next(&self, command: &str) {
        lock(&self.shared.losing).push_back((command.to_owned(), 0));
    }

    /// Holds the answers to all commands from now on, except those by which drivers monitor a server.
    /// The commands are executed.
    pub fn pause(&self) {
        *lock(&self.shared.paused) = true;
    }

    /// Holds the answers to each command of that name to a collection from now on, except a `find`
    /// of one document. The answers are made at once, so they show the state of that moment.
    pub fn hold(&self, command: &str, collection: &str) {
        let what = (command.to_owned(), collection.to_owned());
        lock(&self.shared.held).0.push(what);
    }

    /// Stops each command of that name to a collection from now on before it is executed. When the
    /// server resumes, their connections are closed: the commands were never executed.
    pub fn block(&self, command: &str, collection: &str) {
        let what = (command.to_owned(), collection.to_owned());
        lock(&self.shared.blocked).0.push(what);
    }

    /// Returns the number of commands that [`ModelServer::block`] has stopped.
    #[must_use]
    pub fn blocked(&self) -> usize {
        lock(&self.shared.blocked).1
    }

    /// Returns the number of answers that [`ModelServer::hold`] holds.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.shared.held).1
    }

    /// Releases the held answers and the blocked commands.
    pub fn resume(&self) {
        lock(&self.shared.held).0.clear();
        lock(&self.shared.blocked).0.clear();
        *lock(&self.shared.paused) = false;
        self.shared.resumed.notify_all();
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        // The listener waits for its connections, so held answers must be released first.
        self.resume();
    }
}

impl Shared {
    /// Returns the requested failure of the command, if any.
    fn failure(&self, name: &[u8], command: Document<'_>) -> Option<Failure> {
        let of_collection = || {
            let collection = command.get("collection").ok()??.str().ok()?;
            take(&self.failing, &of(name, collection))
        };
        let (command, code) = take(&self.failing, name).or_else(of_collection)?;
        Some(Failure::new(code, format!("{command} fails on request")))
    }

    /// Returns the answer to a command whose writes are refused on request: the first write if they
    /// are ordered, otherwise all of them.
    fn refused(&self, name: &[u8], command: Document<'_>) -> Option<io::Result<Vec<u8>>> {
        let of_collection = || take(&self.refusing, &of(name, collection_of(command)?));
        let (command_name, code) = take(&self.refusing, name).or_else(of_collection)?;
        let version = lock(&self.model).version;
        let mut lists = ["documents", "updates", "deletes"].into_iter();
        let list = lists.find_map(|list| command.get(list).ok()??.document().ok());
        let count = list.map_or(0, |list| list.elements().count());
        let ordered = command.get("ordered").ok().flatten();
        let ordered = ordered.is_none_or(|ordered| ordered.boolean() != Ok(false));
        let failure = Failure::new(code, format!("{command_name} refuses on request"));
        let count = if ordered { count.min(1) } else { count };
        let errors = (0..count).map(|index| failure.write_error(index, version));
        let errors: Result<Vec<_>, _> = errors.collect();
        Some(errors.map_err(io::Error::other).map(|errors| {
            let mut out = Vec::new();
            let mut reply = DocumentBuilder::start(&mut out);
            reply.int32("n", 0).int32("ok", 1);
            reply.nested("writeErrors", kind::ARRAY, |list| {
                for (index, error) in errors.iter().enumerate() {
                    list.raw(&index.to_string(), kind::DOCUMENT, error);
                }
            });
            reply.finish();
            out
        }))
    }

    /// Adds the requested failure of the write concern to the answer, if any.
    fn with_failed_concern(&self, name: &[u8], answer: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some((_, code)) = take(&self.failing_concern, name) else {
            return Ok(answer);
        };
        let mut whole = Vec::new();
        let mut reply = DocumentBuilder::start(&mut whole);
        for element in Document::new(&answer).map_err(io::Error::other)?.elements() {
            reply.element(element.map_err(io::Error::other)?);
        }
        reply.nested("writeConcernError", kind::DOCUMENT, |concern| {
            concern.int32("code", code).str("errmsg", "on request");
        });
        reply.finish();
        Ok(whole)
    }
}

impl Shared {
    /// Waits while the answer is held.
    fn hold(&self, name: &[u8], command: Document<'_>) {
        let limit = command.get("limit").ok().flatten();
        if limit.is_none_or(|limit| limit.integer() != Ok(1)) {
            self.wait_in(&self.held, name, command);
        }
    }

    /// Waits while commands like this one are on the list. Returns true if the command had to wait.
    fn wait_in(
        &self,
        list: &Mutex<(Vec<(String, String)>, usize)>,
        name: &[u8],
        command: Document<'_>,
    ) -> bool {
        let Some(collection) = collection_of(command) else {
            return false;
        };
        let is_it = |one: &(String, String)| one.0.as_bytes() == name && one.1 == collection;
        let is_listed = |list: &(Vec<(String, String)>, usize)| list.0.iter().any(is_it);
        let mut waiting = lock(list);
        if !is_listed(&waiting) {
            return false;
        }
        waiting.1 += 1;
        let waited = self.resumed.wait_while(waiting, |list| is_listed(list));
        waited.unwrap_or_else(PoisonError::into_inner).1 -= 1;
        true
    }
}

impl Service for Shared {
    fn answer(&self, request: &Request<'_>, reply: Reply<'_>) -> io::Result<()> {
        let command = request.whole()?;
        let command = Document::new(&command).map_err(io::Error::other)?;
        let name = command.first().map_err(io::Error::other)?;
        let name = name.map_or(&b""[..], |name| name.name);
        if self.wait_in(&self.blocked, name, command) {
            return Err(io::Error::other("the command is blocked on request"));
        }
        let answer = match self.failure(name, command) {
            Some(failure) => {
                let version = lock(&self.model).version;
                failure.reply(version).map_err(io::Error::other)
            }
            None => self.refused(name, command).unwrap_or_else(|| {
                let reply = lock(&self.model).command(database(command), command);
                reply.map_err(io::Error::other)
            }),
        };
        if take(&self.losing, name).is_some() {
            return Err(io::Error::other("the answer is lost on request"));
        }
        self.hold(name, command);
        if is_empty_batch(answer.as_deref().unwrap_or_default()) {
            // A server delays the empty batch of a tailing cursor, in case more entries arrive.
            let waited = self.resumed.wait_timeout(lock(&self.paused), AWAIT);
            drop(waited);
        }
        if !MONITORING.contains(&name) {
            let held = self
                .resumed
                .wait_while(lock(&self.paused), |paused| *paused);
            drop(held);
        }
        reply.send(&[&self.with_failed_concern(name, answer?)?])
    }
}

/// Returns true if a reply to `getMore` has no documents and its cursor stays open.
fn is_empty_batch(reply: &[u8]) -> bool {
    let is_empty = || {
        let cursor = Document::new(reply)
            .ok()?
            .get("cursor")
            .ok()??
            .document()
            .ok()?;
        let batch = cursor.get("nextBatch").ok()??.document().ok()?;
        let open = cursor.get("id").ok()??.integer().ok()? != 0;
        Some(open && batch.first().ok()?.is_none())
    };
    is_empty().unwrap_or_default()
}

/// Returns the collection that a command names first.
fn collection_of(command: Document<'_>) -> Option<&str> {
    command.first().ok()??.str().ok()
}

/// Returns the name of a request that concerns one collection.
fn of(command: &[u8], collection: &str) -> Vec<u8> {
    [command, b" ", collection.as_bytes()].concat()
}

/// Returns the database. `OP_QUERY` requests name it elsewhere, but they are only handshakes.
fn database(command: Document<'_>) -> &str {
    let db = command.get("$db").ok().flatten();
    db.and_then(|db| db.str().ok()).unwrap_or("admin")
}

/// Removes the first request for a command of that name from the queue.
fn take(requests: &Mutex<VecDeque<(String, i32)>>, name: &[u8]) -> Option<(String, i32)> {
    let mut requests = lock(requests);
    let mut commands = requests.iter();
    let place = commands.position(|(command, _)| command.as_bytes() == name)?;
    requests.remove(place)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
