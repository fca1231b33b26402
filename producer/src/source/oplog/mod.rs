//! Reads `local.oplog.rs` of a replica set. A connection to one member is sufficient, for example
//! through a port-forward.
//!
//! This module only reads: one `find` and its `getMore`s on the oplog ([`Tail`]), single entries of
//! transactions by their time, the oldest and the newest entry, `hello`, and at start the
//! collections of `local`. Managed services allow all of these reads.
//!
//! # Modules
//!
//! - `tail` is the tailable cursor, which is reopened after faults
//! - `ends` reads the ends of the oplog, and entries next to a time
//! - `link` has the links between the entries of a chain

mod ends;
pub mod link;
mod tail;

use std::sync::Once;
use std::time::Duration;

use bson::{Document as Bson, RawDocumentBuf, Timestamp as BsonTimestamp, doc};
use mongodb::options::{
    CollectionOptions, CursorType, FindOneOptions, FindOptions, ReadConcern, ReadPreference,
    SelectionCriteria,
};
use mongodb::raw_batch_cursor::RawBatchCursor;
use mongodb::{Client, Collection};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::position::{OpTime, Position, Timestamp};
use oplog_relay_runtime::mongo::{self, REPLY_LIMIT, in_time};
use oplog_relay_runtime::retry::Backoff;

pub(in crate::source) use self::tail::STALLED_AFTER;
pub use self::tail::Tail;
use crate::error::ProducerError;
use crate::source::error::SourceError;
use crate::source::oplog::link::Link;

/// Time that a `getMore` waits at the server for the next entry.
const AWAIT: Duration = Duration::from_secs(1);
/// Maximum number of entries per reply; a reply ends at 16 MB in any case. It is large enough that the
/// network round trip matters little, and small enough that most replies stay in the processor's cache.
const BATCH_ENTRIES: u32 = 5_000;
/// Time limit of reads for which FerretDB scans its whole oplog, such as those by time.
const SCAN: Duration = Duration::from_secs(600);
/// Time limits of the attempts to read one entry by its time. A `mongod` answers at once, so a short
/// first limit detects a lost connection early; the last one is for servers that scan their whole
/// oplog.
const LOOKUPS: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(120), SCAN];
/// Guard of a warning that is logged once, because a full sync reads the newest entry often.
static WARNED: Once = Once::new();

/// The oplog of one replica set.
#[derive(Debug, Clone)]
pub struct Oplog {
    entries: Collection<RawDocumentBuf>,
}

