//! MongoDB: connections, errors that an operator can act on, and the server's `hello` reply.
//!
//! # Modules
//!
//! - `code` classifies the error codes
//! - `hello` reads the description that a server gives of itself
//! - `in_time` limits the time of requests
//! - `dependent` finds collections whose documents depend on each other
//! - `flag` reads the flags of indexes and collections

mod code;
mod dependent;
mod flag;
mod hello;
mod in_time;

pub use code::{
    AUTHENTICATION_FAILED, TRANSIENT_CODES, TransientCode, UNAUTHORIZED, USER_NOT_FOUND,
    error_code, error_text, is_cursor_gone, is_interrupted, is_transient, is_truncated,
    transient_reason, undecoded_reply,
};
pub use dependent::documents_depend;
pub use flag::is_set;
pub use hello::{Hello, hello};
pub use in_time::{READ, REPLY_LIMIT, in_time, is_late};

use std::time::Duration;

use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;

use crate::config::Secret;

/// The time limit for opening a connection, unless the connection string has another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for finding a usable server, unless the connection string has another.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// The time for which an unused connection is kept, unless the connection string has another. Load
/// balancers and NAT drop a silent connection after some minutes, and a request on it then gets no
/// reply.
const IDLE_CONNECTION: Duration = Duration::from_secs(240);

/// The reason why MongoDB could not be used. The texts name hosts and reasons, never secrets.
#[derive(Debug, thiserror::Error)]
pub enum MongoError {
    /// The connection string is not valid.
    #[error("the MongoDB connection string is not valid: {reason}")]
    ConnectionString {
        /// The reason.
        reason: String,
    },
    /// No usable server responds.
    #[error("no usable MongoDB server at {hosts}: {reason}")]
    Unreachable {
        /// The hosts that were tried.
        hosts: String,
        /// The error of each of them.
        reason: String,
    },
    /// The server refuses the credentials.
    #[error("MongoDB at {hosts} refuses the credentials: {reason}")]
    Authentication {
        /// The hosts.
        hosts: String,
        /// The server's error.
        reason: String,
    },
    /// The user does not have a required privilege.
    #[error(
        "MongoDB at {hosts} does not permit a request: grant the user of the connection string the \
         privilege that is missing, or name a user if the string has none: {reason}"
    )]
    Unauthorized {
        /// The hosts.
        hosts: String,
        /// The server's error, which names the request.
        reason: String,
    },
    /// A TLS connection cannot be established.
    #[error("no TLS connection to MongoDB at {hosts}: {reason}")]
    Tls {
        /// The hosts.
        hosts: String,
        /// The reason.
        reason: String,
    },
    /// The server is too old, too new, or does not have a required feature.
    #[error("MongoDB at {hosts} is not supported: {reason}")]
    Unsupported {
        /// The hosts.
        hosts: String,
        /// The missing feature or version.
        reason: String,
    },
    /// Any other failure.
    #[error("MongoDB at {hosts} failed: {reason}")]
    Failed {
        /// The hosts.
        hosts: String,
        /// The error of the server or the driver.
        reason: String,
    },
}

impl MongoError {
    /// Translates an error of the driver for an operator. `hosts` are the hosts of the request.
    #[must_use]
    pub fn from_driver(hosts: &str, error: &mongodb::error::Error) -> Self {
        let hosts = hosts.to_owned();
        let reason = error_text(error);
        match error.kind.as_ref() {
            ErrorKind::InvalidTlsConfig { .. } | ErrorKind::InvalidArgument { .. } => {
                Self::ConnectionString { reason }
            }
            ErrorKind::Authentication { .. } => Self::Authentication { hosts, reason },
            ErrorKind::IncompatibleServer { .. } => Self::Unsupported { hosts, reason },
            ErrorKind::ServerSelection { .. }
            | ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. } => {
                if mentions_tls(&reason) {
                    Self::Tls { hosts, reason }
                } else if reason.contains("wire version") {
                    Self::Unsupported { hosts, reason }
                } else {
                    Self::Unreachable { hosts, reason }
                }
            }
            _ => match error_code(error) {
                Some(USER_NOT_FOUND | AUTHENTICATION_FAILED) => {
                    Self::Authentication { hosts, reason }
                }
                Some(UNAUTHORIZED) => Self::Unauthorized { hosts, reason },
                _ => Self::Failed { hosts, reason },
            },
        }
    }

    /// Returns true if a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Returns true if the configuration is wrong, so that the state of the server does not matter.
    #[must_use]
    pub const fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::ConnectionString { .. })
    }
}

