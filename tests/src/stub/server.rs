//! The listener and its connections, a thread each.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::command;
use super::cursor::Cursors;
use super::message;
use super::oplog::Oplog;
use super::point::Points;

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Option<JoinHandle<()>>,
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
    pub(super) pace: Option<Pace>,
    pub(super) address: String,
    pub(super) cursors: Cursors,
    pub(super) written: Written,
    pub(super) points: Points,
    closing: Mutex<Closing>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Closing {
    asked: bool,
    connections: Vec<TcpStream>,
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
}

impl Shared {
    /// Takes the pause before a reply, and says how many entries it may have.
    pub(super) fn at_pace(&self, wanted: u64) -> u64 {
        self.pace.map_or(wanted, |pace| {
            self.wait(pace.pause);
            wanted.min(pace.entries)
        })
    }

    /// Waits as a tailable cursor does at the end: nothing ever comes.
    pub(super) fn wait(&self, limit: Duration) {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .closed
            .wait_timeout_while(closing, limit, |closing| !closing.asked);
        drop(waited);
    }
}

impl Server {
    /// Serves an oplog on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(oplog: Oplog) -> io::Result<Server> {
        Server::open(oplog, None)
    }

    /// The same at a pace: whoever tails it is never at its end for long.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_slow(oplog: Oplog, pace: Pace) -> io::Result<Server> {
        Server::open(oplog, Some(pace))
    }

    fn open(oplog: Oplog, pace: Option<Pace>) -> io::Result<Server> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            oplog,
            pace,
            address: address.to_string(),
            cursors: Cursors::default(),
            written: Written::default(),
            points: Points::default(),
            closing: Mutex::default(),
            closed: Condvar::new(),
        });
        let served = Arc::clone(&shared);
        let listening = std::thread::spawn(move || listen(&listener, &served));
        Ok(Server {
            shared,
            address,
            listening: Some(listening),
        })
    }

    /// The connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// What it serves.
    #[must_use]
    pub fn oplog(&self) -> &Oplog {
        &self.shared.oplog
    }

    /// Inserts, updates and deletes acknowledged so far.
    #[must_use]
    pub fn written(&self) -> [u64; 3] {
        let written = &self.shared.written;
        [&written.inserts, &written.updates, &written.deletes]
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Reads of single entries so far: of some fields, and of all.
    #[must_use]
    pub fn points(&self) -> (u64, u64) {
        self.shared.points.counts()
    }

    /// Serves until the process is ended from outside.
    pub fn wait(mut self) {
        if let Some(listening) = self.listening.take() {
            listening.join().expect("the listener");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(listening) = self.listening.take() else {
            return;
        };
        let mut closing = self
            .shared
            .closing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        closing.asked = true;
        for connection in closing.connections.drain(..) {
            // It may have been closed by the peer.
            drop(connection.shutdown(Shutdown::Both));
        }
        drop(closing);
        self.shared.closed.notify_all();
        // The listener waits for a connection: this is the last one.
        drop(TcpStream::connect(self.address));
        drop(listening.join());
    }
}

fn listen(listener: &TcpListener, shared: &Shared) {
    std::thread::scope(|connections| {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let mut closing = shared
                .closing
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if closing.asked {
                return;
            }
            if let Ok(handle) = stream.try_clone() {
                closing.connections.push(handle);
            }
            drop(closing);
            connections.spawn(move || {
                if let Err(error) = converse(stream, shared) {
                    eprintln!("stub: a connection ended: {error}");
                }
            });
        }
    });
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while message::read(&mut stream, &mut buffer)? {
        let request = message::parse(&buffer)?;
        let answer = command::answer(shared, &request)?;
        if request.envelope.wants_reply {
            message::write(&mut stream, request.envelope, &answer.parts())?;
        }
    }
    Ok(())
}
