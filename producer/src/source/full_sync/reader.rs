//! Queries to the source for the documents of a collection.

use std::time::Duration;

use bson::{Document as Typed, RawDocumentBuf};
use futures_util::StreamExt;
use mongodb::Client;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::mongo::{self, READ, in_time};
use oplog_relay_runtime::retry::Backoff;

use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::oplog::newest_of_majority;

pub(super) type Driver<T> = mongodb::error::Result<T>;

/// Maximum number of retries of a query before the session fails.
const RETRIES: u32 = 5;

/// A reader of one live source; cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceReader {
    client: Client,
    /// True if the server supports causally consistent reads (`afterClusterTime`), as every `mongod`
    /// of a replica set does.
    causal: bool,
}

impl SourceReader {
    /// Creates a reader that uses a client.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn new(client: Client) -> Result<Self, ProducerError> {
        let hello = mongo::hello(&client).await.map_err(ProducerError::Source)?;
        let causal = hello.last_majority_write.is_some();
        Ok(Self { client, causal })
    }

    /// Creates a reader of a source that has change streams. Every such server supports causally
    /// consistent reads.
    #[must_use]
    pub const fn causal(client: Client) -> Self {
        let causal = true;
        Self { client, causal }
    }

    /// Returns the client of the reader.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the position of the newest entry that a majority has, or of the newest entry if the
    /// server does not report its majority commit point.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn newest(&self) -> Result<Option<Position>, ProducerError> {
        newest_of_majority(&self.client).await
    }

    /// Returns the next documents of a query on `_id`, in the order of `_id`. The read includes
    /// every write up to the time `from`. There may be fewer documents than `limit`: a server ends
    /// a reply before a document for which it has no room
    /// ([`Batch::is_cut`](crate::source::Batch::is_cut)).
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn documents(
        &self,
        ns: &str,
        query: &[u8],
        filter: Option<&[u8]>,
        limit: u32,
        from: Timestamp,
    ) -> Result<Option<RawBatch>, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let mut command = Vec::new();
        let mut find = DocumentBuilder::start(&mut command);
        find.str("find", name);
        match filter {
            None => drop(find.raw("filter", kind::DOCUMENT, query)),
            Some(filter) => find.nested("filter", kind::DOCUMENT, |both| {
                both.nested("$and", kind::ARRAY, |list| {
                    list.raw("0", kind::DOCUMENT, query)
                        .raw("1", kind::DOCUMENT, filter);
                });
            }),
        }
        find.nested("sort", kind::DOCUMENT, |sort| {
            sort.int32("_id", 1);
        });
        // With a batch size above the limit, the server detects that nothing follows and keeps no
        // cursor. With `singleBatch` it would not report whether it omitted documents.
        find.int64("limit", limit.into())
            .int64("batchSize", i64::from(limit) + 1);
        self.write_read_concern(&mut find, from);
        find.finish();
        self.retry(READ, || self.first_batch(db, &command)).await
    }

    /// Opens a cursor on the documents of a collection that match a filter, in natural order.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn natural(
        &self,
        ns: &str,
        filter: Option<&[u8]>,
        limit: u32,
        from: Timestamp,
    ) -> Result<RawBatchCursor, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let mut command = Vec::new();
        let mut find = DocumentBuilder::start(&mut command);
        find.str("find", name);
        if let Some(filter) = filter {
            find.raw("filter", kind::DOCUMENT, filter);
        }
        find.nested("sort", kind::DOCUMENT, |sort| {
            sort.int32("$natural", 1);
        });
        find.int64("batchSize", limit.into());
        self.write_read_concern(&mut find, from);
        find.finish();
        self.retry(READ, || self.cursor(db, &command, Some(limit)))
            .await
    }

    pub(super) fn write(
        &self,
        typed: &Typed,
        from: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), ProducerError> {
        let typed = typed.to_vec().map_err(|error| {
            let reason = error.to_string();
            EntryFault::Query { reason }
        })?;
        let typed = Document::new(&typed).map_err(ProducerError::undecodable)?;
        let mut command = DocumentBuilder::start(out);
        for element in typed.elements() {
            command.element(element.map_err(ProducerError::undecodable)?);
        }
        self.write_read_concern(&mut command, from);
        command.finish();
        Ok(())
    }

    pub(in crate::source) fn write_read_concern(
        &self,
        command: &mut DocumentBuilder<'_>,
        from: Timestamp,
    ) {
        command.nested("readConcern", kind::DOCUMENT, |concern| {
            concern.str("level", "majority");
            if self.causal {
                concern.raw("afterClusterTime", kind::TIMESTAMP, &from.to_le_bytes());
            }
        });
    }

    async fn cursor(
        &self,
        db: &str,
        command: &[u8],
        batch_size: Option<u32>,
    ) -> Driver<RawBatchCursor> {
        let command = RawDocumentBuf::from_bytes(command.to_vec())?;
        let database = self.client.database(db);
        let mut run = database.run_raw_cursor_command(command);
        if let Some(criteria) = self.client.selection_criteria() {
            run = run.selection_criteria(criteria.clone());
        }
        if let Some(batch_size) = batch_size {
            run = run.batch_size(batch_size);
        }
        run.batch().await
    }

    pub(in crate::source) async fn first_batch(
        &self,
        db: &str,
        command: &[u8],
    ) -> Driver<Option<RawBatch>> {
        let mut cursor = self.cursor(db, command, None).await?;
        cursor.next().await.transpose()
    }

    /// Runs a query within `limit`, and retries it a few times after transient errors.
    pub(in crate::source) async fn retry<T, F>(
        &self,
        limit: Duration,
        query: impl Fn() -> F,
    ) -> Result<T, ProducerError>
    where
        F: Future<Output = Driver<T>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let asked = async {
            loop {
                match query().await {
                    Err(error) if mongo::is_transient(&error) && backoff.attempts() < RETRIES => {
                        tracing::debug!(
                            reason = mongo::error_text(&error),
                            "a query to the source failed, retrying"
                        );
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                    answer => return answer,
                }
            }
        };
        in_time(limit, asked).await.map_err(ProducerError::Source)
    }
}
