//! oplog-consumer: the topics that oplog-producer writes, replayed into a MongoDB or emitted as
//! JSON, and the proof that source and target agree.
//!
//! # The map
//!
//! `replay` and `emit` are a ladder; each rung knows those below it:
//!
//! 1. [`supervisor`] joins the parts of a run
//! 2. [`group`] is the member of the consumer group: one thread polls Kafka, and alone commits; where a
//!    group begins, rebalances, flow control
//! 3. [`worker`] one per assigned partition: chunks of records → entries → a sink, or a dead letter; it
//!    waits at barriers
//! 4. [`replay`] entries → idempotent writes and commands on a target, with the catalog of the commands
//!    that ran; or [`emit`], entries → lines of JSON
//! 5. [`dead_letter`] what cannot be applied, on its way to a topic of its own
//!
//! Beside it:
//!
//! - [`config`] arguments, and what they mean, all faults at once
//! - [`verify`] compares two MongoDBs and repairs one; [`audit`] reads the topics back; [`cutover`]
//!   gives the target what was withheld from it
//! - [`telemetry`] metrics, readiness, `/status` and lag; [`json_line`] and [`stdout`] what a report is
//!   made of; [`error`] and [`failure`] what can go wrong, and the exit codes
//!
//! # The order of things
//!
//! A record is committed after the sink says that it is durable, never before. A partition that
//! is taken away loses its token first; its worker finishes the write under way and stops; what
//! was acknowledged is committed; only then the partition goes. Applying anything twice is
//! harmless, so what was not committed in time comes again and changes nothing.
//!
//! A record in fragments reaches its worker whole: until then it is the poll thread's, one for each
//! partition at most, and nothing of it is committed. What has no room beside others is read again.
//! A start between two fragments is refused, because no member commits such an offset.
//!
//! A command runs when every partition of its topics is committed right before it, and is noted in
//! the target's catalog; then all go on. The catalog also says to which life of a name an entry
//! belongs, so that a stretch that is applied again reaches the collections it was written to.

pub mod audit;
pub mod config;
pub mod cutover;
pub mod dead_letter;
pub mod emit;
pub mod error;
pub mod failure;
pub mod group;
pub mod json_line;
pub mod replay;
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

/// Runs the command of the command line and returns its exit code. Errors are written to standard error.
pub async fn main(arguments: Arguments) -> ExitCode {
    let ended = match arguments.command {
        Command::Replay(arguments) if arguments.help_errors => {
            stdout::tell(crate::replay::directive::table().trim_end()).map(|()| ExitCode::Done)
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
    ended.unwrap_or_else(|error| tell(&error))
}

/// Tells an error where the operator looks, and which code it ends with.
fn tell(error: &ConsumerError) -> ExitCode {
    let code = error.exit_code();
    match error {
        // A closed standard error leaves nowhere to tell it.
        ConsumerError::Config(error) => drop(error.print()),
        ConsumerError::Unready(reason) => drop(writeln!(std::io::stderr().lock(), "{reason}")),
        // The signal was told.
        ConsumerError::Interrupted(_) => {}
        ConsumerError::OutputClosed => tracing::info!("{}; nothing is lost", error.text()),
        _ => tracing::error!(exit_code = code.code(), "{}", error.text()),
    }
    code
}

/// `oplog-consumer replay`
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
        .run(Sink::Mongo(Box::new(sink)), served, true)
        .await
}

/// `oplog-consumer emit`
async fn emit(config: EmitConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.group.log)?;
    let supervisor = Supervisor::new(config.group.clone(), on_signals()?)?;
    let served = supervisor.serve().await?;
    let sink = JsonSink::open(&config.to, config.mode)?;
    // A live line among lines on the same terminal would be unreadable.
    let visible = config.to != Destination::Stdout;
    supervisor.run(Sink::Json(sink), served, visible).await
}

/// `oplog-consumer verify`
async fn compare(config: VerifyConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    let verdict = Box::pin(verify::verify(&config, &shutdown));
    Ok(unless_ended(&shutdown, verdict).await?.exit_code())
}

/// `oplog-consumer audit`
async fn read_back(config: AuditConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    unless_ended(&shutdown, reach(&config.kafka)).await?;
    let verdict = Box::pin(audit::audit(&config, &shutdown));
    Ok(unless_ended(&shutdown, verdict).await?.exit_code())
}

/// `oplog-consumer cutover`
async fn cut_over(config: CutoverConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    unless_ended(&shutdown, cutover::cutover(&config)).await?;
    Ok(ExitCode::Done)
}

/// `oplog-consumer dead-letters`
async fn list_dead_letters(config: DeadLettersConfig) -> Result<ExitCode, ConsumerError> {
    start_logs(&config.log)?;
    let shutdown = on_signals()?;
    unless_ended(&shutdown, reach(&config.kafka)).await?;
    let told = shutdown.clone();
    // A reader that does not read blocks the write: not on a thread that others need.
    let listing = tokio::task::spawn_blocking(move || dead_letter::list(&config, &told));
    tokio::select! {
        listed = listing => listed.map_err(|_| ConsumerError::Ended("the list of dead letters"))??,
        () = shutdown.forced() => {}
    }
    Ok(shutdown.exit_code().unwrap_or(ExitCode::Done))
}

/// Fails at once if no broker answers or one refuses the login. A client that reads would only go on trying.
async fn reach(kafka: &KafkaOptions) -> Result<(), ConsumerError> {
    Admin::connect(kafka).await?;
    Ok(())
}

/// Does some work, which a signal leaves where it is.
async fn unless_ended<T>(
    shutdown: &Shutdown,
    work: impl Future<Output = Result<T, ConsumerError>>,
) -> Result<T, ConsumerError> {
    let interrupted = || Err(ConsumerError::interrupted(shutdown));
    shutdown.unless(work).await.unwrap_or_else(interrupted)
}

fn start_logs(options: &LogOptions) -> Result<(), ConsumerError> {
    init_logs(options).map_err(|error| ConsumerError::Usage(format!("--log-level: {error}")))
}

fn on_signals() -> Result<Shutdown, ConsumerError> {
    Shutdown::on_signals().map_err(|error| ConsumerError::Usage(format!("signals: {error}")))
}
