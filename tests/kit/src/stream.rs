//! Reads a source with the producer's own parts, up to the chunks that would be written to Kafka.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use oplog_producer::config;
use oplog_producer::encode::Encoder;
use oplog_producer::encode::chunk::{Chunk, RecordHeader, TransactionCounts};
use oplog_producer::error::ProducerError;
use oplog_producer::prepare::route::Router;
use oplog_producer::prepare::topics::Topics;
use oplog_producer::source::origin::{Origin, Resume};
use oplog_producer::source::{QUEUE_BATCHES, SourceEvent, StartAt};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::Format;
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::state::{History, State};
use oplog_relay_runtime::config::Secret;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;

use crate::stub::Server;

/// The start of a stream: its position and saved state.
#[derive(Debug, Clone)]
pub struct Begin {
    /// The position.
    pub start: StartAt,
    /// The history that was saved with a position.
    pub history: History,
    /// The routing table that was saved.
    pub state: State,
}

impl Begin {
    /// Returns the start at the oldest entry.
    #[must_use]
    pub fn oldest() -> Begin {
        Begin::at(StartAt::Oldest)
    }

    /// Returns a start at that position, with nothing saved.
    #[must_use]
    pub fn at(start: StartAt) -> Begin {
        Begin {
            start,
            history: History::default(),
            state: State::default(),
        }
    }

    /// Returns a start at a saved position.
    #[must_use]
    pub fn after(end: &End) -> Begin {
        Begin {
            start: StartAt::After(end.position),
            history: end.history,
            state: end.state.clone(),
        }
    }
}

/// The end of a chunk.
#[derive(Debug, Clone)]
pub struct End {
    /// The position to save.
    pub position: Position,
    /// The history that is saved with it.
    pub history: History,
    /// The routing table that is saved with it.
    pub state: State,
    /// Number of records up to here.
    pub records: usize,
}

/// A record of a data topic: topic and partition, its entry's id and bytes.
pub type Record = (String, i32, EntryId, Vec<u8>);

/// The result of reading a source.
#[derive(Debug, Default)]
pub struct Stream {
    /// The records, in the order in which they were encoded.
    pub records: Vec<Record>,
    /// The ends of all chunks.
    pub ends: Vec<End>,
    /// The transaction counts.
    pub counts: TransactionCounts,
    topics: Vec<String>,
    state: State,
}

impl Stream {
    /// Tails a server until it has no more entries.
    ///
    /// # Errors
    /// Those of the producer, unchanged.
    pub async fn live(server: &Server, begin: Begin) -> Result<Stream> {
        let uri = config::Origin::Live(Secret::new(server.uri()));
        Stream::read(uri, begin).await
    }

    /// Reads the entries as a dump.
    ///
    /// # Errors
    /// As [`Stream::live`].
    pub async fn dump(entries: &[u8], begin: Begin) -> Result<Stream> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(entries)?;
        let path = file.path().to_str().context("the path is not UTF-8")?;
        Stream::read(config::Origin::Dump(path.to_owned()), begin).await
    }

    async fn read(origin: config::Origin, begin: Begin) -> Result<Stream> {
        let origin = Origin::open(&origin, Some("rs0")).await?;
        let shutdown = Shutdown::manual();
        let Begin {
            start,
            history,
            state,
        } = begin;
        let end = match start {
            StartAt::After(position) => Some(position),
            _ => None,
        };
        let router = Router::new("cdc", NamespaceFilter::default(), state.clone())
            .with_collections(origin.collections());
        let topics = Topics::Nowhere {
            state_topic: "__cdc.state.rs0".to_owned(),
            partitions: 4,
        };
        let transactions = origin.transactions(start, history, shutdown.clone());
        let format = Format::Bson;
        let encoder = Encoder::new("rs0", format, router, topics, end, None, transactions);
        let (events_in, events) = mpsc::channel(QUEUE_BATCHES);
        let encoding = tokio::task::spawn_blocking(move || encode(encoder, events, state));
        let encoded = async {
            let stream = encoding.await;
            shutdown.trigger();
            stream
        };
        let resume = Resume {
            open: history.open,
            point: None,
        };
        let feeding = origin.feed(start, resume, events_in, shutdown.clone(), |_| ());
        let (stream, fed) = Box::pin(async { tokio::join!(encoded, feeding) }).await;
        fed?;
        Ok(stream??)
    }

    fn take(&mut self, chunk: &mut Chunk) {
        let new = chunk.new_topics.drain(..);
        self.topics.extend(new.map(|topic| topic.name));
        for record in &chunk.records {
            if record.topic.0 == 0 {
                let key = record.key.as_ref().map(|key| chunk.bytes(key));
                let key = String::from_utf8_lossy(key.unwrap_or_default());
                let value = Some(chunk.bytes(&record.value)).filter(|value| !value.is_empty());
                self.state.apply(&key, value).expect("a state record");
            }
            if let Some(RecordHeader { value: id, .. }) = &record.header {
                let topic = self.topics[record.topic.0].clone();
                let id = String::from_utf8_lossy(chunk.bytes(id));
                let id = EntryId::parse_header(&id).expect("an id").id;
                let value = chunk.bytes(&record.value).to_vec();
                self.records.push((topic, record.partition, id, value));
            }
        }
        self.counts += chunk.counts.transactions;
        if let Some(position) = chunk.reached.position {
            self.ends.push(End {
                position,
                history: chunk.reached.history,
                state: self.state.clone(),
                records: self.records.len(),
            });
        }
        chunk.clear();
    }
}

fn encode(
    mut encoder: Encoder,
    mut events: mpsc::Receiver<SourceEvent>,
    state: State,
) -> Result<Stream, ProducerError> {
    let mut stream = Stream {
        state,
        ..Stream::default()
    };
    let mut chunk = Chunk::default();
    while let Some(event) = events.blocking_recv() {
        match event {
            SourceEvent::Batch(batch) => {
                encoder.encode(&batch, &mut chunk, &mut |chunk| {
                    stream.take(chunk);
                    Ok(())
                })?;
                stream.take(&mut chunk);
            }
            SourceEvent::Events(batch) => {
                encoder.encode_events(&batch, &mut chunk, &mut |chunk| {
                    stream.take(chunk);
                    Ok(())
                })?;
                stream.take(&mut chunk);
            }
            SourceEvent::Earlier(batch) => encoder.recall(&batch)?,
            SourceEvent::Copied(_) | SourceEvent::Idle => {}
            SourceEvent::CaughtUp | SourceEvent::End => break,
        }
    }
    Ok(stream)
}
