//! oplog-consumer replays the topics that oplog-producer writes into a MongoDB deployment, or emits
//! them as JSON. It also verifies that source and target are equal.
//!
//! # Modules
//!
//! `replay` and `emit` are built in layers, from top to bottom:
//!
//! 1. [`supervisor`] starts and connects the parts of a run.
//! 2. [`group`] is the member of the consumer group. One thread polls Kafka and is the only one that
//!    commits. The module also determines where a group starts, and handles rebalances and flow
//!    control.
//! 3. [`worker`] runs once per assigned partition: chunks of records become entries, which go to a sink
//!    or become dead letters. It waits at barriers.
//! 4. [`replay`] turns entries into idempotent writes and commands on a target and keeps the catalog of
//!    the commands that ran; [`emit`] turns entries into lines of JSON.
//! 5. [`dead_letter`] writes to a separate topic what cannot be applied.
//!
//! The other modules:
//!
//! - [`config`] defines the arguments and checks them; all faults are reported at once. [`input`]
//!   describes the topics that are read, and the program that writes them.
//! - [`verify`] compares source and target and can repair the target; [`audit`] reads the topics
//!   and checks them; [`cutover`] sets on the target the expiries that the replay withheld.
//! - [`telemetry`] has metrics, readiness, `/status` and lag; [`json_line`] and [`stdout`] write
//!   reports; [`error`] and [`failure`] define the errors and the exit codes.
//! - [`topic_partition`] and [`record_position`] identify partitions and records; [`record_fault`]
//!   defines why a record cannot be decoded, [`saved_state_error`] why the state of a source cannot
//!   be read.
//!
//! # Order of operations
//!
//! An offset is committed only after the sink reports that all entries before it are durable. When
//! a partition is revoked, its token is invalidated first. Its worker then finishes the write in
//! progress and stops, the acknowledged offset is committed, and only then is the partition given
//! up. Applying an entry twice is harmless, so whatever was not committed in time is redelivered
//! and changes nothing.
//!
//! A worker receives a fragmented record only when it is complete. Until then the poll thread keeps
//! its fragments, for at most one record of each partition, and does not commit any of them. If the
//! memory does not suffice for the fragments, they are discarded and read again. A start between
//! two fragments is refused, because no member commits an offset between them.
//!
//! A command with barriers runs when the committed offsets of all partitions of its topics have
//! reached the barriers. It is then recorded in the target's catalog, and the waiting partitions
//! continue. The catalog also maps each incarnation to its collection on the target, so that
//! entries that are applied again reach the collections that they were first written to.

pub mod audit;
pub mod config;
pub mod cutover;
pub mod dead_letter;
pub mod emit;
pub mod error;
pub mod failure;
pub mod group;
pub mod input;
pub mod json_line;
pub mod record_fault;
pub mod record_position;
pub mod replay;
pub mod saved_state_error;
pub mod stdout;
pub mod supervisor;
pub mod telemetry;
pub mod topic_partition;
pub mod verify;
pub mod worker;

use std::io::Write as _;
use std::sync::Arc;

use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http;
use oplog_relay_runtime::kafka::{Admin, KafkaOptions};
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::startup_error::StartupError;
use oplog_relay_runtime::telemetry::{LogOptions, init as init_logs};

use crate::config::arguments::{Arguments, Command};
use crate::config::{
    AuditConfig, CutoverConfig, DeadLettersConfig, Destination, EmitConfig, ReplayConfig,
    VerifyConfig,
};
use crate::emit::JsonSink;
use crate::error::ConsumerError;
use crate::replay::MongoSink;
use crate::supervisor::Supervisor;
use crate::worker::sink::Sink;

/// Runs the command given on the command line and returns its exit code. Errors are reported on
/// standard error.
pub async fn main(arguments: Arguments) -> ExitCode {
    let ended = match arguments.command {
        Command::Replay(arguments) if arguments.help_errors => {
            stdout::print_line(crate::replay::directive::table().trim_end())
                .map(|()| ExitCode::Done)
        }
        Command::Replay(arguments) => match ReplayConfig::check(&arguments) {
            Ok(config) => Box::pin(replay(config)).await,
            Err(error) => Err(error.into()),
        },
        Command::Emit(arguments) => match EmitConfig::check(&arguments) {
            Ok(config) => Box::pin(emit(config)).await,
            Err(error) => Err(error.into()),
        },
        Command::Verify(arguments) => match VerifyConfig::check(&arguments) {
            Ok(config) => Box::pin(compare(config)).await,
            Err(error) => Err(error.into()),
        },
        Command::Audit(arguments) => match AuditConfig::check(&arguments) {
            Ok(config) => Box::pin(read_back(config)).await,
            Err(error) => Err(error.into()),
        },
        Command::Cutover(arguments) => match CutoverConfig::check(&arguments) {
            Ok(config) => cut_over(config).await,
            Err(error) => Err(error.into()),
        },
        Command::DeadLetters(arguments) => match DeadLettersConfig::check(&arguments) {
            Ok(config) => list_dead_letters(config).await,
            Err(error) => Err(error.into()),
        },
        Command::Health(arguments) => match http::probe(&arguments.http).await {
            Ok(()) => Ok(ExitCode::Done),
            Err(reason) => Err(ConsumerError::Unready(reason)),
        },
    };
    ended.unwrap_or_else(|error| report(&error))
}

