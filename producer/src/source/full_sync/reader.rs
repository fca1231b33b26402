//! Queries to the source: its collections, and ranges of their documents.

use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document as Typed, RawDocumentBuf, doc};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::Client;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::CopyKind;
use oplog_relay_runtime::mongo::{self, READ, REPLY_LIMIT, error_code, in_time, is_set};
use oplog_relay_runtime::retry::Backoff;

use super::range::Id;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::Batch;
use crate::source::error::SourceError;
use crate::source::oplog::newest_of_majority;

type Driver<T> = mongodb::error::Result<T>;

/// Error code NamespaceNotFound: the collection does not exist.
const NO_COLLECTION: i32 = 26;
/// Error codes of a server that does not know an operator or the name of a type.
const UNKNOWN: [i32; 4] = [2, 59, 238, 40324];
/// Maximum number of retries of a query before the session fails.
const RETRIES: u32 = 5;
/// Names of the BSON types in queries, in the sort order of the types. Types of one group are
/// compared by value. Arrays and regular expressions are left out, because a server does not store
/// them as `_id`.
const TYPES: &[&[&str]] = &[
    &["minKey"],
    &["undefined"],
    &["null"],
    &["number"],
    &["string", "symbol"],
    &["object"],
    &["binData"],
    &["objectId"],
    &["bool"],
    &["date"],
    &["timestamp"],
    &["dbPointer"],
    &["javascript"],
    &["javascriptWithScope"],
    &["maxKey"],
];

/// A collection or a view of the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Namespace: `db.collection`.
    pub ns: String,
    /// UUID of the collection.
    pub ui: Option<CollectionUuid>,
    /// Kind of copy that it needs.
    pub kind: CopyKind,
    /// Options with which it was created.
    pub options: Typed,
}

/// A reader of one live source; cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceReader {
    client: Client,
    /// True if the server supports causally consistent reads (`afterClusterTime`), as every `mongod`
    /// of a replica set does.
    causal: bool,
}

