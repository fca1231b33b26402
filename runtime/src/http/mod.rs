//! The HTTP server of a program: metrics, health, status, and additional routes.
//!
//! # Modules
//!
//! - `health` has the state behind `/livez` and `/readyz`
//! - `parts` has the metrics and the health of a program's parts
//! - `probe` is the client of `/readyz`

mod health;
mod parts;
mod probe;

pub use health::Health;
pub use parts::Part;
pub use probe::probe;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

use crate::shutdown::Shutdown;

/// The function that builds the response of `/status`. It runs for each request, so it must not
/// block.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The options of the HTTP server and of the detection of stalls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// The address to listen on.
    pub address: HttpAddress,
    /// The time without progress after which `/livez` and `/readyz` report a stall.
    pub stalled_after: Duration,
}

/// The address to listen on: the value of `--http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAddress {
    /// HTTP is off.
    Off,
    /// The address `host:port`.
    At(String),
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::At(text.to_owned()))
            }
            _ => Err("expected host:port, such as 127.0.0.1:9464, or off".to_owned()),
        }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => f.write_str(address),
        }
    }
}

/// The reason why HTTP could not be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be bound, for example because it is in use.
    #[error("cannot listen on {address}, the value of --http")]
    Bind {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// A connection could not be accepted.
    #[error("the HTTP server failed")]
    Serve(#[source] io::Error),
}

/// Binds the address at startup, so that a port in use ends the program immediately. Returns `None`
/// if HTTP is off.
///
/// # Errors
/// [`HttpError`] if the address cannot be bound.
pub async fn bind(address: &HttpAddress) -> Result<Option<TcpListener>, HttpError> {
    let HttpAddress::At(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| HttpError::Bind {
            address: address.clone(),
            source,
        })?;
    let bound = listener
        .local_addr()
        .map_or_else(|_| address.clone(), |a: SocketAddr| a.to_string());
    tracing::info!(address = bound, "HTTP server is listening");
    Ok(Some(listener))
}

/// The content of the HTTP server.
#[derive(Clone)]
pub struct Http {
    /// The sources of `/metrics`, `/livez`, `/readyz` and `/healthz`.
    pub parts: Vec<Part>,
    /// The source of `/status`.
    pub status: Status,
    /// The program's own routes.
    pub routes: Router,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// Creates a server with only the common routes, for a program of one part.
    #[must_use]
    pub fn new(registry: Registry, health: Health, status: Status) -> Self {
        Self::of_parts(vec![Part::whole(registry, health)], status)
    }

    /// Creates a server with only the common routes. The program is live if all of its parts are, and
    /// ready if all of them are.
    #[must_use]
    pub fn of_parts(parts: Vec<Part>, status: Status) -> Self {
        Self {
            parts,
            status,
            routes: Router::new(),
        }
    }

    /// Adds the program's routes.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Returns all routes as a router.
    pub fn into_router(self) -> Router {
        let routes = self.routes.clone();
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(readyz))
            .route("/status", get(status))
            .with_state(Arc::new(self))
            .merge(routes)
    }

    /// Serves until shutdown. Requests in progress are completed.
    ///
    /// # Errors
    /// [`HttpError`] if accepting connections fails.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<(), HttpError> {
        axum::serve(listener, self.into_router())
            .with_graceful_shutdown(async move { shutdown.wait().await })
            .await
            .map_err(HttpError::Serve)
    }
}

/// Serves only the common routes, see [`Http::serve`].
///
/// # Errors
/// [`HttpError`] if accepting connections fails.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    status: Status,
    shutdown: Shutdown,
) -> Result<(), HttpError> {
    Http::new(registry, health, status)
        .serve(listener, shutdown)
        .await
}

async fn metrics(State(http): State<Arc<Http>>) -> Response {
    match TextEncoder::new().encode_to_string(&parts::gather(&http.parts)) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn livez(State(http): State<Arc<Http>>) -> Response {
    health_response(parts::check(&http.parts, Health::live))
}

async fn readyz(State(http): State<Arc<Http>>) -> Response {
    let is_ready = |health: &Health| health.live().and_then(|()| health.ready());
    health_response(parts::check(&http.parts, is_ready))
}

async fn status(State(http): State<Arc<Http>>) -> Response {
    Json((http.status)()).into_response()
}

fn health_response(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
