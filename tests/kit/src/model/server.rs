//! The model on a port.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use super::Model;
use super::failure::Failure;
use crate::wire::{Listener, Reply, Request, Service};

/// How long a `getMore` on a tail waits.
const AWAIT: Duration = Duration::from_millis(20);
/// Commands by which drivers watch a server: a pause does not hold them.
const WATCHING: [&[u8]; 3] = [b"hello", b"isMaster", b"ismaster"];

/// A model that is served on a free port of 127.0.0.1, to any number of connections; ends when
/// dropped.
#[derive(Debug)]
pub struct ModelServer {
    shared: Arc<Shared>,
    listener: Listener,
}

#[derive(Debug)]
struct Shared {
    model: Mutex<Model>,
    /// Commands that are to fail, with the code.
    failing: Mutex<VecDeque<(String, i32)>>,
    /// Commands whose writes are to be refused, with the code.
    refusing: Mutex<VecDeque<(String, i32)>>,
    /// Commands of which the majority is not told, and the code.
    unkept: Mutex<VecDeque<(String, i32)>>,
    paused: Mutex<bool>,
    resumed: Condvar,
    /// What is answered later, as a command and its collection, and how many answers wait.
    held: Mutex<(Vec<(String, String)>, usize)>,
}

impl ModelServer {
    /// Serves a model.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(mut model: Model) -> io::Result<ModelServer> {
        let (listener, shared) = Listener::start(|address, _| {
            model.address = address.to_string();
            Shared {
                model: Mutex::new(model),
                failing: Mutex::default(),
                refusing: Mutex::default(),
                unkept: Mutex::default(),
                paused: Mutex::default(),
                resumed: Condvar::new(),
                held: Mutex::default(),
            }
        })?;
        Ok(ModelServer { shared, listener })
    }

    /// The connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.listener.uri()
    }

    /// The model, which no command touches meanwhile.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.shared.model)
    }

    /// The next command of that name is not executed and gets this code. Several wait in turn.
    pub fn fail_next(&self, command: &str, code: i32) {
        lock(&self.shared.failing).push_back((command.to_owned(), code));
    }

    /// The next command of that name succeeds as a command, but each of its writes that is tried gets
    /// this code, and none is executed. Several wait in turn.
    pub fn refuse_next(&self, command: &str, code: i32) {
        lock(&self.shared.refusing).push_back((command.to_owned(), code));
    }

    /// The next command of that name is executed, but not by a majority in time: its answer has this code
    /// of a write concern.
    pub fn leave_unkept_next(&self, command: &str, code: i32) {
        lock(&self.shared.unkept).push_back((command.to_owned(), code));
    }

    /// Holds the answers to all commands from now on. The commands are executed.
    pub fn pause(&self) {
        *lock(&self.shared.paused) = true;
    }

    /// Holds the answers to each command of that name to a collection from now on, but for a `find` of
    /// one document. They are made at once: they say how things stood then.
    pub fn hold(&self, command: &str, collection: &str) {
        let what = (command.to_owned(), collection.to_owned());
        lock(&self.shared.held).0.push(what);
    }

    /// Answers that [`ModelServer::hold`] holds.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.shared.held).1
    }

    /// Gives the answers that were held.
    pub fn resume(&self) {
        lock(&self.shared.held).0.clear();
        *lock(&self.shared.paused) = false;
        self.shared.resumed.notify_all();
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        // The connections are waited for.
        self.resume();
    }
}

impl Shared {
    /// The code with which the command is to fail.
    fn failure(&self, name: &[u8]) -> Option<Failure> {
        let (command, code) = take(&self.failing, name)?;
        Some(Failure::new(code, format!("{command} was told to fail")))
    }

