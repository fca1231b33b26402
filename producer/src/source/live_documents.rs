//! Reads the documents of updates from a live source by `_id`, and the documents before changes.
//!
//! A collection is read by its name, as MongoDB's change streams do. After each read its UUID is
//! checked: if the name no longer belongs to the collection of the entries, all its documents count
//! as gone.

use futures_util::{StreamExt, stream};
use mongodb::raw_batch_cursor::RawBatch;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, UNAUTHORIZED, error_code};
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::runtime::Handle;

use crate::error::ProducerError;
use crate::prepare::lookup::pre_image::{PreImageId, write_filter};
use crate::prepare::lookup::reply::Reply;
use crate::prepare::lookup::request::Request;
use crate::source::Batch;
use crate::source::error::SourceError;
use crate::source::full_sync::SourceReader;

/// Number of collections that are read concurrently.
const READS: usize = 2;
/// Number of bytes of replies after which the remaining requests get no reply.
const MOST_BYTES: usize = 16 << 20;

/// Reads documents from a thread that may block.
#[derive(Debug)]
pub struct LiveDocuments {
    reader: SourceReader,
    runtime: Handle,
    shutdown: Shutdown,
}

/// The result of checking the name of a collection on the source.
struct Named {
    /// True if the name belongs to the collection.
    is_its: bool,
    /// The `operationTime` of the reply.
    at: Option<Timestamp>,
}

impl LiveDocuments {
    /// Creates a reader that runs its queries on a runtime.
    #[must_use]
    pub const fn new(reader: SourceReader, runtime: Handle, shutdown: Shutdown) -> Self {
        Self {
            reader,
            runtime,
            shutdown,
        }
    }

    async fn read_all(
        &self,
        requests: &[Request],
        after: Timestamp,
    ) -> Result<Vec<Reply>, ProducerError> {
        let reads = requests.iter().map(|request| self.read_one(request, after));
        let mut reads = stream::iter(reads).buffered(READS);
        let (mut replies, mut bytes) = (Vec::new(), 0);
        while let Some(reply) = reads.next().await {
            let reply = reply?;
            bytes += reply.documents.len();
            replies.push(reply);
            if bytes >= MOST_BYTES {
                break;
            }
        }
        Ok(replies)
    }

    async fn read_one(&self, request: &Request, after: Timestamp) -> Result<Reply, ProducerError> {
        let found = self.find(request, after).await;
        let Some(ui) = request.ui else {
            return found;
        };
        // Another collection, or a view that cannot be read, may have the name by now.
        match self.named(&request.ns, ui).await? {
            Named { is_its: true, .. } => found,
            // Another member has answered, which may not have replicated the collection's creation
            // yet.
            Named { at: Some(at), .. } if at < after => found,
            Named { is_its: false, at } => Ok(Reply {
                at,
                ..Reply::default()
            }),
        }
    }

    /// Reads the documents of a request from the collection that has its name now.
    async fn find(&self, request: &Request, after: Timestamp) -> Result<Reply, ProducerError> {
        let from = Namespace::split(&request.ns);
        let found = self.read_listed(from, request.count(), after, |find| {
            request.write_filter(find);
        });
        found.await.map_err(|error| explained(error, &request.ns))
    }

    /// Reads documents of `config.system.preimages`.
    async fn find_before(
        &self,
        ids: &[PreImageId],
        after: Timestamp,
    ) -> Result<Reply, ProducerError> {
        let from = Namespace {
            db: "config",
            collection: "system.preimages",
        };
        let found = self.read_listed(from, ids.len(), after, |find| write_filter(ids, find));
        found.await.map_err(explained_before)
    }

