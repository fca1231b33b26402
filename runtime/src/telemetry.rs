//! Logs: one event per line on standard error, as text or JSON.
//!
//! Events of libraries are logged in the same way. Those of librdkafka come through
//! [`kafka::Context`](crate::kafka::Context) with the target `librdkafka`.

use std::env;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::status_line::LogWriter;

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json".to_owned()),
        }
    }
}

/// The level and the format of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The format of a log line.
    pub format: LogFormat,
    /// A level, or directives such as `info,oplog_producer=debug,librdkafka=warn`.
    pub level: String,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

/// The reason why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not valid.
    #[error("log level {level:?} is neither a level nor a list of directives")]
    Level {
        /// The level as it was given.
        level: String,
        /// The reason.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging has already been started in this process.
    #[error("logging was started twice")]
    Twice(#[from] TryInitError),
}

/// Starts logging for the whole process. It must be called once, early in `main`.
///
/// # Errors
/// [`TelemetryError`] if the level is not valid or logging was started before. With an invalid
/// level, logging starts at `info`, so that the error can be logged.
pub fn init(options: &LogOptions) -> Result<(), TelemetryError> {
    match filter(&options.level) {
        Ok(filter) => start(options.format, filter),
        Err(error) => {
            start(options.format, filter("info")?)?;
            Err(error)
        }
    }
}

fn start(format: LogFormat, filter: EnvFilter) -> Result<(), TelemetryError> {
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(LogWriter);
    match format {
        LogFormat::Text => {
            let color = io::stderr().is_terminal() && no_color(env::var_os("NO_COLOR")).is_none();
            registry.with(layer.with_ansi(color)).try_init()?;
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true);
            registry.with(layer.with_span_list(false)).try_init()?;
        }
    }
    Ok(())
}

/// Returns work for another thread, whose messages are logged in the present span.
pub fn in_current_span<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = tracing::Span::current();
    move || span.in_scope(work)
}

/// Returns the value of the variable `NO_COLOR`, or `None` if it is empty, as no-color.org
/// requires.
fn no_color(value: Option<std::ffi::OsString>) -> Option<std::ffi::OsString> {
    value.filter(|value| !value.is_empty())
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| TelemetryError::Level {
            level: level.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted_and_others_named() {
        assert!(filter("info").is_ok());
        assert!(filter("warn,librdkafka=debug").is_ok());
        let refused = filter("info,oplog=loud").unwrap_err();
        assert!(refused.to_string().contains("info,oplog=loud"));
    }

    #[test]
    fn an_empty_no_color_counts_as_unset() {
        assert_eq!(no_color(Some("".into())), None);
        assert_eq!(no_color(Some("0".into())), Some("0".into()));
    }

    #[test]
    fn formats_have_two_names() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert!("logfmt".parse::<LogFormat>().is_err());
    }
}
