//! Joins the parts of `replay` and `emit`: the poll thread, the workers, HTTP and the status line.
//! If the poll thread or a worker fails, all of them end.

use std::sync::Arc;
use std::time::Duration;

use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http::{self, Health};
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::startup_error::StartupError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use crate::config::GroupConfig;
use crate::dead_letter::DeadLetters;
use crate::error::ConsumerError;
use crate::failure::Failure;
use crate::group::committed::Committed;
use crate::group::start::Past;
use crate::group::{self, GroupContextParts, Outcome};
use crate::telemetry::lag;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::telemetry::status::{self, Board};
use crate::unless_ended;
use crate::worker::assignment::{PartitionLocks, Reports};
use crate::worker::foreign_notes;
use crate::worker::sink::Sink;
use crate::worker::topics::Topics;
use crate::worker::{Assignment, PartitionWorker, WorkerContext};

/// Number of assignments that may wait for their workers to be started.
const ASSIGNMENTS_AHEAD: usize = 64;

/// Maximum time that a run waits at its end until the target's catalog has the note that the group
/// has committed offsets.
const NOTE: Duration = Duration::from_secs(5);

/// The task that notes in the target's catalog that the group has committed offsets.
struct BegunNote {
    /// True once Kafka has confirmed a commit. Only then is the note written.
    committed: watch::Sender<bool>,
    writing: JoinSet<()>,
}

impl BegunNote {
    /// Waits for the note if the group has committed: a short run may end before the note is written.
    async fn finish(mut self) {
        let has_committed = *self.committed.borrow();
        if has_committed && timeout(NOTE, self.writing.join_next()).await.is_err() {
            tracing::warn!(
                "the note that this group has committed offsets was not acknowledged by the \
                 target in time; the next run writes it again"
            );
        }
    }
}

/// Supervises a run of `replay` or `emit`, and holds what all of its tasks share.
#[derive(Debug)]
pub struct Supervisor {
    config: GroupConfig,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The readiness of the program.
    pub readiness: Arc<Readiness>,
    /// The shutdown signal.
    pub shutdown: Shutdown,
    failure: Failure,
    health: Health,
    board: Board,
}

/// Background tasks, aborted when the run ends.
pub type BackgroundTasks = JoinSet<()>;

impl Supervisor {
    /// Creates a supervisor, without connecting to anything.
    ///
    /// # Errors
    /// Returns an error if the metrics cannot be registered.
    pub fn new(config: GroupConfig, shutdown: Shutdown) -> Result<Self, ConsumerError> {
        let metrics = Metrics::new().map_err(StartupError::from)?;
        let health = Health::new(config.serve.stalled_after);
        Ok(Self {
            config,
            metrics: Arc::new(metrics),
            readiness: Arc::new(Readiness::new(health.clone())),
            shutdown,
            failure: Failure::default(),
            health,
            board: Board::default(),
        })
    }

