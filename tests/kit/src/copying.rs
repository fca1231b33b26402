//! A full sync in this process: the source's part of the producer, without Kafka.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use oplog_producer::config;
use oplog_producer::encode::Encoder;
use oplog_producer::encode::chunk::{Chunk, RecordHeader};
use oplog_producer::error::ProducerError;
use oplog_producer::prepare::route::Router;
use oplog_producer::prepare::topics::Topics;
use oplog_producer::source::full_sync::{Attached, FullSync, Options, check_interval};
use oplog_producer::source::origin::{Origin, feed_full_sync};
use oplog_producer::source::{QUEUE_BATCHES, SourceEvent, StartAt};
use oplog_producer::telemetry::metrics::Metrics;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::Format;
use oplog_relay_core::position::{EntryId, Position, Timestamp};
use oplog_relay_core::state::{History, State};
use oplog_relay_runtime::config::Secret;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The saved state, as a Kafka transaction would leave it.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// The saved position.
    pub position: Option<Position>,
    /// Number of entries of the full sync at the position.
    pub reads: u32,
    /// The content of the state topic.
    pub state: State,
}

/// The entries produced so far, in order.
#[derive(Debug, Default)]
struct Out {
    entries: Vec<(EntryId, Vec<u8>)>,
    saved: Saved,
}

/// A running full sync, with the tail beside it.
#[derive(Debug)]
pub struct Copying {
    out: Arc<Mutex<Out>>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    parts: JoinSet<Result<(), ProducerError>>,
}

impl Copying {
    /// Starts a full sync, or resumes a saved one.
    ///
    /// # Errors
    /// Those of the producer, unchanged.
    pub async fn start(uri: &str, saved: Saved, readers: usize) -> Result<Copying> {
        let origin = Origin::open(&config::Origin::Live(Secret::new(uri)), Some("rs0")).await?;
        let client = origin.client().context("the source is not live")?;
        let (metrics, shutdown) = (Arc::new(Metrics::new()?), Shutdown::manual());
        let filter = NamespaceFilter::default();
        let options = Options {
            readers,
            // With a given rate the copy does not read the source to measure one; a server that
            // holds its replies would block such a read.
            rate: Some(u64::MAX),
            ends: false,
            check_every: check_interval(1),
        };
        let attached = Attached {
            requests: None,
            metrics: Arc::clone(&metrics),
        };
        let sync = match saved.position {
            None => FullSync::plan(client, &filter, options, attached).await?,
            Some(position) => {
                FullSync::resume(client, position, &saved.state, &filter, options, attached).await?
            }
        };
        let start = StartAt::After(sync.position);
        let topics = Topics::Nowhere {
            state_topic: "__cdc.state.rs0".to_owned(),
            partitions: 4,
        };
        let router =
            Router::new("cdc", filter, saved.state.clone()).with_collections(origin.collections());
        let transactions = origin.transactions(start, History::default(), shutdown.clone());
        let held: Vec<CollectionUuid> = sync.copies.held().collect();
        let end = Some(sync.position);
        let encoder = Encoder::new("rs0", Format::Bson, router, topics, end, None, transactions)
            .copying(saved.reads, held);
        let (events_in, events) = mpsc::channel(QUEUE_BATCHES);
        let out = Arc::new(Mutex::new(Out {
            saved,
            ..Out::default()
        }));
        let (into, counted) = (Arc::clone(&out), Arc::clone(&metrics));
        let mut parts = JoinSet::new();
        parts.spawn_blocking(move || encode(encoder, events, &into, &counted));
        parts.spawn(feed_full_sync(
            sync,
            start,
            events_in,
            shutdown.clone(),
            Duration::from_secs(60),
            |_: Option<&str>| (),
        ));
        Ok(Copying {
            out,
            metrics,
            shutdown,
            parts,
        })
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if everything was copied.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let status = self.metrics.full_sync.status();
        status.is_some_and(|status| status["running"] == false)
    }

    /// Returns true if everything up to that time was produced.
    #[must_use]
    pub fn has_reached(&self, ts: Timestamp) -> bool {
        let position = self.out().saved.position;
        position.is_some_and(|position| position.ts >= ts)
    }

    /// Returns the number of entries produced so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.out().entries.len()
    }

    /// Stops, and returns the produced entries and the saved state.
    ///
    /// # Errors
    /// Those of the producer.
    pub async fn stop(mut self) -> Result<(Vec<(EntryId, Vec<u8>)>, Saved)> {
        self.shutdown.trigger();
        while let Some(ended) = self.parts.join_next().await {
            ended??;
        }
        Ok(self.take())
    }

    /// Waits for the error that ends the full sync, and returns it with the produced entries and
    /// the saved state.
    ///
    /// # Errors
    /// The full sync ended without an error.
    pub async fn failure(mut self) -> Result<(ProducerError, Vec<(EntryId, Vec<u8>)>, Saved)> {
        let mut failure = None;
        while let Some(ended) = self.parts.join_next().await {
            failure = ended?.err().or(failure);
        }
        let (entries, saved) = self.take();
        Ok((
            failure.context("the full sync ended without an error")?,
            entries,
            saved,
        ))
    }

    fn take(&self) -> (Vec<(EntryId, Vec<u8>)>, Saved) {
        let mut out = self.out();
        (std::mem::take(&mut out.entries), out.saved.clone())
    }
}

fn encode(
    mut encoder: Encoder,
    mut events: mpsc::Receiver<SourceEvent>,
    out: &Mutex<Out>,
    metrics: &Metrics,
) -> Result<(), ProducerError> {
    let mut chunk = Chunk::default();
    let mut take = |chunk: &mut Chunk| {
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        out.take(chunk);
        if let Some(position) = chunk.reached.position {
            metrics.committed(position, 0, false, Duration::ZERO);
        }
        chunk.clear();
        Ok(())
    };
    while let Some(event) = events.blocking_recv() {
        match event {
            SourceEvent::Batch(batch) => encoder.encode(&batch, &mut chunk, &mut take)?,
            SourceEvent::Copied(copied) => encoder.copy(&copied, &mut chunk, &mut take)?,
            SourceEvent::Events(_)
            | SourceEvent::Earlier(_)
            | SourceEvent::Idle
            | SourceEvent::CaughtUp => {}
            SourceEvent::End => break,
        }
        encoder.complete(&mut chunk);
        take(&mut chunk)?;
    }
    Ok(())
}

impl Out {
    fn take(&mut self, chunk: &mut Chunk) {
        for record in &chunk.records {
            let value = chunk.bytes(&record.value);
            match &record.header {
                Some(RecordHeader { value: id, .. }) => {
                    let id = String::from_utf8_lossy(chunk.bytes(id));
                    let id = EntryId::parse_header(&id).expect("an id").id;
                    self.entries.push((id, value.to_vec()));
                }
                None => {
                    let key = record.key.as_ref().map(|key| chunk.bytes(key));
                    let key = String::from_utf8_lossy(key.unwrap_or_default());
                    let value = Some(value).filter(|value| !value.is_empty());
                    self.saved.state.apply(&key, value).expect("a state record");
                }
            }
        }
        if let Some(barrier) = &chunk.barrier {
            let entry = chunk.bytes(&barrier.entry).to_vec();
            self.entries.push((barrier.id, entry));
        }
        self.saved.position = chunk.reached.position.or(self.saved.position);
        self.saved.reads = chunk.reached.reads;
    }
}
