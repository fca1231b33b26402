//! Values that are used but never displayed.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

/// The replacement for a secret in texts.
const HIDDEN: &str = "***";

/// Parameters of a connection string with secret values, in lowercase.
const SECRET_PARAMETERS: [&str; 4] = [
    "authmechanismproperties",
    "tlscertificatekeyfilepassword",
    "sslclientcertificatekeypassword",
    "proxypassword",
];

/// A text that neither `Debug` nor `Display` shows. A flag value `file:<path>` is read from that
/// file.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text unchanged.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for the client that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(value: &str) -> Result<Self, SecretError> {
        resolve_secret(value)
    }
}

/// The reason why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file of the secret cannot be read.
    #[error("secret file {path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The reason, as text: flag parsers show only the outermost message.
        reason: io::ErrorKind,
    },
    /// The file of the secret is empty.
    #[error("secret file {path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
}

/// Returns a value as it is, or the content of `file:<path>` without the line break at its end.
///
/// # Errors
/// [`SecretError`] if the file cannot be read or is empty.
pub fn resolve_secret(value: &str) -> Result<Secret, SecretError> {
    let Some(path) = value.strip_prefix("file:") else {
        return Ok(Secret::new(value));
    };
    let text = fs::read_to_string(path).map_err(|error| SecretError::Unreadable {
        path: path.to_owned(),
        reason: error.kind(),
    })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(SecretError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(Secret::new(text))
}

/// Returns a connection string for logs, without user, password and the values of secret
/// parameters.
///
/// Everything between the scheme and the last `@` is removed, so that a password whose special
/// characters were not escaped stays hidden too.
#[must_use]
pub fn redact_uri(uri: &str) -> String {
    let (scheme, rest) = match uri.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), uri),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{HIDDEN}@"), rest),
        None => (String::new(), rest),
    };
    let Some((hosts, parameters)) = rest.split_once('?') else {
        return format!("{scheme}{user}{rest}");
    };
    let parameters: Vec<String> = parameters.split('&').map(redact_parameter).collect();
    format!("{scheme}{user}{hosts}?{}", parameters.join("&"))
}

fn redact_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if SECRET_PARAMETERS.contains(&name.to_lowercase().as_str()) => {
            format!("{name}={HIDDEN}")
        }
        _ => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_file_holds_the_value() {
        let path = std::env::temp_dir().join(format!("oplog-secret-{}", std::process::id()));
        let value = format!("file:{}", path.display());
        fs::write(&path, "mongodb://a:b@c/\n").unwrap();
        assert_eq!(
            value.parse::<Secret>().unwrap().expose(),
            "mongodb://a:b@c/"
        );
        fs::write(&path, "\n").unwrap();
        assert!(
            resolve_secret(&value)
                .unwrap_err()
                .to_string()
                .ends_with("is empty")
        );
        fs::remove_file(&path).unwrap();
        assert!(
            resolve_secret(&value)
                .unwrap_err()
                .to_string()
                .contains("not found")
        );
        assert_eq!(resolve_secret("plain").unwrap().expose(), "plain");
    }

    #[test]
    fn only_the_secrets_of_connection_strings_are_hidden() {
        let table = [
            (
                "mongodb://h1:27017,h2/db?replicaSet=rs0",
                "mongodb://h1:27017,h2/db?replicaSet=rs0",
            ),
            ("mongodb://u:p@h/", "mongodb://***@h/"),
            (
                "mongodb+srv://u:p/@?x@h/?tls=true",
                "mongodb+srv://***@h/?tls=true",
            ),
            (
                "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:t&appName=a",
                "mongodb://h/?authMechanismProperties=***&appName=a",
            ),
            (
                "mongodb://h/?tlsCertificateKeyFilePassword=p",
                "mongodb://h/?tlsCertificateKeyFilePassword=***",
            ),
            ("nonsense", "nonsense"),
            ("u:p@h", "***@h"),
        ];
        for (uri, shown) in table {
            assert_eq!(redact_uri(uri), shown);
        }
    }
}
