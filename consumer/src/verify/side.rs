//! The two servers and the queries to each of them.

use std::fmt;

use mongodb::bson::{Document as Bson, RawDocumentBuf, doc};
use mongodb::options::{ReadConcernLevel, ReadPreference, SelectionCriteria};
use mongodb::raw_batch_cursor::RawBatchCursor;
use mongodb::{Client, Collection};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{READ, REPLY_LIMIT, error_text, in_time, is_transient};
use rustc_hash::FxHashMap;

use super::cursor::{CursorError, Documents, shown};
use super::digest::{Digester, DocumentDigest, SetDigest};
use super::range::{OwnedId, Range, id_of};

/// Maximum number of `_id`s in one query, and of their bytes.
const IDS_PER_QUERY: (usize, usize) = (1000, 1 << 20);
/// Number of documents in a small batch, which is requested after failed reads: some servers do not
/// limit the size of a reply.
const SMALL_BATCH: u32 = 2;

/// A side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The source.
    Source,
    /// The target.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// The way in which documents are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Manner {
    /// True if documents are read in order of `_id`, and the order is checked.
    pub(super) sorted: bool,
    /// True if the simple collation is requested, because the collection has another one.
    pub(super) collated: bool,
    /// True if batches are small.
    pub(super) small: bool,
}

/// The read concern and the read preference of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Those of the connection string.
    Usual,
    /// Read concern `majority` on the primary: the result cannot be rolled back.
    Settled,
}

/// A `find` command.
#[derive(Debug, Clone, Copy)]
struct Find<'f> {
    filter: &'f [u8],
    manner: Manner,
    /// If set, the query skips this many documents in order of `_id`, and returns only the `_id` of
    /// the next one.
    id_after: Option<u64>,
}

impl<'f> Find<'f> {
    fn of(filter: &'f [u8]) -> Self {
        Self {
            filter,
            manner: Manner::default(),
            id_after: None,
        }
    }

    fn batch_size(&self) -> Option<u32> {
        self.manner.small.then_some(SMALL_BATCH)
    }

    fn command(&self, collection: &str, concern: Option<&str>) -> Vec<u8> {
        let Manner {
            sorted, collated, ..
        } = self.manner;
        let mut out = Vec::new();
        let mut find = DocumentBuilder::start(&mut out);
        find.str("find", collection);
        find.raw("filter", kind::DOCUMENT, self.filter);
        if sorted || self.id_after.is_some() {
            find.nested("sort", kind::DOCUMENT, |sort| {
                sort.int32("_id", 1);
            });
        }
        if sorted && collated {
            find.nested("collation", kind::DOCUMENT, |collation| {
                collation.str("locale", "simple");
            });
            // The `_id` index has the collection's collation, so the server sorts without it.
            find.boolean("allowDiskUse", true);
        }
        if let Some(after) = self.id_after {
            find.nested("projection", kind::DOCUMENT, |projection| {
                projection.int32("_id", 1);
            });
            find.int64("skip", i64::try_from(after).unwrap_or(i64::MAX));
            find.int64("limit", 1).boolean("singleBatch", true);
        }
        if let Some(size) = self.batch_size() {
            find.int64("batchSize", size.into());
        }
        if let Some(level) = concern {
            find.nested("readConcern", kind::DOCUMENT, |concern| {
                concern.str("level", level);
            });
        }
        find.finish();
        out
    }
}

/// Returns the name of a read concern level. `available`, the default of secondaries of a cluster before
/// 5.0, also returns documents that a shard no longer owns, so it is replaced.
fn level_name(level: &ReadConcernLevel) -> &str {
    match level {
        ReadConcernLevel::Majority => "majority",
        ReadConcernLevel::Linearizable => "linearizable",
        ReadConcernLevel::Snapshot => "snapshot",
        ReadConcernLevel::Custom(level) => level,
        _ => "local",
    }
}

/// An identity, which is the same for all `_id`s that are equal.
pub(super) type Identity = Vec<u8>;

/// Returns the identity of an `_id`. A damaged `_id` equals only itself.
pub(super) fn identity(id: &OwnedId) -> Identity {
    let mut identity = Vec::new();
    if write_id_identity(id.element(), &mut identity).is_err() {
        identity.extend_from_slice(id.element().value);
    }
    identity
}

