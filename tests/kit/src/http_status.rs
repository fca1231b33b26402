//! The HTTP endpoints of a running program.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Returns `/status` of a program on this host; `None` while it does not answer.
#[must_use]
pub fn status(port: u16) -> Option<Value> {
    serde_json::from_str(&get(port, "/status")?).ok()
}

/// Returns the current value of a metric without labels.
#[must_use]
pub fn metric(port: u16, name: &str) -> Option<f64> {
    let all = metrics(port)?;
    let mut lines = all.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.parse().ok()
}

/// Returns `/metrics` of a program on this host; `None` while it does not answer.
#[must_use]
pub fn metrics(port: u16) -> Option<String> {
    get(port, "/metrics")
}

/// The response to a probe of `/livez` or `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// True if the status code is 200.
    pub passes: bool,
    /// The body of the response: the reason, if the probe fails.
    pub text: String,
}

/// Probes a program on this host; returns `None` while the program does not answer.
#[must_use]
pub fn probe(port: u16, path: &str) -> Option<Probe> {
    let response = response(port, path)?;
    let (head, text) = response.split_once("\r\n\r\n")?;
    let passes = head.starts_with("HTTP/1.1 200");
    let text = text.to_owned();
    Some(Probe { passes, text })
}

fn get(port: u16, path: &str) -> Option<String> {
    let response = response(port, path)?;
    let (_, body) = response.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

fn response(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    Some(response)
}
