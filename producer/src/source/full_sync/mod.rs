//! A full sync: the documents of a source, copied into the stream of its entries.
//!
//! # Interleaving
//!
//! Everything that goes to Kafka passes through one [`Interleaving`], which puts the batches of the
//! tail and the reads of the collections into one order. They take turns: while reads are open, no
//! entry of the tail is passed on. So a document that was read after the tail had reached the
//! position L is sent before any entry later than L, and no document can overwrite a newer entry.
//! Between the turns of the reads the tail continues, so a full sync may take longer than any oplog
//! window as long as the tail keeps up.
//!
//! # Names
//!
//! A collection is read by its name and identified by its UUID. The name that counts is the one at the
//! position of the tail. A start position is read between two equal lists of collections. Later, a
//! name is known if the source reports the same one before and after the tail has caught up. After
//! each read the collection is looked up again: if it was renamed, the read is discarded and the
//! tail passes the rename first; if it is gone, its ranges are closed, because the tail contains
//! the drop.
//!
//! # Order
//!
//! All collections are created (at the start position, before the tail), then read, the largest
//! first, in ranges of `_id` by several readers. Each read is one query of some megabytes, so no
//! cursor can be lost. Indexes follow the documents: when a collection has been read, its indexes
//! are listed before and after the tail has caught up, and are sent if both lists are equal. Until
//! then, the index builds in the tail are skipped for this collection. Views come last. A capped
//! collection is read in natural order by one cursor in one turn; a time series as its buckets.
//!
//! # Saved state
//!
//! The plan is saved before anything else is sent; the last `_id` of a range is saved with the record
//! of its document. A restart reads only the ranges that are still open. A capped collection whose
//! copy is incomplete is read from its beginning again.
//!
//! # Modules
//!
//! - `interleave` puts the tail and the reads into one order
//! - `copies` has the collections that are still to be copied; `range` has their ranges of `_id`,
//!   and `names` their names at the position of the tail
//! - `reader` sends the queries for documents, `listing` those for the collections, and `ids` those for
//!   the ends of ranges; `capped` reads capped collections
//! - `finish` ends a copy with its indexes and views
//! - `requests` takes requests for copies while the stream runs; `rejected` has the reasons why a
//!   request is rejected
//! - `estimate` estimates the duration

mod capped;
mod copies;
mod estimate;
mod finish;
mod ids;
pub(crate) mod interleave;
mod listing;
mod names;
mod range;
mod reader;
pub mod rejected;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::Position;
use oplog_relay_core::state::State;

use crate::error::ProducerError;
use crate::position_lost::Gap;
use crate::saved::checkpoint::Requests;
use crate::saved::error::SavedError;
use crate::source::error::SourceError;
use crate::source::oplog::{Oplog, newest_of_majority};
use crate::telemetry::metrics::Metrics;

pub use crate::source::full_sync::interleave::Interleaving;
pub use copies::{Copies, Copy, parse_filter};
pub use listing::Listed;
pub use reader::SourceReader;

use estimate::Estimate;

/// Pause before the start is determined again, if the collections have changed meanwhile.
const PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of attempts to determine the start.
const ATTEMPTS: u32 = 50;

/// The options of a full sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Number of concurrent reads.
    pub readers: usize,
    /// Maximum number of bytes of documents per second.
    pub rate: Option<u64>,
    /// True if the stream ends with the full sync.
    pub ends: bool,
    /// Interval between two checks for requests and of the oplog window.
    pub check_every: Duration,
}

/// Interval between two checks for requests and of the oplog window.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Number of sources of one program that are checked at this interval. With more sources each one is
/// checked less often, because a check opens a client of Kafka.
const SOURCES_CHECKED: usize = 10;

/// Returns the interval between two checks of each of that many sources.
#[must_use]
pub fn check_interval(sources: usize) -> Duration {
    let share = sources.div_ceil(SOURCES_CHECKED).max(1);
    CHECK_INTERVAL * u32::try_from(share).unwrap_or(u32::MAX)
}