/// Reports an error to the operator and returns the exit code for it.
fn report(error: &ConsumerError) -> ExitCode {
    let code = error.exit_code();
    match error {
        // If standard error is closed, the error cannot be reported anywhere.
        ConsumerError::Config(error) => drop(error.print()),
        ConsumerError::Unready(reason) => drop(writeln!(std::io::stderr().lock(), "{reason}")),
        // The signal was already logged.
        ConsumerError::Interrupted(_) => {}
        ConsumerError::OutputClosed => tracing::info!("{}; nothing is lost", error.text()),
        _ => tracing::error!(exit_code = code.code(), "{}", error.text()),
    }
    code
}

/// Runs `oplog-consumer replay`.
async fn replay(config: ReplayConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.group.log)?;
    let supervisor = Supervisor::new(config.group.clone(), on_signals()?)?;
    let served = supervisor.serve().await?;
    let sink = MongoSink::connect(
        &config,
        Arc::clone(&supervisor.metrics),
        Arc::clone(&supervisor.readiness),
        supervisor.shutdown.clone(),
    );
    let sink = unless_ended(&supervisor.shutdown, sink).await?;
    supervisor
        .run(Sink::Replay(Box::new(sink)), served, true)
        .await
}

/// Runs `oplog-consumer emit`.
async fn emit(config: EmitConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.group.log)?;
    let supervisor = Supervisor::new(config.group.clone(), on_signals()?)?;
    let served = supervisor.serve().await?;
    let sink = JsonSink::open(&config.to, config.lines)?;
    // A status line between the emitted lines on the same terminal would be unreadable.
    let visible = config.to != Destination::Stdout;
    supervisor.run(Sink::Emit(sink), served, visible).await
}

/// Runs `oplog-consumer verify`.
async fn compare(config: VerifyConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    let verdict = Box::pin(verify::verify(&config, &shutdown));
    Ok(unless_ended(&shutdown, verdict).await?.exit_code())
}

/// Runs `oplog-consumer audit`.
async fn read_back(config: AuditConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    unless_ended(&shutdown, reach(&config.kafka)).await?;
    let verdict = Box::pin(audit::audit(&config, &shutdown));
    Ok(unless_ended(&shutdown, verdict).await?.exit_code())
}

/// Runs `oplog-consumer cutover`.
async fn cut_over(config: CutoverConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    unless_ended(&shutdown, cutover::cutover(&config)).await?;
    Ok(ExitCode::Done)
}

/// Runs `oplog-consumer dead-letters`.
async fn list_dead_letters(config: DeadLettersConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    unless_ended(&shutdown, reach(&config.kafka)).await?;
    let signal = shutdown.clone();
    // The write blocks while the reader of the pipe does not read. It must not block a thread of
    // the runtime.
    let listing = tokio::task::spawn_blocking(move || dead_letter::list(&config, &signal));
    tokio::select! {
        listed = listing => listed.map_err(|_| ConsumerError::Ended("the list of dead letters"))??,
        () = shutdown.forced() => {}
    }
    Ok(shutdown.exit_code().unwrap_or(ExitCode::Done))
}

/// Fails if no broker answers, or if a broker refuses the login. Without this check, a client that
/// reads would retry indefinitely.
async fn reach(kafka: &KafkaOptions) -> Result<(), ConsumerError> {
    Admin::connect(kafka).await?;
    Ok(())
}

/// Runs `work` and abandons it as soon as a signal requests shutdown.
async fn unless_ended<T>(
    shutdown: &Shutdown,
    work: impl Future<Output = Result<T, ConsumerError>>,
) -> Result<T, ConsumerError> {
    let interrupted = || Err(ConsumerError::interrupted(shutdown));
    shutdown.unless(work).await.unwrap_or_else(interrupted)
}

fn start_logs(options: &LogOptions) -> Result<(), ConsumerError> {
    Ok(init_logs(options).map_err(StartupError::from)?)
}

fn on_signals() -> Result<Shutdown, ConsumerError> {
    Ok(Shutdown::on_signals().map_err(StartupError::Signals)?)
}