impl Oplog {
    /// Creates a handle to the oplog that a client reaches. No request is sent yet.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            entries: client.database("local").collection("oplog.rs"),
        }
    }

    /// Returns the same oplog, read from the primary regardless of the connection string.
    fn on_primary(&self) -> Self {
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let options = CollectionOptions::builder().selection_criteria(primary);
        let database = self.entries.client().database("local");
        Self {
            entries: database.collection_with_options("oplog.rs", options.build()),
        }
    }

    /// Returns the time up to which a majority of the set has entries; `None` if the server does not
    /// report it.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    async fn majority(&self) -> Result<Option<Timestamp>, ProducerError> {
        let hello = mongo::hello(self.entries.client()).await;
        Ok(hello.map_err(ProducerError::Source)?.majority_known())
    }

    /// Checks that the source has an oplog.
    ///
    /// # Errors
    /// [`SourceError::NoOplog`] explains how to get one.
    pub async fn check(client: &Client) -> Result<(), ProducerError> {
        let database = client.database("local");
        let listed = database
            .list_collection_names()
            .filter(doc! { "name": "oplog.rs" });
        let names = in_time(REPLY_LIMIT, listed).await;
        let names = names.map_err(ProducerError::Source)?;
        if names.is_empty() {
            return Err(SourceError::NoOplog.into());
        }
        Ok(())
    }

    /// Returns time and term of the oldest entry.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; a read that fails because of a truncation (136) is retried a few
    /// times, and then by the next session.
    pub async fn oldest(&self) -> Result<Option<Position>, ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
        loop {
            match self.end(1).await {
                Err(error) if mongo::is_truncated(&error) && backoff.attempts() < 4 => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                result => return header(result.map_err(ProducerError::Source)?),
            }
        }
    }

    /// Returns time and term of the newest entry. A reverse scan does not stop before holes, so
    /// entries before the result may still become visible. It is used only if the server does not
    /// report its majority commit point.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn newest(&self) -> Result<Option<Position>, ProducerError> {
        let found = self.end(-1).await.map_err(ProducerError::Source)?;
        header(found)
    }

    async fn end(&self, direction: i32) -> mongodb::error::Result<Option<RawDocumentBuf>> {
        // No other field is read, because an entry may have 16 MB, and the oldest one is read often.
        let found = self.entries.find_one(doc! {}).projection(ends::fields());
        let found = match direction {
            // A plain read is in natural order already; FerretDB would read its whole oplog to sort it.
            1 => found,
            _ => found.sort(doc! { "$natural": direction }),
        };
        let limit = if direction == 1 { REPLY_LIMIT } else { SCAN };
        in_time(limit, found).await
    }

    /// Reads the link of the entry at an optime, without its operations. Returns `None` if the entry no
    /// longer exists, or if another entry has its time.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`ProducerError::Undecodable`] if the entry is damaged;
    /// [`ProducerError::Behind`] if the entry is missing although the oplog starts before it.
    pub async fn link(&self, at: OpTime) -> Result<Option<Link>, ProducerError> {
        let fields = Link::FIELDS.map(|field| (field.to_owned(), 1.into()));
        let projection = [("_id".to_owned(), 0.into())].into_iter().chain(fields);
        let Some(found) = self.find_at(at, Some(projection.collect())).await? else {
            return Ok(None);
        };
        let document = Document::new(found.as_bytes()).map_err(ProducerError::undecodable)?;
        let link = Link::read(document).map_err(ProducerError::undecodable)?;
        Ok((link.at == at).then_some(link))
    }

    /// Returns the bytes of the entry at an optime, or `None` as for [`Oplog::link`].
    ///
    /// # Errors
    /// The errors of [`Oplog::link`].
    pub async fn entry(&self, at: OpTime) -> Result<Option<Vec<u8>>, ProducerError> {
        let Some(found) = self.find_at(at, None).await? else {
            return Ok(None);
        };
        let Position { ts, term, .. } = position_of(found.as_bytes())?;
        Ok((OpTime { ts, term } == at).then(|| found.into_bytes()))
    }

    async fn find_at(
        &self,
        at: OpTime,
        projection: Option<Bson>,
    ) -> Result<Option<RawDocumentBuf>, ProducerError> {
        let options = FindOneOptions::builder()
            .read_concern(ReadConcern::majority())
            .projection(projection)
            .build();
        let filter = doc! { "ts": bson_timestamp(at.ts) };
        let look_up = || {
            let found = self.entries.find_one(filter.clone());
            found.with_options(options.clone())
        };
        let mut limits = LOOKUPS.into_iter();
        let found = loop {
            let limit = limits.next().unwrap_or(SCAN);
            match in_time(limit, look_up()).await {
                Err(error) if mongo::is_late(&error) && limit < SCAN => {
                    let reason = mongo::error_text(&error);
                    tracing::warn!(reason, ts = %at.ts, "reading an entry timed out, retrying");
                }
                found => break found.map_err(ProducerError::Source)?,
            }
        };
        // The query may have been sent to a member other than the one that the tail reads, and that
        // member may lag behind.
        if found.is_none() && self.oldest().await?.is_none_or(|oldest| oldest.ts <= at.ts) {
            return Err(ProducerError::Behind(at.ts));
        }
        Ok(found)
    }

    async fn open(&self, from: Timestamp) -> Result<RawBatchCursor, ProducerError> {
        let options = FindOptions::builder()
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(AWAIT)
            .batch_size(BATCH_ENTRIES)
            .read_concern(ReadConcern::majority())
            .build();
        let found = self
            .entries
            .find(at_or_after(from))
            .with_options(options)
            .batch();
        let found = in_time(SCAN, found).await;
        found.map_err(ProducerError::Source)
    }
}

/// Returns the position of the newest entry that a majority has, or of the newest entry if the
/// server does not report its majority commit point.
///
/// # Errors
/// [`ProducerError::Source`].
pub async fn newest_of_majority(client: &Client) -> Result<Option<Position>, ProducerError> {
    let hello = mongo::hello(client).await.map_err(ProducerError::Source)?;
    match hello.last_majority_write {
        Some(OpTime { ts, term }) => Ok(Some(Position { ts, term, ord: 0 })),
        None => {
            WARNED.call_once(|| {
                tracing::warn!(
                    "the source does not report its majority commit point; the newest entry is \
                     used instead"
                );
            });
            Oplog::new(client).newest().await
        }
    }
}

fn header(found: Option<RawDocumentBuf>) -> Result<Option<Position>, ProducerError> {
    found.map(|raw| ends::read(raw.as_bytes())).transpose()
}

fn at_or_after(from: Timestamp) -> Bson {
    doc! { "ts": { "$gte": bson_timestamp(from) } }
}

const fn bson_timestamp(ts: Timestamp) -> BsonTimestamp {
    BsonTimestamp {
        time: ts.seconds,
        increment: ts.increment,
    }
}

/// Reads time and term from an entry's bytes.
pub(crate) fn position_of(bytes: &[u8]) -> Result<Position, ProducerError> {
    let document = Document::new(bytes).map_err(ProducerError::undecodable)?;
    let entry = Entry::parse_any_operation(document)
        .map_err(|error| ProducerError::unreadable(document, &error))?;
    Ok(Position {
        ts: entry.ts,
        term: entry.term,
        ord: 0,
    })
}