/// One of the two servers.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) side: Side,
    pub(super) client: Client,
}

impl Server {
    fn failed(&self, after: &str, error: &mongodb::error::Error) -> CursorError {
        CursorError::Failed {
            side: self.side,
            after: after.to_owned(),
            reason: error_text(error),
        }
    }

    fn collection(&self, ns: &str) -> Collection<Bson> {
        let Namespace { db, collection } = Namespace::split(ns);
        self.client.database(db).collection(collection)
    }

    /// Sends a `find` command. It is sent as raw bytes, because an `_id` in its filter may be a string
    /// that is not UTF-8, which the driver's documents cannot hold.
    async fn find_raw(
        &self,
        ns: &str,
        find: Find<'_>,
        reading: Reading,
    ) -> Result<RawBatchCursor, CursorError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let database = self.client.database(db);
        let primary = || SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let (criteria, concern) = match reading {
            Reading::Settled => (primary(), Some("majority")),
            Reading::Usual => {
                let criteria = self.client.selection_criteria().cloned();
                let concern = self.client.read_concern();
                let level = concern.map(|concern| level_name(&concern.level));
                let criteria = criteria.unwrap_or_else(primary);
                let is_primary = matches!(
                    criteria,
                    SelectionCriteria::ReadPreference(ReadPreference::Primary)
                );
                (criteria, level.or((!is_primary).then_some("local")))
            }
        };
        let command = find.command(collection, concern);
        let batch_size = find.batch_size();
        let ask = || async {
            let command = RawDocumentBuf::from_bytes(command.clone())?;
            let mut action = database.run_raw_cursor_command(command);
            action = action.selection_criteria(criteria.clone());
            if let Some(size) = batch_size {
                action = action.batch_size(size);
            }
            action.batch().await
        };
        let mut found = in_time(READ, ask()).await;
        if found.as_ref().is_err_and(is_transient) {
            // A read is retried once, as the driver does for its own commands.
            found = in_time(READ, ask()).await;
        }
        found.map_err(|error| self.failed("none", &error))
    }

    /// Reads the documents of a range.
    pub(super) async fn read(
        &self,
        ns: &str,
        range: &Range,
        manner: Manner,
    ) -> Result<Documents, CursorError> {
        let filter = range.filter();
        let find = Find {
            manner,
            ..Find::of(&filter)
        };
        let batches = self.find_raw(ns, find, Reading::Usual).await?;
        Ok(Documents::new(self.side, batches, manner.sorted))
    }

    /// Returns the digest of all documents of a range. `seen` is called for each document.
    pub(super) async fn digest(
        &self,
        ns: &str,
        range: &Range,
        small: bool,
        mut digester: Digester,
        seen: impl Fn(),
    ) -> Result<SetDigest, CursorError> {
        let (sorted, collated) = (false, false);
        let manner = Manner {
            sorted,
            collated,
            small,
        };
        let mut documents = self.read(ns, range, manner).await?;
        let mut digest = SetDigest::default();
        while let Some(document) = documents.next().await? {
            digest.add(&digester.document(document));
            seen();
        }
        Ok(digest)
    }

    /// Returns the `_id` that follows the first `after` documents from `low` on, within the type of
    /// `low`; `None` if there are no more.
    pub(super) async fn cut(
        &self,
        ns: &str,
        low: &OwnedId,
        after: u64,
    ) -> Result<Option<OwnedId>, CursorError> {
        let low = low.clone();
        let range = Range::Between { low, high: None };
        let filter = range.filter();
        let find = Find {
            id_after: Some(after),
            ..Find::of(&filter)
        };
        let batches = self.find_raw(ns, find, Reading::Usual).await?;
        let mut documents = Documents::new(self.side, batches, false);
        let first = documents.next().await?;
        Ok(first.and_then(id_of).map(OwnedId::of))
    }

    /// Returns the number of documents of a collection, from the server's metadata.
    pub(super) async fn count(&self, ns: &str) -> Result<u64, CursorError> {
        let collection = self.collection(ns);
        let counted = in_time(REPLY_LIMIT, collection.estimated_document_count()).await;
        counted.map_err(|error| self.failed("none", &error))
    }

    /// Returns the digests of the documents with these `_id`s, by identity.
    pub(super) async fn digests(
        &self,
        ns: &str,
        ids: &[&OwnedId],
        digester: &mut Digester,
    ) -> Result<FxHashMap<Identity, DocumentDigest>, CursorError> {
        let mut found = FxHashMap::default();
        self.find(ns, ids, |id, document| {
            found.insert(identity(&id), digester.document(document));
        })
        .await?;
        Ok(found)
    }

    /// Finds the documents with these `_id`s. In a collection with its own collation, a query may also
    /// find documents with other `_id`s, which are passed to `each` too.
    pub(super) async fn find(
        &self,
        ns: &str,
        ids: &[&OwnedId],
        mut each: impl FnMut(OwnedId, Document<'_>),
    ) -> Result<(), CursorError> {
        let mut rest = ids;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |id: &&&OwnedId| {
                bytes += id.cost();
                bytes <= IDS_PER_QUERY.1
            };
            let within = rest.iter().take(IDS_PER_QUERY.0).take_while(fits);
            let count = within.count().max(1);
            let (ids, after) = rest.split_at(count.min(rest.len()));
            let filter = any_of(ids);
            let find = Find::of(&filter);
            let batches = self.find_raw(ns, find, Reading::Settled).await?;
            let mut documents = Documents::new(self.side, batches, false);
            while let Some(document) = documents.next().await? {
                if let Some(id) = id_of(document).map(OwnedId::of) {
                    each(id, document);
                }
            }
            rest = after;
        }
        Ok(())
    }

    /// Returns one document, if it exists.
    pub(super) async fn one(&self, ns: &str, id: &OwnedId) -> Result<Option<Vec<u8>>, CursorError> {
        let (wanted, mut found) = (identity(id), None);
        self.find(ns, &[id], |id, document| {
            if identity(&id) == wanted {
                found = Some(document.as_bytes().to_vec());
            }
        })
        .await?;
        Ok(found)
    }

    /// Returns at most `size` random `_id`s of a collection.
    pub(super) async fn sample(&self, ns: &str, size: u32) -> Result<Vec<OwnedId>, CursorError> {
        let pipeline = [
            doc! { "$sample": { "size": i64::from(size) } },
            doc! { "$project": { "_id": 1 } },
        ];
        let collection = self.collection(ns);
        let drawn = in_time(READ, collection.aggregate(pipeline).batch()).await;
        let mut ids = Vec::new();
        if let Ok(batches) = drawn {
            let mut documents = Documents::new(self.side, batches, false);
            while let Some(document) = documents.next().await? {
                ids.extend(id_of(document).map(OwnedId::of));
            }
            return Ok(ids);
        }
        // The server refused `$sample`: all `_id`s are read, and each has the same chance of being
        // in the sample.
        let collection = self.collection(ns);
        let find = collection.find(doc! {}).projection(doc! { "_id": 1 });
        let batches = in_time(READ, find.batch()).await;
        let batches = batches.map_err(|error| self.failed("none", &error))?;
        let mut documents = Documents::new(self.side, batches, false);
        let mut draw = super::sample::Draw::new(size);
        while let Some(document) = documents.next().await? {
            if let Some(place) = draw.next()
                && let Some(id) = id_of(document).map(OwnedId::of)
            {
                match ids.get_mut(place) {
                    Some(kept) => *kept = id,
                    None => ids.push(id),
                }
            }
        }
        Ok(ids)
    }
}

/// Returns a filter for these `_id`s. Regular expressions are excluded: servers do not store documents
/// with such an `_id`, and `$in` would use it as a pattern.
fn any_of(ids: &[&OwnedId]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut filter = DocumentBuilder::start(&mut out);
    filter.nested("_id", kind::DOCUMENT, |id| {
        id.nested("$in", kind::ARRAY, |list| {
            let ids = ids.iter().map(|id| id.element());
            for (index, id) in ids.filter(|id| id.kind != kind::REGEX).enumerate() {
                list.raw(itoa::Buffer::new().format(index), id.kind, id.value);
            }
        });
    });
    filter.finish();
    out
}

/// Returns an `_id` as canonical JSON, for messages.
pub(super) fn id_text(id: &OwnedId) -> String {
    shown(id.element())
}
