//! A stand-in for a schema registry, which gives the same answer to every request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The answer to every request.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// For example `200 OK`.
    status: &'static str,
    body: &'static str,
}

/// A server that gives the same answer to every request, until the process ends.
#[derive(Debug)]
pub struct FakeRegistry {
    address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeRegistry {
    /// Starts a server whose answers have this status, for example `200 OK`, and this body.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(status: &'static str, body: &'static str) -> io::Result<FakeRegistry> {
        let answer = Answer { status, body };
        FakeRegistry::serve("http", move |stream| answer.to_request(stream))
    }

    /// Starts a server that speaks TLS. Returns it with the certificate of its authority in PEM.
    ///
    /// # Errors
    /// No port is free, or no certificate can be made.
    pub fn start_with_tls(
        status: &'static str,
        body: &'static str,
    ) -> Result<(FakeRegistry, String)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let chain = vec![own.signed_by(&key, &issuer)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let config = Arc::new(config);
        let answer = Answer { status, body };
        let registry = FakeRegistry::serve("https", move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config))?;
            answer.to_request(StreamOwned::new(connection, stream))
        })?;
        Ok((registry, authority))
    }

    /// Serves connections, one after the other, with a function that returns the head of the request.
    fn serve(
        scheme: &'static str,
        answer: impl Fn(TcpStream) -> Result<String> + Send + 'static,
    ) -> io::Result<FakeRegistry> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::default());
        let heard = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that disconnects without a request is ignored.
                if let Ok(head) = answer(stream) {
                    lock(&heard).push(head);
                }
            }
        });
        Ok(FakeRegistry {
            address,
            scheme,
            requests,
        })
    }

    /// Returns the address, including a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/registry", self.scheme, self.address)
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

impl Answer {
    /// Answers one request; returns its head.
    fn to_request(self, mut stream: impl Read + Write) -> Result<String> {
        let Answer { status, body } = self;
        let head = read_request(&mut stream)?;
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        stream.flush()?;
        Ok(head)
    }
}

/// Reads a request with its body; returns its first line and headers.
fn read_request(stream: impl Read) -> Result<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the request ends early");
    }
    let length = head.lines().find_map(|line| {
        let line = line.to_ascii_lowercase();
        line.strip_prefix("content-length: ")?.parse::<u64>().ok()
    });
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink())?;
    Ok(head)
}