/// Connects, and sends a `hello` to check that the server responds.
///
/// Settings of the connection string are kept, except where `overrides` changes them.
///
/// # Errors
/// [`MongoError`] if the connection string is not valid or no server can be used.
pub async fn connect(
    uri: &Secret,
    app_name: &str,
    overrides: impl FnOnce(&mut ClientOptions),
) -> Result<Client, MongoError> {
    let mut options = ClientOptions::parse(uri.expose()).await.map_err(|error| {
        match error.kind.as_ref() {
            // The addresses of a mongodb+srv string are resolved while it is parsed.
            ErrorKind::DnsResolve { .. } => {
                MongoError::from_driver("the SRV record of the host name", &error)
            }
            kind => MongoError::ConnectionString {
                reason: guarded(uri.expose(), kind.to_string()),
            },
        }
    })?;
    options.app_name.get_or_insert_with(|| app_name.to_owned());
    options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
    options
        .server_selection_timeout
        .get_or_insert(SELECTION_TIMEOUT);
    options.max_idle_time.get_or_insert(IDLE_CONNECTION);
    overrides(&mut options);
    let hosts = hosts(&options);
    let client =
        Client::with_options(options).map_err(|error| MongoError::from_driver(&hosts, &error))?;
    hello(&client)
        .await
        .map_err(|error| MongoError::from_driver(&hosts, &error))?;
    Ok(client)
}

/// Returns the hosts of a connection string as `host:port,host:port`.
#[must_use]
pub fn hosts(options: &ClientOptions) -> String {
    options
        .hosts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn mentions_tls(reason: &str) -> bool {
    ["certificate", "tls", "TLS", "corrupt message", "handshake"]
        .iter()
        .any(|word| reason.contains(word))
}

/// Returns a parser's message, unless it quotes text before the hosts, which may be a secret.
fn guarded(uri: &str, message: String) -> String {
    let credentials = uri.rsplit_once('@').map_or("", |(before, _)| before);
    let quotes = credentials
        .split([':', '@', '/'])
        .skip(1)
        .any(|part| !part.is_empty() && message.contains(part));
    if quotes {
        "special characters in the user name and password must be percent-encoded".to_owned()
    } else {
        message
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{deserialize_from_document, doc};
    use mongodb::error::CommandError;

    use super::*;

    #[tokio::test]
    async fn an_unreachable_host_is_named_without_the_password() {
        let uri = Secret::new("mongodb://joe:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=200");
        let error = connect(&uri, "test", |_| {}).await.unwrap_err();
        assert!(error.is_transient());
        let text = error.to_string();
        assert!(
            text.starts_with("no usable MongoDB server at 127.0.0.1:1: "),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn a_wrong_string_does_not_show_its_password() {
        for uri in [
            "nonsense",
            "mongodb://joe:hun/ter2@host/",
            "mongodb://joe:hunt:er2@host:x/",
        ] {
            let error = connect(&Secret::new(uri), "test", |_| {})
                .await
                .unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, MongoError::ConnectionString { .. }),
                "{text}"
            );
            assert!(!text.contains("hun") && !text.contains("er2"), "{text}");
        }
    }

    #[tokio::test]
    async fn settings_of_the_connection_string_override_the_defaults() {
        let uri = "mongodb://127.0.0.1:1/?connectTimeoutMS=7&serverSelectionTimeoutMS=20";
        let mut seen = None;
        let uri = Secret::new(uri);
        let outcome = connect(&uri, "relay", |options| {
            seen = Some((options.connect_timeout, options.app_name.clone()));
            assert_eq!(options.max_idle_time, Some(IDLE_CONNECTION));
            options.direct_connection = Some(true);
        })
        .await;
        outcome.unwrap_err();
        assert_eq!(
            seen,
            Some((Some(Duration::from_millis(7)), Some("relay".to_owned())))
        );
    }

    #[test]
    fn a_missing_privilege_is_not_reported_as_refused_credentials() {
        let text = |code: i32| {
            let reply = doc! { "code": code, "codeName": "Name", "errmsg": "not authorized" };
            let error = deserialize_from_document::<CommandError>(reply).unwrap();
            MongoError::from_driver("h:1", &ErrorKind::Command(error).into()).to_string()
        };
        for (code, expected) in [
            (11, "refuses the credentials"),
            (13, "grant the user of the connection string the privilege"),
            (18, "refuses the credentials"),
        ] {
            let text = text(code);
            assert!(text.contains(expected) && text.contains("h:1"), "{text}");
        }
    }

    #[test]
    fn tls_errors_are_distinguished_from_unreachable_servers() {
        assert!(mentions_tls("invalid peer certificate: UnknownIssuer"));
        assert!(!mentions_tls("Connection refused (os error 111)"));
    }
}
