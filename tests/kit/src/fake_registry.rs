//! A stand-in for a schema registry, which gives the same answer to every request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};

/// A server that gives the same answer to every request, until the process ends.
#[derive(Debug)]
pub struct FakeRegistry {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeRegistry {
    /// Starts a server whose answers have this status, for example `200 OK`, and this body.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(status: &'static str, body: &'static str) -> io::Result<FakeRegistry> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::default());
        let heard = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that disconnects without a request is ignored.
                if let Ok(head) = answer(&stream, status, body) {
                    lock(&heard).push(head);
                }
            }
        });
        Ok(FakeRegistry { address, requests })
    }

    /// Returns the address, including a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/registry", self.address)
    }

    /// Returns the request lines and headers of all requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

fn lock(requests: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(mut stream: &TcpStream, status: &str, body: &str) -> Result<String> {
    let head = read_request(stream)?;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    Ok(head)
}

/// Reads a request with its body; returns its first line and headers.
fn read_request(stream: &TcpStream) -> Result<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "it ends early");
    }
    let length = head.lines().find_map(|line| {
        let line = line.to_ascii_lowercase();
        line.strip_prefix("content-length: ")?.parse::<u64>().ok()
    });
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink())?;
    Ok(head)
}