    /// The answer to a command whose writes are to be refused: the first one if they are ordered, else
    /// all of them.
    fn refused(&self, name: &[u8], command: Document<'_>) -> Option<io::Result<Vec<u8>>> {
        let (told, code) = take(&self.refusing, name)?;
        let version = lock(&self.model).version;
        let mut lists = ["documents", "updates", "deletes"].into_iter();
        let list = lists.find_map(|list| command.get(list).ok()??.document().ok());
        let count = list.map_or(0, |list| list.elements().count());
        let ordered = command.get("ordered").ok().flatten();
        let ordered = ordered.is_none_or(|ordered| ordered.boolean() != Ok(false));
        let failure = Failure::new(code, format!("{told} was told to refuse"));
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

    /// The answer with the failure of its write concern, where one is to come.
    fn unkept(&self, name: &[u8], answer: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some((_, code)) = take(&self.unkept, name) else {
            return Ok(answer);
        };
        let mut whole = Vec::new();
        let mut reply = DocumentBuilder::start(&mut whole);
        for element in Document::new(&answer).map_err(io::Error::other)?.elements() {
            reply.element(element.map_err(io::Error::other)?);
        }
        reply.nested("writeConcernError", kind::DOCUMENT, |concern| {
            concern.int32("code", code).str("errmsg", "told to");
        });
        reply.finish();
        Ok(whole)
    }
}

impl Shared {
    /// Waits while the answer is held.
    fn hold(&self, name: &[u8], command: Document<'_>) {
        let first = command.first().ok().flatten();
        let Some(collection) = first.and_then(|first| first.str().ok()) else {
            return;
        };
        let limit = command.get("limit").ok().flatten();
        if limit.is_some_and(|limit| limit.integer() == Ok(1)) {
            return;
        }
        let is_it = |held: &(String, String)| held.0.as_bytes() == name && held.1 == collection;
        let is_held = |held: &(Vec<(String, String)>, usize)| held.0.iter().any(is_it);
        let mut held = lock(&self.held);
        if !is_held(&held) {
            return;
        }
        held.1 += 1;
        let held = self.resumed.wait_while(held, |held| is_held(held));
        held.unwrap_or_else(PoisonError::into_inner).1 -= 1;
    }
}

impl Service for Shared {
    fn answer(&self, request: &Request<'_>, reply: Reply<'_>) -> io::Result<()> {
        let command = whole(request)?;
        let command = Document::new(&command).map_err(io::Error::other)?;
        let name = command.first().map_err(io::Error::other)?;
        let name = name.map_or(&b""[..], |name| name.name);
        let answer = match self.failure(name) {
            Some(failure) => {
                let version = lock(&self.model).version;
                failure.reply(version).map_err(io::Error::other)
            }
            None => self.refused(name, command).unwrap_or_else(|| {
                let reply = lock(&self.model).command(database(command), command);
                reply.map_err(io::Error::other)
            }),
        };
        self.hold(name, command);
        if is_empty_batch(answer.as_deref().unwrap_or_default()) {
            // Who tails waits at the server for more.
            let waited = self.resumed.wait_timeout(lock(&self.paused), AWAIT);
            drop(waited);
        }
        if !WATCHING.contains(&name) {
            let held = self
                .resumed
                .wait_while(lock(&self.paused), |paused| *paused);
            drop(held);
        }
        reply.send(&[&self.unkept(name, answer?)?])
    }
}

/// Whether a reply to `getMore` has nothing, and its cursor stays open.
fn is_empty_batch(reply: &[u8]) -> bool {
    let look = || {
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
    look().unwrap_or_default()
}

/// The command as one document: the sequences beside it become its arrays.
fn whole(request: &Request<'_>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    for element in request.body.elements() {
        command.element(element.map_err(io::Error::other)?);
    }
    for sequence in &request.sequences {
        let mut list = Vec::new();
        let mut array = DocumentBuilder::start(&mut list);
        for (index, document) in sequence.documents()?.into_iter().enumerate() {
            array.document(&index.to_string(), document);
        }
        array.finish();
        command.element(Element {
            name: sequence.name,
            kind: kind::ARRAY,
            value: &list,
        });
    }
    command.finish();
    Ok(out)
}

/// Requests of the older kind name it elsewhere, but only greet.
fn database(command: Document<'_>) -> &str {
    let db = command.get("$db").ok().flatten();
    db.and_then(|db| db.str().ok()).unwrap_or("admin")
}

/// The first command of that name among those that were told of.
fn take(told: &Mutex<VecDeque<(String, i32)>>, name: &[u8]) -> Option<(String, i32)> {
    let mut told = lock(told);
    let mut commands = told.iter();
    let place = commands.position(|(command, _)| command.as_bytes() == name)?;
    told.remove(place)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
