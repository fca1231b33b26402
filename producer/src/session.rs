//! One life between two failures: fence, read the checkpoint, tail from it, publish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::runtime::http::Health;
use oplog_relay_core::runtime::kafka::{Admin, Reader};
use oplog_relay_core::runtime::retry::Backoff;
use oplog_relay_core::runtime::shutdown::Shutdown;
use oplog_relay_core::topic::{position_topic, state_topic};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::checkpoint::{Checkpoint, claims_of_others, create_topics};
use crate::config::RunConfig;
use crate::encoder::Encoder;
use crate::error::{Directive, ProducerError};
use crate::metrics::Metrics;
use crate::origin::{Origin, feed_full_sync};
use crate::pipeline::{self, Outcome, PublishLoop, Until};
use crate::publisher::Publisher;
use crate::route::Router;
use crate::source::full_sync::FullSync;
use crate::source::{QUEUE_BATCHES, StartAt};
use crate::topics::{Cluster, Topics};

/// A program that never worked says so and ends; one that did tries for ever.
const FIRST_SESSION: Duration = Duration::from_secs(60);

/// Everything that outlives a session.
#[derive(Debug, Clone)]
pub struct Producer {
    /// What was asked for.
    pub config: Arc<RunConfig>,
    /// Where entries come from.
    pub origin: Arc<Origin>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What HTTP tells of us.
    pub health: Health,
    /// When to end.
    pub shutdown: Shutdown,
}

/// Where a session begins, and where it ends.
struct Begin {
    start: StartAt,
    /// Where a dump's oldest open transaction begins.
    open: Option<Timestamp>,
    /// What is copied beside the tail; of every live source, for somebody may ask for it.
    sync: Option<FullSync>,
    until: Until,
}

/// What the threads of a session report.
enum Part {
    Source(Result<(), ProducerError>),
    Encoder(Result<(), ProducerError>),
    Publisher(Result<Outcome, ProducerError>),
}

