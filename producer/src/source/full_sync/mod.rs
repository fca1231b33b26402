//! A full sync: the documents that a source has, copied into the stream of its entries.
//!
//! # The seam
//!
//! Everything that goes to Kafka goes through one [`Seam`]: it hands on the batches of the tail, and
//! what it reads of the collections, in one order. It reads in turns: while reads are open, nothing of the
//! tail is handed on. So what is read after the position L was reached is sent before any entry
//! later than L, and no document can undo a newer entry. Between the turns the tail goes on: a full
//! sync outlives any oplog window as long as the tail keeps up.
//!
//! # Names
//!
//! A collection is read by its name and known by its UUID, and a name counts as it is at the
//! position of the tail. A start position is noted between two equal lists of collections. Later, a
//! name is known when the source told it before and after the tail went over one point. After each
//! read the collection is looked up again: where the name is another, the read is thrown away and
//! the tail goes past the rename first; where it is gone, its ranges are closed, for the tail has
//! the drop.
//!
//! # Order
//!
//! All collections are created (at the start position, ahead of the tail), then read, the largest
//! first, in ranges of `_id` by several readers. Each read is one query of some megabytes, so there is no
//! cursor to lose. Indexes follow the documents: when a collection is read, the tail goes past that
//! moment, and the indexes that the source names before and after it are sent. The tail's own index
//! builds of a collection are left out until then. Views come last. A capped collection
//! is read in its own order by one cursor in one turn; a time series as its buckets.
//!
//! # What is saved
//!
//! The plan, before anything else is sent; the last `_id` of a range with the record of its
//! document. A restart reads what is open and nothing else.

mod capped;
mod copies;
mod estimate;
mod finish;
pub(crate) mod interleave;
mod names;
mod range;
mod reader;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::Position;
use oplog_relay_core::state::State;

use crate::error::{Gap, ProducerError};
use crate::saved::checkpoint::Requests;
use crate::source::oplog::{Oplog, newest_of_majority};
use crate::telemetry::metrics::Metrics;

pub use crate::source::full_sync::interleave::Seam;
pub use copies::{Copies, Copy, parse_filter};
pub use reader::{Listed, SourceReader};

use estimate::Estimate;

/// Between two looks at collections that change while the start is noted.
const PAUSE: Duration = Duration::from_millis(200);
/// Looks at most.
const LOOKS: u32 = 50;

/// What is asked of a full sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Reads at once.
    pub readers: usize,
    /// Bytes of documents a second at most.
    pub rate: Option<u64>,
    /// Whether the stream ends with the full sync.
    pub ends: bool,
}

/// A full sync that is about to begin or to go on.
#[derive(Debug)]
pub struct FullSync {
    /// Whom to ask.
    pub source: SourceReader,
    /// What is to be copied.
    pub copies: Copies,
    /// Where the stream stands.
    pub position: Position,
    /// Whether the plan has still to be saved.
    pub is_new: bool,
    /// Which namespaces pass.
    pub filter: NamespaceFilter,
    /// How.
    pub options: Options,
    /// Where more is asked for, if somebody can.
    pub requests: Option<Requests>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Notes where the tail is to begin, and the collections that are there at that position: between
/// two equal lists.
///
/// # Errors
/// [`ProducerError::Usage`] for a source without an entry, or whose collections never rest.
pub async fn note_start(
    client: &Client,
    source: &SourceReader,
    filter: &NamespaceFilter,
) -> Result<(Position, Vec<Listed>), ProducerError> {
    let names = |listed: &[Listed]| -> Vec<_> {
        listed
            .iter()
            .map(|listed| (listed.ns.clone(), listed.ui))
            .collect()
    };
    for _ in 0..LOOKS {
        let before = source.list(filter).await?;
        let newest = newest_of_majority(client).await?.ok_or_else(|| {
            ProducerError::Usage(
                "the source's oplog is empty, so there is no position to begin a full sync at: \
                 write anything to the source first"
                    .to_owned(),
            )
        })?;
        let after = source.list(filter).await?;
        if names(&before) == names(&after) {
            return Ok((newest, after));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(ProducerError::Usage(
        "collections of the source come and go all the time, so no start of a full sync could be \
         noted. Leave those out that do (--exclude-namespaces)"
            .to_owned(),
    ))
}

impl FullSync {
    /// Plans a full sync of everything that passes, from the position that is noted.
    ///
    /// # Errors
    /// As [`note_start`].
    pub async fn plan(
        client: &Client,
        filter: &NamespaceFilter,
        options: Options,
        requests: Option<Requests>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ProducerError> {
        let source = SourceReader::new(client.clone()).await?;
        let (position, listed) = note_start(client, &source, filter).await?;
        let mut copies = Copies::default();
        for listed in listed {
            let size = source.size(&listed.ns).await;
            copies.add(Copy::planned(&listed, size));
        }
        let estimate = Estimate::make(&source, copies.iter(), position, options).await?;
        estimate.tell(copies.len(), position);
        Ok(Self {
            source,
            copies,
            position,
            is_new: true,
            filter: filter.clone(),
            options,
            requests,
            metrics,
        })
    }

    /// Goes on with what is saved.
    ///
    /// # Errors
    /// [`ProducerError::Refused`] for a record that cannot be read.
    pub async fn resume(
        client: &Client,
        position: Position,
        state: &State,
        filter: &NamespaceFilter,
        options: Options,
        (requests, metrics): (Option<Requests>, Arc<Metrics>),
    ) -> Result<Self, ProducerError> {
        let copies = Copies::read(state).map_err(ProducerError::Refused)?;
        if !copies.is_empty() {
            let (copies, ranges) = (copies.len(), state.ranges.len());
            tracing::info!(copies, open_ranges = ranges, "the full sync goes on");
        }
        Ok(Self {
            source: SourceReader::new(client.clone()).await?,
            copies,
            position,
            is_new: false,
            filter: filter.clone(),
            options,
            requests,
            metrics,
        })
    }
}

/// The time between the oldest entry and a position.
async fn window(client: &Client, position: Position) -> Result<Gap, ProducerError> {
    let oldest = Oplog::new(client).oldest().await?;
    let oldest = oldest.map_or(position.ts, |oldest| oldest.ts);
    Ok(Gap::between(oldest, position.ts))
}
