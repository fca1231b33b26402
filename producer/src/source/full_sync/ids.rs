//! Queries for single `_id`s of a collection, at which its copy is divided into ranges.

use bson::{Document as Typed, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::mongo::{self, READ, error_code};

use super::range::Id;
use super::reader::SourceReader;
use crate::error::ProducerError;
use crate::source::Batch;

/// Error codes of a server that does not know an operator or the name of a type.
const UNKNOWN: [i32; 4] = [2, 59, 238, 40324];
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

impl SourceReader {
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
}
