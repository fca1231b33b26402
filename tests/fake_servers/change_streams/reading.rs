//! The entries that the producer makes from the events of a server.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use oplog_producer::config::arguments::{Arguments, Command};
use oplog_producer::config::{InspectConfig, StreamConfig};
use oplog_producer::error::ProducerError;
use oplog_producer::source::change_stream::EventBatch;
use oplog_producer::source::origin::{Origin, Resume};
use oplog_producer::source::{QUEUE_BATCHES, SourceEvent, StartAt};
use oplog_relay_core::position::{EntryId, Position, Timestamp};
use oplog_relay_core::resume::ResumePoint;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;

/// The longest time that a stream may take.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// The start of a stream.
#[derive(Debug, Clone)]
pub(super) struct Begin {
    pub(super) start: StartAt,
    pub(super) point: Option<ResumePoint>,
}

impl Begin {
    /// Returns the start at the first event of any stream.
    pub(super) const fn first() -> Begin {
        Begin {
            start: StartAt::At(Timestamp::new(1, 1)),
            point: None,
        }
    }
}

/// An entry, and the position that is saved after it.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) id: EntryId,
    pub(super) entry: Vec<u8>,
    pub(super) point: ResumePoint,
}

impl Read {
    /// Returns the start after the entry.
    pub(super) fn after(&self) -> Begin {
        let EntryId { ts, ord } = self.id;
        let position = Position {
            ts,
            term: -1,
            ord: ord + 1,
        };
        Begin {
            start: StartAt::After(position),
            point: Some(self.point.clone()),
        }
    }
}

/// The result of reading a stream until it has caught up.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) entries: Vec<Read>,
    /// The last position without an entry, with its point.
    pub(super) high_water: Option<(Position, ResumePoint)>,
}

impl Reading {
    fn take(&mut self, batch: &EventBatch) -> Result<()> {
        for read in batch.iter() {
            let read = read?;
            self.entries.push(Read {
                id: read.id,
                entry: read.entry.as_bytes().to_vec(),
                point: ResumePoint::new(read.point.token, read.point.commands.to_vec()),
            });
            self.high_water = None;
        }
        if let Some(reading) = batch.high_water()? {
            let point = reading.point;
            let point = ResumePoint::new(point.token, point.commands.to_vec());
            self.high_water = Some((reading.position, point));
        }
        Ok(())
    }
}

/// Returns the configuration of a stream with more flags.
pub(super) fn config(uri: &str, more: &[&str]) -> Result<StreamConfig> {
    let common = [
        "oplog-producer",
        "inspect",
        "--source-name=cs",
        "--source",
        uri,
    ];
    let arguments = Arguments::try_parse_from(common.iter().chain(more))?;
    let Command::Inspect(arguments) = arguments.command else {
        bail!("another command");
    };
    Ok(InspectConfig::check(&arguments)?.stream)
}

/// The end of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The stream has caught up.
    CaughtUp,
    /// At least that many entries were read, whether or not the stream has caught up in between.
    Entries(usize),
    /// At least that many entries were read, or the stream has caught up.
    EntriesOrCaughtUp(usize),
}

/// Reads a stream until an end.
pub(super) async fn read(
    config: &StreamConfig,
    begin: Begin,
    until: Until,
) -> Result<Reading, ProducerError> {
    let origin = Box::pin(Origin::of(config)).await?;
    let shutdown = Shutdown::manual();
    let (events_in, mut events) = mpsc::channel(QUEUE_BATCHES);
    let resume = Resume {
        open: None,
        point: begin.point,
    };
    let feeding = origin.feed(begin.start, resume, events_in, shutdown.clone(), |_| ());
    let reading = async {
        let mut reading = Reading::default();
        while let Some(event) = events.recv().await {
            match event {
                SourceEvent::Events(batch) => reading.take(&batch).context("a batch")?,
                SourceEvent::CaughtUp if !matches!(until, Until::Entries(_)) => break,
                _ => {}
            }
            if let Until::Entries(enough) | Until::EntriesOrCaughtUp(enough) = until
                && reading.entries.len() >= enough
            {
                break;
            }
        }
        shutdown.trigger();
        drop(events);
        anyhow::Ok(reading)
    };
    let both = Box::pin(async { tokio::join!(reading, feeding) });
    let both = tokio::time::timeout(LIMIT, both).await;
    let (reading, fed) = both.expect("the stream delivers the entries in time");
    fed?;
    Ok(reading.expect("every batch can be read"))
}