    /// Starts the HTTP server and returns its task. It starts before everything else, so that a
    /// start that hangs can be observed.
    ///
    /// # Errors
    /// Returns an error if the address cannot be bound.
    pub async fn serve(&self) -> Result<BackgroundTasks, ConsumerError> {
        let mut background = BackgroundTasks::new();
        let listener = http::bind(&self.config.serve.address)
            .await
            .map_err(StartupError::from)?;
        let Some(listener) = listener else {
            return Ok(background);
        };
        let (metrics, board) = (Arc::clone(&self.metrics), self.board.clone());
        let group = self.config.group.clone();
        let status: http::Status = Arc::new(move || board.json(&group, &metrics));
        let registry = self.metrics.registry.clone();
        let served = http::serve(
            listener,
            registry,
            self.health.clone(),
            status,
            self.shutdown.clone(),
        );
        background.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the HTTP server failed");
            }
        });
        Ok(background)
    }

    /// Reads, applies and commits until the group has caught up, the program is stopped, or a part
    /// fails. `visible` is true if the progress may be shown as a live line on a terminal.
    ///
    /// # Errors
    /// Returns the first failure of any part.
    pub async fn run(
        self,
        sink: Sink,
        mut background: BackgroundTasks,
        visible: bool,
    ) -> Result<ExitCode, ConsumerError> {
        let GroupConfig { kafka, input, .. } = &self.config;
        let past = unless_ended(&self.shutdown, sink.past(input.name())).await?;
        let reports = Arc::new(Reports::default());
        let context = self.share(sink, Arc::clone(&reports)).await?;
        self.check_formats(&context)?;
        background.spawn(status::show(
            Arc::clone(&self.metrics),
            self.board.clone(),
            visible,
            self.shutdown.clone(),
        ));
        background.spawn(lag::follow(
            Arc::clone(&context),
            kafka.clone(),
            input.name().to_owned(),
            self.board.clone(),
            self.shutdown.clone(),
        ));
        let (assignments, assigned) = mpsc::channel(ASSIGNMENTS_AHEAD);
        let parts = self.parts(assignments, past, &context);
        let noting = self.note_begun(&parts, &context);
        let reading = self.start_reading(parts)?;
        let outcome = tokio::select! {
            outcome = async {
                let outcome = self.join(reading, assigned, &context).await;
                noting.finish().await;
                outcome
            } => outcome,
            () = self.shutdown.forced() => {
                tracing::warn!(
                    "shutdown grace period exceeded; uncommitted records will be redelivered"
                );
                Outcome::Stopped
            }
        };
        if outcome == Outcome::CaughtUp
            && let Some(target) = context.sink.target()
        {
            let restored = unless_ended(&self.shutdown, target.restore_suspended()).await;
            self.keep(restored);
        }
        let signalled = self.shutdown.exit_code();
        self.shutdown.trigger();
        background.shutdown().await;
        if let Some(error) = self.failure.take() {
            self.metrics.count_error(error.kind());
            return Err(error);
        }
        match outcome {
            Outcome::CaughtUp => Ok(ExitCode::Done),
            Outcome::Stopped => signalled.ok_or(ConsumerError::Ended("the group")),
        }
    }

    /// Creates the context that all workers share.
    async fn share(
        &self,
        sink: Sink,
        reports: Arc<Reports>,
    ) -> Result<Arc<WorkerContext>, ConsumerError> {
        let GroupConfig { kafka, input, .. } = &self.config;
        let opened = unless_ended(&self.shutdown, async {
            let topics = Topics::open(kafka, input, self.shutdown.clone()).await?;
            match input.foreign() {
                None => topics.warn_of_missing().await?,
                Some(foreign) => foreign_notes::check(foreign, &sink, &topics.partitions().await?)?,
            }
            let metrics = Arc::clone(&self.metrics);
            let letters = DeadLetters::open(&self.config, metrics, self.shutdown.clone()).await?;
            Ok((topics, letters))
        });
        let (topics, dead_letters) = opened.await?;
        Ok(Arc::new(WorkerContext {
            topics,
            sink,
            dead_letters,
            filter: self.config.filter.clone(),
            metrics: Arc::clone(&self.metrics),
            reports,
            partition_locks: PartitionLocks::default(),
            committed: Committed::default(),
            allow_partial_reset: self.config.allow_partial_reset,
        }))
    }

    /// Refuses formats at start that would otherwise be refused at the first record.
    fn check_formats(&self, context: &WorkerContext) -> Result<(), ConsumerError> {
        let topics = context.topics.known();
        for known in &topics {
            context.sink.check_format(&known.name, known.topic.format)?;
        }
        Ok(())
    }

    /// Starts the task that notes in the target's catalog that the group is no longer new, once
    /// Kafka has confirmed a commit.
    fn note_begun(&self, parts: &GroupContextParts, context: &Arc<WorkerContext>) -> BegunNote {
        let (committed, mut confirmed) = (parts.committed.clone(), parts.committed.subscribe());
        let (context, prefix) = (Arc::clone(context), self.config.input.name().to_owned());
        let (failure, shutdown) = (self.failure.clone(), self.shutdown.clone());
        let mut writing = JoinSet::new();
        writing.spawn(async move {
            if confirmed.wait_for(|committed| *committed).await.is_ok()
                && let Some(target) = context.sink.target()
                && let Err(error) = target.note_begun(&prefix).await
            {
                failure.keep(error);
                shutdown.trigger();
            }
        });
        BegunNote { committed, writing }
    }

    fn parts(
        &self,
        assignments: mpsc::Sender<Assignment>,
        past: Past,
        context: &WorkerContext,
    ) -> GroupContextParts {
        GroupContextParts {
            past,
            committed: watch::Sender::default(),
            durability: context.sink.durability(),
            assignments,
            reports: Arc::clone(&context.reports),
            metrics: Arc::clone(&self.metrics),
            board: self.board.clone(),
            failure: self.failure.clone(),
            readiness: Arc::clone(&self.readiness),
            health: self.health.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    fn start_reading(
        &self,
        parts: GroupContextParts,
    ) -> Result<oneshot::Receiver<Result<Outcome, ConsumerError>>, ConsumerError> {
        let config = self.config.clone();
        let (ended, reading) = oneshot::channel();
        std::thread::Builder::new()
            .name("kafka-poll".to_owned())
            .spawn(move || {
                // The receiver is already gone if the program exits without an orderly shutdown.
                drop(ended.send(group::read(&config, &parts)));
            })
            .map_err(|_| ConsumerError::Ended("the poll thread"))?;
        Ok(reading)
    }

    /// Starts a worker for each new assignment until reading ends. Failures are recorded.
    async fn join(
        &self,
        mut reading: oneshot::Receiver<Result<Outcome, ConsumerError>>,
        mut assigned: mpsc::Receiver<Assignment>,
        context: &Arc<WorkerContext>,
    ) -> Outcome {
        let mut workers: JoinSet<Result<(), ConsumerError>> = JoinSet::new();
        let GroupConfig {
            kafka,
            group,
            subscription,
            ..
        } = &self.config;
        let (watching, own) = (Arc::clone(context), subscription.clone());
        workers.spawn(async move {
            match watching.sink.target() {
                Some(target) => target.watch_subscription(&own).await,
                // Members that emit may have different filters: each line has its namespace.
                None => Ok(()),
            }
        });
        let lookup = context.committed.clone();
        workers.spawn(lookup.run(kafka.clone(), group.clone(), self.shutdown.clone()));
        let outcome = loop {
            tokio::select! {
                Some(assignment) = assigned.recv() => {
                    workers.spawn(PartitionWorker::new(assignment, Arc::clone(context)).run());
                }
                Some(ended) = workers.join_next() => {
                    if self.keep(flatten(ended)).is_none() {
                        self.shutdown.trigger();
                    }
                }
                outcome = &mut reading => {
                    break outcome.unwrap_or(Err(ConsumerError::Ended("the poll thread")));
                }
            }
        };
        // The poll thread may have noticed the end of a failed worker before this task did.
        while let Some(ended) = workers.try_join_next() {
            self.keep(flatten(ended));
        }
        self.keep(outcome).unwrap_or(Outcome::Stopped)
    }

    /// Returns the value, or records the failure and returns `None`.
    fn keep<T>(&self, ended: Result<T, ConsumerError>) -> Option<T> {
        ended.map_err(|error| self.failure.keep(error)).ok()
    }
}

fn flatten(ended: Result<Result<(), ConsumerError>, JoinError>) -> Result<(), ConsumerError> {
    ended.unwrap_or_else(|_| Err(ConsumerError::Ended("a worker or a shared task")))
}
