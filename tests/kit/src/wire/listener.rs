//! The listener and its connections, a thread each.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::message::{self, Envelope, Request};

/// A service that answers the requests of all connections.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request. An error ends its connection.
    fn answer(&self, request: &Request<'_>, reply: Reply<'_>) -> io::Result<()>;
}

/// The destination of the answer to a request.
#[derive(Debug)]
pub(crate) struct Reply<'s> {
    stream: &'s mut TcpStream,
    request: Envelope,
}

impl Reply<'_> {
    /// Sends a document that consists of these parts, if the request wants an answer.
    pub(crate) fn send(self, document: &[&[u8]]) -> io::Result<()> {
        if self.request.wants_reply {
            message::write(self.stream, self.request, document)?;
        }
        Ok(())
    }
}

/// A served port; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    address: SocketAddr,
    closing: Arc<Closing>,
    listening: Option<JoinHandle<()>>,
}

/// The signal that the listener is closing.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_requested: bool,
    connections: Vec<TcpStream>,
}

impl Closing {
    /// Waits that long, or until the listener ends.
    pub(crate) fn wait(&self, limit: Duration) {
        let waited = self
            .closed
            .wait_timeout_while(self.lock(), limit, |state| !state.is_requested);
        drop(waited);
    }

    /// Returns true if the listener is closing.
    pub(crate) fn is_requested(&self) -> bool {
        self.lock().is_requested
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Serves the service that `make` returns on a free port of 127.0.0.1.
    pub(crate) fn start<S: Service>(
        make: impl FnOnce(SocketAddr, Arc<Closing>) -> S,
    ) -> io::Result<(Listener, Arc<S>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let closing = Arc::new(Closing::default());
        let service = Arc::new(make(address, Arc::clone(&closing)));
        let (served, ending) = (Arc::clone(&service), Arc::clone(&closing));
        let listening = std::thread::spawn(move || listen(&listener, &*served, &ending));
        let listener = Listener {
            address,
            closing,
            listening: Some(listening),
        };
        Ok((listener, service))
    }

    /// Returns the connection string for clients.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// Serves until the process is ended from outside.
    pub(crate) fn wait(mut self) {
        if let Some(listening) = self.listening.take() {
            listening.join().expect("the listener");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(listening) = self.listening.take() else {
            return;
        };
        let mut state = self.closing.lock();
        state.is_requested = true;
        for connection in state.connections.drain(..) {
            // The peer may have closed it already.
            drop(connection.shutdown(Shutdown::Both));
        }
        drop(state);
        self.closing.closed.notify_all();
        // The listener blocks until a connection arrives; this is the last one.
        drop(TcpStream::connect(self.address));
        drop(listening.join());
    }
}

fn listen(listener: &TcpListener, service: &impl Service, closing: &Closing) {
    std::thread::scope(|connections| {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let mut state = closing.lock();
            if state.is_requested {
                return;
            }
            if let Ok(handle) = stream.try_clone() {
                state.connections.push(handle);
            }
            drop(state);
            connections.spawn(move || {
                let mut stream = stream;
                if let Err(error) = converse(&mut stream, service) {
                    eprintln!("a connection ended: {error}");
                }
                // The list holds another handle, which would keep the connection open and the peer
                // waiting.
                drop(stream.shutdown(Shutdown::Both));
            });
        }
    });
}

fn converse(stream: &mut TcpStream, service: &impl Service) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while message::read(stream, &mut buffer)? {
        let request = message::parse(&buffer)?;
        let reply = Reply {
            stream,
            request: request.envelope,
        };
        service.answer(&request, reply)?;
    }
    Ok(())
}