    /// Reads the documents that a filter lists by their `_id`s, of which there are `count`.
    async fn read_listed(
        &self,
        from: Namespace<'_>,
        count: usize,
        after: Timestamp,
        write_filter: impl FnOnce(&mut DocumentBuilder<'_>),
    ) -> Result<Reply, ProducerError> {
        let mut command = Vec::new();
        let mut find = DocumentBuilder::start(&mut command);
        find.str("find", from.collection);
        write_filter(&mut find);
        // With a batch size above the number of documents, the server detects that nothing follows
        // and keeps no cursor.
        let most = i64::try_from(count).unwrap_or(i64::MAX);
        find.int64("batchSize", most.saturating_add(1));
        self.reader.write_read_concern(&mut find, after);
        find.finish();
        let found = self
            .reader
            .retry(REPLY_LIMIT, || self.reader.first_batch(from.db, &command));
        found.await?.map_or_else(|| Ok(Reply::default()), reply)
    }

    /// Checks whether a name belongs to the collection with this UUID.
    async fn named(&self, ns: &str, ui: CollectionUuid) -> Result<Named, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let mut command = Vec::new();
        let mut list = DocumentBuilder::start(&mut command);
        list.int32("listCollections", 1);
        list.nested("filter", kind::DOCUMENT, |filter| {
            filter.str("name", name);
        });
        list.finish();
        let listed = self
            .reader
            .retry(REPLY_LIMIT, || self.reader.first_batch(db, &command));
        let listed = listed.await.map_err(|error| explained(error, ns))?;
        let Some(listed) = listed else {
            return Ok(Named {
                is_its: false,
                at: None,
            });
        };
        let listed = Batch::Reply(listed);
        let at = listed
            .operation_time()
            .map_err(ProducerError::undecodable)?;
        let mut is_its = false;
        for described in listed.documents()? {
            let described = described.and_then(|described| is_described(described, name, ui));
            is_its |= described.map_err(ProducerError::undecodable)?;
        }
        Ok(Named { is_its, at })
    }
}

impl LiveDocuments {
    /// Reads documents by `_id`, as described at [`StoredDocuments::read`].
    ///
    /// # Errors
    /// The errors of [`StoredDocuments::read`].
    ///
    /// [`StoredDocuments::read`]: crate::prepare::lookup::StoredDocuments::read
    pub fn read(
        &self,
        requests: &[Request],
        after: Timestamp,
    ) -> Result<Vec<Reply>, ProducerError> {
        let reading = self.shutdown.unless(self.read_all(requests, after));
        let replies = self.runtime.block_on(reading);
        replies.ok_or(ProducerError::Interrupted)?
    }

    /// Reads documents before changes, as described at [`StoredDocuments::read_before`].
    ///
    /// # Errors
    /// The errors of [`StoredDocuments::read_before`].
    ///
    /// [`StoredDocuments::read_before`]: crate::prepare::lookup::StoredDocuments::read_before
    pub fn read_before(
        &self,
        ids: &[PreImageId],
        after: Timestamp,
    ) -> Result<Reply, ProducerError> {
        let reading = self.shutdown.unless(self.find_before(ids, after));
        let reply = self.runtime.block_on(reading);
        reply.ok_or(ProducerError::Interrupted)?
    }
}

/// Returns true if an element of the reply to `listCollections` describes this collection.
fn is_described(
    described: Document<'_>,
    name: &str,
    ui: CollectionUuid,
) -> Result<bool, Malformed> {
    let its_name = described.get("name")?.map(Element::string_bytes);
    if its_name.transpose()? != Some(name.as_bytes()) {
        return Ok(false);
    }
    let Some(info) = described.get("info")? else {
        return Ok(false);
    };
    match info.document()?.get("uuid")? {
        Some(uuid) => Ok(uuid.binary()?.bytes == ui.0),
        None => Ok(false),
    }
}

fn reply(batch: RawBatch) -> Result<Reply, ProducerError> {
    let batch = Batch::Reply(batch);
    let at = batch.operation_time().map_err(ProducerError::undecodable)?;
    let mut documents = Vec::with_capacity(batch.size());
    for document in batch.documents()? {
        let document = document.map_err(ProducerError::undecodable)?;
        documents.extend_from_slice(document.as_bytes());
    }
    Ok(Reply {
        documents,
        is_cut: batch.is_cut()?,
        at,
    })
}

/// Returns an error that names the missing privilege, if that is the cause.
fn explained(error: ProducerError, ns: &str) -> ProducerError {
    match error {
        ProducerError::Source(error) if error_code(&error) == Some(UNAUTHORIZED) => {
            let db = Namespace::split(ns).db;
            let ns = ns.to_owned();
            SourceError::CurrentLookupForbidden {
                ns,
                db: db.to_owned(),
            }
            .into()
        }
        error => error,
    }
}

/// Returns an error that names the missing privilege on the documents before changes, if that is the
/// cause.
fn explained_before(error: ProducerError) -> ProducerError {
    match error {
        ProducerError::Source(error) if error_code(&error) == Some(UNAUTHORIZED) => {
            SourceError::BeforeLookupForbidden.into()
        }
        error => error,
    }
}