impl Producer {
    /// Opens sessions until one is done, an error asks to stop, or the shutdown comes.
    ///
    /// # Errors
    /// The error that asked to stop.
    pub async fn run(&self) -> Result<Outcome, ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let began = Instant::now();
        loop {
            let commits = self.metrics.commit_count();
            let error = match self.session().await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            self.metrics.failed(error.kind());
            self.health.set_ready(false, &error.to_string());
            let never_worked = self.metrics.session_count() == 0 && began.elapsed() > FIRST_SESSION;
            if error.directive() != Directive::Retry || self.shutdown.triggered() || never_worked {
                return Err(error);
            }
            if self.metrics.commit_count() > commits {
                backoff.reset();
            }
            tracing::warn!(%error, "the session failed, the next one goes on from the checkpoint");
            // The publisher's thread is gone; this loop turns in its place.
            self.health.beat();
            if !backoff.sleep(&self.shutdown).await {
                return Ok(Outcome::Stopped);
            }
        }
    }

    async fn session(&self) -> Result<Outcome, ProducerError> {
        let (prefix, source) = (&self.config.stream.topic_prefix, self.origin.name());
        let admin = Admin::connect(&self.config.kafka).await?;
        create_topics(&admin, prefix, source, self.config.replication_factor).await?;
        let publisher = self.open_publisher().await?;
        let reader = Reader::new(&self.config.kafka);
        let checkpoint = Checkpoint::read(&reader, prefix, source).await?;
        checkpoint.check_source(&self.origin.record())?;
        let existing = admin.topics().await?;
        let (start, sync) = self.beginning(&checkpoint, &existing, &reader).await?;
        let ends = sync.as_ref().is_some_and(|sync| sync.options.ends);
        let until = match ends {
            true => Until::End,
            false => self.until(checkpoint.position).await?,
        };
        let claimed =
            claims_of_others(&reader, existing.keys().map(String::as_str), prefix, source).await?;
        let oldest = self.oldest(start).await?;
        let topics = Topics::Cluster(Box::new(Cluster {
            admin,
            runtime: Handle::current(),
            state_topic: state_topic(prefix, source),
            partitions: self.config.stream.partitions,
            replication_factor: self.config.replication_factor,
            claimed,
            oldest,
            existing: existing.into_keys().collect(),
        }));
        topics
            .check_saved(&checkpoint.state, self.config.stream.format)
            .await?;
        let (saved, open) = (checkpoint.position, checkpoint.history.open);
        let encoder = self.encoder(checkpoint, topics, start, sync.as_ref())?;
        tracing::info!(source, start = ?start, "session opened");
        self.metrics.session_opened();
        let positions = (saved, end_of(start).filter(|_| saved.is_none()));
        let begin = Begin {
            start,
            open,
            sync,
            until,
        };
        self.stream(publisher, encoder, begin, positions).await
    }

    /// What goes on from the checkpoint.
    fn encoder(
        &self,
        checkpoint: Checkpoint,
        topics: Topics,
        start: StartAt,
        sync: Option<&FullSync>,
    ) -> Result<Encoder, ProducerError> {
        let (stream, source) = (&self.config.stream, self.origin.name());
        let is_new = checkpoint.state.source.is_none();
        let identity = is_new.then(|| self.origin.record());
        let router = Router::new(
            &stream.topic_prefix,
            stream.filter.clone(),
            checkpoint.state,
        )
        .ordered(stream.order)?
        .asking(self.origin.collections());
        let transactions =
            self.origin
                .transactions(start, checkpoint.history, self.shutdown.clone());
        let (format, end) = (stream.format, end_of(start));
        let held = sync.into_iter().flat_map(|sync| sync.copies.held());
        let encoder = Encoder::new(source, format, router, topics, end, identity, transactions);
        Ok(encoder.copying(checkpoint.reads, held))
    }

    async fn open_publisher(&self) -> Result<Publisher, ProducerError> {
        let config = Arc::clone(&self.config);
        let source = self.origin.name().to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let prefix = &config.stream.topic_prefix;
            let transactional_id = format!("{prefix}.{source}");
            let topic = position_topic(prefix, &source);
            Publisher::open(&config.kafka, &transactional_id, &topic, &source)
        });
        opened
            .await
            .map_err(|_| ProducerError::Ended("opening the producer"))?
    }

    async fn until(&self, saved: Option<Position>) -> Result<Until, ProducerError> {
        if !self.config.until_caught_up {
            return Ok(Until::End);
        }
        let newest = self.origin.newest().await?;
        let until = newest.and_then(|newest| Until::newest(newest, saved));
        // There is nothing to wait for, or a dump, which has an end.
        Ok(until.unwrap_or_else(|| self.origin.until_nothing_new()))
    }

    async fn oldest(&self, start: StartAt) -> Result<Timestamp, ProducerError> {
        Ok(match start {
            StartAt::After(position) => position.ts,
            StartAt::At(ts) => ts,
            StartAt::Oldest | StartAt::Now => self.origin.oldest().await?.unwrap_or_default(),
        })
    }

    async fn stream(
        &self,
        publisher: Publisher,
        encoder: Encoder,
        begin: Begin,
        positions: (Option<Position>, Option<Position>),
    ) -> Result<Outcome, ProducerError> {
        let (events_in, events) = mpsc::channel(QUEUE_BATCHES);
        let (handover, intake) = pipeline::queues();
        let mut parts = JoinSet::new();
        let origin = Arc::clone(&self.origin);
        let shutdown = self.shutdown.clone();
        let ready = self.health.clone();
        let Begin {
            start, open, until, ..
        } = begin;
        let source = parts.spawn(async move {
            let ready = move || ready.set_ready(true, "");
            Part::Source(match begin.sync {
                Some(sync) => feed_full_sync(sync, start, events_in, shutdown, ready).await,
                None => origin.feed(start, open, events_in, shutdown, ready).await,
            })
        });
        let metrics = Arc::clone(&self.metrics);
        parts.spawn_blocking(move || {
            Part::Encoder(pipeline::encode(encoder, events, &handover, &metrics))
        });
        let (metrics, health) = (Arc::clone(&self.metrics), self.health.clone());
        parts.spawn_blocking(move || {
            let mut publishing = PublishLoop::new(publisher, &metrics, &health, until, positions);
            Part::Publisher(publishing.run(&intake))
        });
        join(parts, &source).await
    }
}

/// The position that a start stands for, if it is one.
const fn end_of(start: StartAt) -> Option<Position> {
    match start {
        StartAt::After(position) => Some(position),
        StartAt::Oldest | StartAt::Now | StartAt::At(_) => None,
    }
}

mod beginning;

/// Waits for all parts; when the encoder or the publisher has ended, the source may end too. The
/// source's error explains the most, then the encoder's.
async fn join(mut parts: JoinSet<Part>, source: &AbortHandle) -> Result<Outcome, ProducerError> {
    let mut failed: [Option<ProducerError>; 3] = [None, None, None];
    let mut outcome = Outcome::Stopped;
    while let Some(part) = parts.join_next().await {
        let part = match part {
            Ok(part) => part,
            Err(error) if error.is_cancelled() => continue,
            Err(_) => return Err(ProducerError::Ended("a thread of the session")),
        };
        let (place, error) = match part {
            Part::Source(result) => (0, result.err()),
            Part::Encoder(result) => (1, result.err()),
            Part::Publisher(Ok(reached)) => {
                outcome = reached;
                (2, None)
            }
            Part::Publisher(Err(error)) => (2, Some(error)),
        };
        if place > 0 {
            source.abort();
        }
        if let Some(slot) = failed.get_mut(place) {
            *slot = error;
        }
    }
    // Fencing outranks everything: nobody may go on.
    let fenced = failed
        .iter()
        .position(|error| matches!(error, Some(ProducerError::Fenced(_))));
    let first = fenced.or_else(|| failed.iter().position(Option::is_some));
    match first
        .and_then(|place| failed.get_mut(place))
        .and_then(Option::take)
    {
        Some(error) => Err(error),
        None => Ok(outcome),
    }
}
