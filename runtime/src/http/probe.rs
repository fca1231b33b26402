//! The client of `/readyz`, which checks the health of a container whose image has no shell or
//! curl.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The time limit of a probe. Container platforms allow their probes 1 to 30 s.
const PATIENCE: Duration = Duration::from_secs(3);
/// The size limit of a response, which is more than any response of `/readyz`.
const MAX_RESPONSE_BYTES: u64 = 16 * 1024;

/// Checks that the program at `address` (`host:port`) is ready.
///
/// # Errors
/// The reason, if the program is not ready or does not respond.
pub async fn probe(address: &str) -> Result<(), String> {
    let address = reachable(address);
    let response = timeout(PATIENCE, get_readyz(&address))
        .await
        .map_err(|_| format!("no response from {address} within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("no response from {address}: {error}"))?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status_line = head.lines().next().unwrap_or_default();
    if status_line.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(if body.trim().is_empty() {
        status_line.to_owned()
    } else {
        body.trim().to_owned()
    })
}

/// Replaces the address of all interfaces with the loopback address.
fn reachable(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}

async fn get_readyz(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream
        .take(MAX_RESPONSE_BYTES)
        .read_to_end(&mut response)
        .await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_addresses_become_loopback() {
        assert_eq!(reachable("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reachable("[::]:80"), "[::1]:80");
        assert_eq!(reachable("producer:80"), "producer:80");
    }
}
