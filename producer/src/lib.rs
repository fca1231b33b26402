//! oplog-producer: streams a MongoDB oplog into Kafka, every entry exactly once, in order per document.
//!
//! # Modules
//!
//! Entries pass through four stages:
//!
//! 1. [`source`] reads entries: the tail of the oplog, a change stream, a dump, or the documents of a
//!    full sync
//! 2. [`prepare`] does the work that must precede encoding: it splits transactions into operations,
//!    finds the route of each entry, looks up documents if this is configured, and makes sure that
//!    topics exist and belong to this source
//! 3. [`encode`] turns entries into chunks of records
//! 4. [`publish`] sends chunks in Kafka transactions, each with the position that it reaches
//!
//! Above and beside the stages:
//!
//! - [`run`] is the command `run`: it follows one source or several
//! - [`session`] checks the saved state, plans the start, and runs the stages until the work is
//!   done, a shutdown is requested, or an error occurs
//! - [`instances`] decides which of several instances follows a source
//! - [`saved`] holds the state of a source that is saved in Kafka
//! - [`registry`] asks a schema registry for the ids of the schemas of Avro topics
//! - [`config`] checks the arguments and reports all faults at once
//! - [`inspect`], [`request`] and [`position`] are the commands `inspect`, `full-sync` and `position`
//! - [`oplog_window`] is the stretch of time for which a source has entries
//! - `stdout` prints the results of commands
//! - [`telemetry`] holds metrics, `/status` and progress
//! - [`error`] holds the errors and how each is handled; [`entry_fault`] and [`position_lost`] are the
//!   reasons behind two of them
//!
//! # Ordering
//!
//! A session opens the transactional producer first, which fences every older instance, and only then
//! reads the checkpoint that it continues from. It tails from there; the first entry must be the
//! saved one, with the same term. Every Kafka transaction ends with the position that it reaches.
//! After any error that the client returns, the producer is dropped; if a retry may succeed, a new
//! session starts at the checkpoint.
//!
//! A full sync alternates its reads with those of the tail, and both go through one queue: a document
//! that was read after the tail had reached a position is sent before any later entry. The records
//! of a full sync have the position of the tail and do not advance it; their number is saved with
//! the position.
//!
//! A command is the last entry of its chunk, and it and its barriers contain offsets. Before the
//! first barrier of a topic in a Kafka transaction, the publisher waits until all earlier records
//! are delivered, and reads the log end offsets of the topic's partitions. From then on it counts
//! its own records, because it is the only writer of the topic. The offsets are read again before
//! the commit, and a difference aborts the transaction.
//!
//! A record that is larger than its topic accepts stops the stream, or is split into fragments:
//! consecutive records in the same partition and Kafka transaction (`--oversize split`).
//!
//! Routing rules other than the saved ones apply only if the operator requests them
//! (`--change-routing`): the change is saved in one Kafka transaction with a barrier in every
//! partition of the topics whose entries are routed differently from then on. A change of the format
//! alone has no barrier, because a consumer detects the format of each record.
//!
//! A transaction of the source may take longer to send than a Kafka transaction may stay open, so a
//! position has an ordinal: the number of operations of the commit at its `ts` that were sent, 0
//! when the entry is complete. A session that starts at a position with an ordinal reads that entry
//! and its chain again, and skips that many operations. They are counted before the filter, so a
//! different filter resumes at the same operation.

pub mod config;
pub mod encode;
pub mod entry_fault;
pub mod error;
pub mod inspect;
pub mod instances;
pub mod oplog_window;
pub mod position;
pub mod position_lost;
pub mod prepare;
pub mod publish;
pub mod registry;
pub mod request;
pub mod run;
pub mod saved;
pub mod session;
pub mod source;
mod stdout;
pub mod telemetry;

use std::io::Write as _;

use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http;
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::startup_error::StartupError;
use oplog_relay_runtime::telemetry::{LogOptions, init as init_logs};

use crate::config::arguments::{Arguments, Command};
use crate::config::position::PositionConfig;
use crate::config::{InspectConfig, RequestConfig, RunConfig};
use crate::error::{Directive, ProducerError};
use crate::request::request_full_sync;

/// Runs the command given on the command line and returns its exit code. Errors are written to standard
/// error.
pub async fn main(arguments: Arguments) -> ExitCode {
    let ended = match arguments.command {
        Command::Run(arguments) => match RunConfig::check(&arguments) {
            Ok(config) => Box::pin(run_sources(config)).await,
            Err(error) => Err(error.into()),
        },
        Command::Inspect(arguments) => match InspectConfig::check(&arguments) {
            Ok(config) => run_inspect(config).await,
            Err(error) => Err(error.into()),
        },
        Command::FullSync(arguments) => match RequestConfig::check(&arguments) {
            Ok(config) => run_full_sync(config).await,
            Err(error) => Err(error.into()),
        },
        Command::Position(arguments) => match PositionConfig::check(&arguments.command) {
            Ok(config) => run_position(&config).await,
            Err(error) => Err(error.into()),
        },
        Command::Health(arguments) => return health(&arguments.http).await,
    };
    match ended {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Reports the error that ends the program or a source, and returns its exit code. Faults of the
/// configuration are printed to standard error, because the log is not set up before they are found.
/// Every other error is logged with its causes.
pub(crate) fn report(error: &ProducerError) -> ExitCode {
    if let ProducerError::Config(error) = error {
        // There is no other place to report an error if standard error is closed.
        drop(error.print());
        return error.exit_code();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_text = next.to_string();
        // The text of some errors already contains that of their cause.
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    let code = exit_code_of(error);
    tracing::error!(exit_code = code.code(), "{text}");
    code
}

/// Returns the exit code of a program that an error ends.
pub(crate) fn exit_code_of(error: &ProducerError) -> ExitCode {
    match error.directive() {
        Directive::Stop(code) => code,
        Directive::Retry => ExitCode::Failed,
    }
}

async fn run_sources(config: RunConfig) -> Result<ExitCode, ProducerError> {
    start_logs(&config.log)?;
    Box::pin(run::run(config, on_signals()?)).await
}

async fn run_inspect(config: InspectConfig) -> Result<ExitCode, ProducerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    // A stdout that nobody reads, or a stdin without data, can block the work, so a second signal or the
    // end of the grace period ends the program.
    tokio::select! {
        outcome = inspect::inspect(config, shutdown.clone()) => outcome?,
        () = shutdown.forced() => {}
    }
    Ok(shutdown.exit_code().unwrap_or(ExitCode::Done))
}

async fn run_full_sync(config: RequestConfig) -> Result<ExitCode, ProducerError> {
    start_logs(&config.log)?;
    request_full_sync(&config).await?;
    tracing::info!(
        "full sync requested; the running producer starts it within seconds (see /status)"
    );
    Ok(ExitCode::Done)
}

async fn run_position(config: &PositionConfig) -> Result<ExitCode, ProducerError> {
    start_logs(&config.log)?;
    position::run(config).await?;
    Ok(ExitCode::Done)
}

async fn health(address: &str) -> ExitCode {
    match http::probe(address).await {
        Ok(()) => ExitCode::Done,
        Err(reason) => {
            // There is no other place to report an error if standard error is closed.
            drop(writeln!(std::io::stderr().lock(), "{reason}"));
            ExitCode::Failed
        }
    }
}

fn start_logs(options: &LogOptions) -> Result<(), ProducerError> {
    Ok(init_logs(options).map_err(StartupError::from)?)
}

fn on_signals() -> Result<Shutdown, ProducerError> {
    Ok(Shutdown::on_signals().map_err(StartupError::Signals)?)
}