/// The size of a collection, as the server estimates it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CollectionSize {
    /// Number of documents.
    pub documents: u64,
    /// Bytes of the documents.
    pub bytes: u64,
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

    /// Returns the collections and views that a filter selects.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`SourceError::BucketsUnlisted`] for a collection that cannot be
    /// copied.
    pub async fn list(&self, filter: &NamespaceFilter) -> Result<Vec<Listed>, ProducerError> {
        let databases = self.client.list_database_names();
        let databases = in_time(REPLY_LIMIT, databases).await;
        let mut all = Vec::new();
        for db in databases.map_err(ProducerError::Source)? {
            if is_internal(&format!("{db}.x")) {
                continue;
            }
            let found = in_time(REPLY_LIMIT, self.list_database(&db, doc! {})).await;
            let found = found.map_err(ProducerError::Source)?;
            for described in &found {
                let Some(listed) = listed(&db, described, &found)? else {
                    continue;
                };
                if !is_internal(&listed.ns) && filter.passes(&listed.ns) {
                    all.push(listed);
                }
            }
        }
        all.sort_by(|one, other| one.ns.cmp(&other.ns));
        Ok(all)
    }

    async fn list_database(&self, db: &str, filter: Typed) -> Driver<Vec<Typed>> {
        let command = doc! { "listCollections": 1, "filter": filter };
        self.rows(db, command).await
    }

    /// Returns all documents of a command's cursor.
    async fn rows(&self, db: &str, command: Typed) -> Driver<Vec<Typed>> {
        let database = self.client.database(db);
        let mut run = database.run_cursor_command(command);
        if let Some(criteria) = self.client.selection_criteria() {
            run = run.selection_criteria(criteria.clone());
        }
        run.await?.try_collect().await
    }

    /// Finds a collection by its UUID, whatever its current name is. Without a UUID, finds a
    /// collection or view by its name.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; without a UUID, [`SourceError::BucketsUnlisted`] if a time series
    /// has the name.
    pub async fn find(
        &self,
        ns: &str,
        ui: Option<CollectionUuid>,
    ) -> Result<Option<Listed>, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let mut filters = vec![doc! { "name": name }];
        if let Some(ui) = ui {
            let subtype = BinarySubtype::Uuid;
            let bytes = ui.0.to_vec();
            filters.push(doc! { "info.uuid": Binary { subtype, bytes } });
        }
        for filter in filters {
            let found = self
                .retry(REPLY_LIMIT, || self.list_database(db, filter.clone()))
                .await?;
            for described in &found {
                // A server that does not support the second filter may return everything.
                let listed = match listed(db, described, &found) {
                    // A time series now has the name of the collection with the UUID.
                    Err(ProducerError::SourceUnfit(SourceError::BucketsUnlisted { .. }))
                        if ui.is_some() =>
                    {
                        continue;
                    }
                    listed => listed?,
                };
                let same = |listed: &Listed| match ui {
                    Some(_) => listed.ui == ui,
                    None => listed.ns == ns,
                };
                if let Some(listed) = listed.filter(same) {
                    return Ok(Some(listed));
                }
            }
        }
        Ok(None)
    }

    /// Returns the indexes of a collection without the one on `_id`; empty if the collection is gone.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn indexes(&self, ns: &str) -> Result<Vec<Typed>, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let query = || async {
            match self.rows(db, doc! { "listIndexes": name }).await {
                Err(error) if error_code(&error) == Some(NO_COLLECTION) => Ok(Vec::new()),
                found => found,
            }
        };
        let found = self.retry(REPLY_LIMIT, query).await?;
        let is_copied = |index: &Typed| {
            // An index that is being built is sent at the commit of its build.
            !index.contains_key("buildUUID")
                && index.get_str("name").ok() != Some("_id_")
                && !is_set(index, "clustered")
        };
        // Every server uses version 2 if none is given.
        let is_needed =
            |name: &str, value: &Bson| name != "ns" && (name != "v" || value != &Bson::Int32(2));
        let copied = found.into_iter().filter(is_copied);
        let copied = copied.map(|index| {
            let fields = index.into_iter();
            fields
                .filter(|(name, value)| is_needed(name, value))
                .collect()
        });
        Ok(copied.collect())
    }

    /// Returns the size of a collection, or zeros if the server does not report it.
    pub async fn size(&self, ns: &str) -> CollectionSize {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let database = self.client.database(db);
        let stats = database.run_command(doc! { "collStats": name });
        let stats = match in_time(REPLY_LIMIT, stats).await {
            Ok(stats) => stats,
            Err(error) => {
                tracing::debug!(
                    reason = mongo::error_text(&error),
                    ns,
                    "the server does not report the size"
                );
                return CollectionSize::default();
            }
        };
        CollectionSize {
            documents: number(stats.get("count")),
            bytes: number(stats.get("size")),
        }
    }

    /// Returns the smallest `_id` of each type that a collection has.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn smallest(&self, ns: &str, from: Timestamp) -> Result<Vec<Id>, ProducerError> {
        let ends = [doc! { "_id": 1 }, doc! { "_id": -1 }];
        let mut found = Vec::new();
        for sort in ends {
            let Some(id) = self.end(ns, from, doc! {}, sort).await? else {
                return Ok(Vec::new());
            };
            found.push(id);
        }
        let [first, last] = found.as_slice() else {
            return Ok(Vec::new());
        };
        if first.is_like(last) {
            return Ok(vec![first.clone()]);
        }
        let mut smallest = vec![first.clone()];
        for names in TYPES {
            let mut of_type: Vec<Id> = Vec::new();
            for name in *names {
                let filter = doc! { "_id": { "$type": *name } };
                match self.end(ns, from, filter, doc! { "_id": 1 }).await {
                    Ok(found) => of_type.extend(found),
                    // A server that does not know a type has no values of it.
                    Err(ProducerError::Source(error))
                        if error_code(&error).is_some_and(|code| UNKNOWN.contains(&code)) => {}
                    Err(error) => return Err(error),
                }
            }
            smallest.extend(of_type.into_iter().min().filter(|id| !id.is_like(first)));
        }
        Ok(smallest)
    }

    async fn end(
        &self,
        ns: &str,
        from: Timestamp,
        filter: Typed,
        sort: Typed,
    ) -> Result<Option<Id>, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let find = doc! {
            "find": name, "filter": filter, "sort": sort, "projection": { "_id": 1 }, "limit": 1,
            "singleBatch": true,
        };
        let mut command = Vec::new();
        self.write(&find, from, &mut command)?;
        let asked = self.retry(READ, || self.first_batch(db, &command));
        let Some(batch) = asked.await? else {
            return Ok(None);
        };
        let batch = Batch::Reply(batch);
        let mut documents = batch.documents()?;
        match documents.next() {
            None => Ok(None),
            Some(document) => document
                .and_then(Id::of)
                .map(Some)
                .map_err(ProducerError::undecodable),
        }
    }

    /// Returns random `_id`s of a collection; empty if the server does not support sampling.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn sample(
        &self,
        ns: &str,
        from: Timestamp,
        count: u32,
    ) -> Result<Vec<Id>, ProducerError> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let pipeline = vec![
            doc! { "$sample": { "size": i64::from(count) } },
            doc! { "$project": { "_id": 1 } },
        ];
        let aggregate = doc! {
            "aggregate": name, "pipeline": pipeline, "cursor": { "batchSize": i64::from(count) },
        };
        let mut command = Vec::new();
        self.write(&aggregate, from, &mut command)?;
        let asked = self.retry(READ, || self.first_batch(db, &command));
        let batch = match asked.await {
            Ok(batch) => batch,
            Err(ProducerError::Source(error))
                if error_code(&error).is_some_and(|code| UNKNOWN.contains(&code)) =>
            {
                tracing::debug!(
                    reason = mongo::error_text(&error),
                    ns,
                    "the server does not support $sample, so the collection is one range"
                );
                None
            }
            Err(error) => return Err(error),
        };
        let Some(batch) = batch.map(Batch::Reply) else {
            return Ok(Vec::new());
        };
        let ids = batch.documents()?;
        let ids = ids.map(|document| document.and_then(Id::of));
        ids.collect::<Result<_, _>>()
            .map_err(ProducerError::undecodable)
    }

    /// Returns the next documents of a query on `_id`, in the order of `_id`. The read includes
    /// every write up to the time `from`. There may be fewer documents than `limit`: a server ends
    /// a reply before a document for which it has no room ([`Batch::is_cut`]).
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

    fn write(
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

/// Reads an element of a reply to `listCollections`; `None` if the collection is not copied.
fn listed(db: &str, described: &Typed, all: &[Typed]) -> Result<Option<Listed>, ProducerError> {
    let name = described.get_str("name").unwrap_or_default();
    let ns = format!("{db}.{name}");
    let options = described
        .get_document("options")
        .cloned()
        .unwrap_or_default();
    let is_there = |wanted: &str| {
        all.iter()
            .any(|other| other.get_str("name").ok() == Some(wanted))
    };
    let kind = match described.get_str("type").unwrap_or("collection") {
        "view" => CopyKind::View,
        // A time series is copied as its buckets.
        "timeseries" if is_there(&format!("system.buckets.{name}")) => return Ok(None),
        "timeseries" => {
            return Err(SourceError::BucketsUnlisted { ns }.into());
        }
        _ if is_set(&options, "capped") => CopyKind::Capped,
        _ => CopyKind::Collection,
    };
    // Servers create the remaining system collections themselves.
    let is_own = name.starts_with("system.");
    if is_own && name != "system.js" && !name.starts_with("system.buckets.") {
        return Ok(None);
    }
    let ui = match described
        .get_document("info")
        .ok()
        .and_then(|info| info.get("uuid"))
    {
        Some(Bson::Binary(uuid)) => uuid.bytes.as_slice().try_into().ok().map(CollectionUuid),
        _ => None,
    };
    Ok(Some(Listed {
        ns,
        ui,
        kind,
        options,
    }))
}

/// Reads a number, whose type differs between servers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and sizes"
)]
pub(super) fn number(value: Option<&Bson>) -> u64 {
    match value {
        Some(Bson::Int32(number)) => u64::try_from(*number).unwrap_or_default(),
        Some(Bson::Int64(number)) => u64::try_from(*number).unwrap_or_default(),
        Some(Bson::Double(number)) => *number as u64,
        _ => 0,
    }
}
