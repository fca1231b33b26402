//! The two servers, and how each is asked.

use std::fmt;

use mongodb::bson::{Document as Bson, doc};
use mongodb::options::{
    Collation, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria,
};
use mongodb::{Client, Collection};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::runtime::mongo::{ANSWER, READ, in_time};
use rustc_hash::FxHashMap;

use super::cursor::{CursorError, Documents, shown};
use super::digest::{Digester, DocumentDigest, SetDigest};
use super::range::{OwnedId, Range, id_of};

/// `_id`s, and their bytes, that one query asks for.
const ASKED: (usize, usize) = (1000, 1 << 20);
/// Documents of a reply where large ones made a reply too large: some servers don't limit it.
const SMALL_BATCH: u32 = 2;

/// Which of the two.
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

/// How documents are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Manner {
    /// In order of `_id`, and with proof of it.
    pub(super) sorted: bool,
    /// By the simple collation, where the collection has another one.
    pub(super) collated: bool,
    /// Few at a time.
    pub(super) small: bool,
}

/// What documents have in common whose `_id`s are equal.
pub(super) type Identity = Vec<u8>;

/// The identity of an `_id`; a damaged one is only like itself.
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
            reason: error.kind.to_string(),
        }
    }

    fn collection(&self, ns: &str) -> Collection<Bson> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        self.client.database(db).collection(collection)
    }

    /// As the primary has it, and as it cannot be rolled back.
    fn settled(&self, ns: &str) -> Collection<Bson> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let database = self.client.database(db);
        database.collection_with_options(collection, options)
    }

    /// Reads the documents of a range.
    pub(super) async fn read(
        &self,
        ns: &str,
        range: &Range,
        manner: Manner,
    ) -> Result<Documents, CursorError> {
        let collection = self.collection(ns);
        let mut find = collection.find(filter(range));
        if manner.sorted {
            find = find.sort(doc! { "_id": 1 });
        }
        if manner.sorted && manner.collated {
            let simple = Collation::builder().locale("simple").build();
            find = find.collation(simple).allow_disk_use(true);
        }
        if manner.small {
            find = find.batch_size(SMALL_BATCH);
        }
        let batches = in_time(READ, find.batch())
            .await
            .map_err(|error| self.failed("nothing", &error))?;
        Ok(Documents::new(self.side, batches, manner.sorted))
    }

    /// The digest of all documents of a range; each is told to `seen`.
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

    /// The `_id` that comes `after` documents behind a type's value; `None` if there are no more.
    pub(super) async fn cut(
        &self,
        ns: &str,
        low: &OwnedId,
        after: u64,
    ) -> Result<Option<OwnedId>, CursorError> {
        let low = low.clone();
        let range = Range::Between { low, high: None };
        let collection = self.collection(ns);
        let find = collection.find(filter(&range));
        let find = find.sort(doc! { "_id": 1 }).projection(doc! { "_id": 1 });
        let batches = in_time(READ, find.skip(after).limit(1).batch()).await;
        let batches = batches.map_err(|error| self.failed("nothing", &error))?;
        let mut documents = Documents::new(self.side, batches, false);
        let first = documents.next().await?;
        Ok(first.and_then(id_of).map(OwnedId::of))
    }

    /// How many documents a collection has, as the server keeps count.
    pub(super) async fn count(&self, ns: &str) -> Result<u64, CursorError> {
        let collection = self.collection(ns);
        let counted = in_time(ANSWER, collection.estimated_document_count()).await;
        counted.map_err(|error| self.failed("nothing", &error))
    }

    /// The digests of the documents that have these `_id`s, by identity.
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

    /// Finds the documents that have these `_id`s. In a collection with a collation of its own a
    /// query may also find one with another `_id`: `each` gets it too.
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
                bytes <= ASKED.1
            };
            let count = rest.iter().take(ASKED.0).take_while(fits).count().max(1);
            let (asked, after) = rest.split_at(count.min(rest.len()));
            let collection = self.settled(ns);
            let batches = in_time(READ, collection.find(any_of(asked)).batch())
                .await
                .map_err(|error| self.failed("nothing", &error))?;
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

    /// One document, if it is there.
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

    /// At most so many `_id`s of a collection at random.
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
        // A server without that stage: all `_id`s pass by, each has the same chance to stay.
        let collection = self.collection(ns);
        let find = collection.find(doc! {}).projection(doc! { "_id": 1 });
        let batches = in_time(READ, find.batch()).await;
        let batches = batches.map_err(|error| self.failed("nothing", &error))?;
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

fn filter(range: &Range) -> Bson {
    // It was built here: it can always be read.
    Bson::from_reader(range.filter().as_slice()).unwrap_or_default()
}

/// No server stores a document under a regular expression, and in `$in` it is a pattern: such an
/// `_id` is left out.
fn any_of(ids: &[&OwnedId]) -> Bson {
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
    Bson::from_reader(out.as_slice()).unwrap_or_default()
}

/// An `_id` for people.
pub(super) fn told(id: &OwnedId) -> String {
    shown(id.element())
}