/// A full sync that starts or resumes.
#[derive(Debug)]
pub struct FullSync {
    /// Reader of the source.
    pub source: SourceReader,
    /// The copies that are not complete.
    pub copies: Copies,
    /// Position of the stream.
    pub position: Position,
    /// True if the plan is not saved yet.
    pub is_new: bool,
    /// Filter of the namespaces to read.
    pub filter: NamespaceFilter,
    /// The options.
    pub options: Options,
    /// The state topic with requests for further copies, if it is read.
    pub requests: Option<Requests>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
}

/// Determines the start position of the tail, and the collections that exist at that position. The
/// position is read between two equal lists of collections.
///
/// # Errors
/// [`SourceError`] for a source without an entry, or whose collections change continuously;
/// [`ProducerError::Source`].
pub async fn determine_start(
    client: &Client,
    source: &SourceReader,
    filter: &NamespaceFilter,
) -> Result<CopyStart, ProducerError> {
    let names = |listed: &[Listed]| -> Vec<_> {
        listed
            .iter()
            .map(|listed| (listed.ns.clone(), listed.ui))
            .collect()
    };
    for _ in 0..ATTEMPTS {
        let before = source.list(filter).await?;
        let newest = newest_of_majority(client)
            .await?
            .ok_or(SourceError::OplogEmpty)?;
        let after = source.list(filter).await?;
        if names(&before) == names(&after) {
            return Ok(CopyStart {
                position: newest,
                listed: after,
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(SourceError::CollectionsChange.into())
}

/// The start position of a full sync, and the collections at that position.
#[derive(Debug)]
pub struct CopyStart {
    /// The position.
    pub position: Position,
    /// The collections.
    pub listed: Vec<Listed>,
}

/// The parts of the process with which a full sync communicates.
#[derive(Debug)]
pub struct Attached {
    /// The requests for copies that arrive while the stream runs; `None` if they are not read.
    pub requests: Option<Requests>,
    /// The metrics that it updates.
    pub metrics: Arc<Metrics>,
}

impl FullSync {
    /// Plans a full sync of everything that the filter selects, from the current position.
    ///
    /// # Errors
    /// The errors of [`determine_start`].
    pub async fn plan(
        client: &Client,
        filter: &NamespaceFilter,
        options: Options,
        attached: Attached,
    ) -> Result<Self, ProducerError> {
        let source = SourceReader::new(client.clone()).await?;
        let CopyStart { position, listed } = determine_start(client, &source, filter).await?;
        let mut copies = Copies::default();
        for listed in listed {
            let size = source.size(&listed.ns).await;
            copies.add(Copy::planned(&listed, size));
        }
        let estimate = Estimate::make(&source, copies.iter(), position, options).await?;
        estimate.log(copies.len(), position);
        Ok(Self {
            source,
            copies,
            position,
            is_new: true,
            filter: filter.clone(),
            options,
            requests: attached.requests,
            metrics: attached.metrics,
        })
    }

    /// Resumes the saved full sync.
    ///
    /// # Errors
    /// [`SavedError::Copies`] for a record that cannot be read; [`ProducerError::Source`].
    pub async fn resume(
        client: &Client,
        position: Position,
        state: &State,
        filter: &NamespaceFilter,
        options: Options,
        attached: Attached,
    ) -> Result<Self, ProducerError> {
        let copies = Copies::read(state).map_err(|reason| SavedError::Copies { reason })?;
        if !copies.is_empty() {
            let (copies, ranges) = (copies.len(), state.ranges.len());
            tracing::info!(copies, open_ranges = ranges, "the full sync resumes");
        }
        Ok(Self {
            source: SourceReader::new(client.clone()).await?,
            copies,
            position,
            is_new: false,
            filter: filter.clone(),
            options,
            requests: attached.requests,
            metrics: attached.metrics,
        })
    }
}

/// Returns the time between the oldest entry and a position.
async fn window(client: &Client, position: Position) -> Result<Gap, ProducerError> {
    let oldest = Oplog::new(client).oldest().await?;
    let oldest = oldest.map_or(position.ts, |oldest| oldest.ts);
    Ok(Gap::between(oldest, position.ts))
}
