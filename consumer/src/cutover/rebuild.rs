//! TTL indexes on targets that cannot convert a non-TTL index: MongoDB up to 5.0, and
//! MongoDB-compatible servers.
//!
//! The index is dropped and built again with its expiry. Three measures prevent its loss. First, the
//! new index is created on an empty collection in the catalog's database, which shows whether the
//! target accepts it. Second, the definition of the old index is recorded in `oplog_relay.cutover`
//! before the index is dropped, so that a later cutover can build it if this one is killed. Third, if
//! the target still refuses the new index, the old one is built again.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, Collection};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{error_code, error_text};

use super::{Restored, Withheld, failed};
use crate::cutover::error::CutoverError;
use crate::cutover::error::Unfinished;
use crate::error::ConsumerError;
use crate::replay::catalog::collection;
use crate::replay::plan::translation::done;
use crate::stdout::print_line;

type Driver<T> = mongodb::error::Result<T>;

/// Error codes of servers that cannot convert a non-TTL index to a TTL index, or that have no
/// `collMod`.
pub(super) const CANNOT_CONVERT: [i32; 4] = [72, 59, 115, 238];
/// The collection that records dropped indexes.
const NOTES: &str = "cutover";
/// The empty collection on which an index is created as a trial.
const TRIAL: &str = "cutover-trial";
const EXPIRES: &str = "expireAfterSeconds";

/// Drops an index and builds it again with its expiry.
pub(super) async fn rebuild(
    target: &Client,
    withheld: Withheld<'_>,
    index: &str,
) -> Result<Restored, ConsumerError> {
    let found = find(target, withheld, index).await.map_err(failed)?;
    let Some(old) = found else {
        return resume(target, withheld, index).await;
    };
    if let Err(error) = try_out(target, expiring(&old, withheld.seconds)).await {
        return refused_or_failed(withheld, error);
    }
    print_line(&format!(
        "{}: rebuilding the index, because this target cannot add an expiry to an existing one",
        withheld.name()
    ))?;
    let note = note(withheld, &old)?;
    let filter = doc! { "_id": withheld.name() };
    notes(target)
        .replace_one(filter, note)
        .upsert(true)
        .await
        .map_err(failed)?;
    let Namespace { db, collection } = withheld.namespace();
    let drop_index = doc! { "dropIndexes": collection, "index": index, "writeConcern": majority() };
    match target.database(db).run_command(drop_index).await {
        Err(error) if error_code(&error) != Some(done::NO_INDEX) => {
            delete_note(target, withheld).await?;
            refused_or_failed(withheld, error)
        }
        _ => build(target, withheld, &old).await,
    }
}

/// Builds the index if an earlier cutover dropped it and did not finish.
pub(super) async fn resume(
    target: &Client,
    withheld: Withheld<'_>,
    index: &str,
) -> Result<Restored, ConsumerError> {
    let filter = doc! { "_id": withheld.name() };
    let note = notes(target).find_one(filter).await.map_err(failed)?;
    let old = note.and_then(|note| {
        let bytes = note.get_binary_generic("index").ok()?;
        Document::from_reader(bytes.as_slice()).ok()
    });
    match old {
        Some(old) => {
            tracing::warn!(
                ns = withheld.ns,
                index,
                "building an index that an earlier cutover dropped"
            );
            build(target, withheld, &old).await
        }
        None => Ok(Restored::Gone),
    }
}

/// Builds a dropped index with its expiry, or without it if the target refuses the expiry.
async fn build(
    target: &Client,
    withheld: Withheld<'_>,
    old: &Document,
) -> Result<Restored, ConsumerError> {
    let namespace = withheld.namespace();
    let Err(error) = create(target, namespace, expiring(old, withheld.seconds)).await else {
        delete_note(target, withheld).await?;
        return Ok(Restored::Done);
    };
    let code = error_code(&error);
    let outcome = refused_or_failed(withheld, error)?;
    if code == Some(done::NO_COLLECTION) {
        delete_note(target, withheld).await?;
        return Ok(Restored::Gone);
    }
    match create(target, namespace, old.clone()).await {
        Ok(()) => {
            delete_note(target, withheld).await?;
            Ok(outcome)
        }
        Err(error) => Ok(Restored::Refused(Unfinished::IndexMissing {
            name: withheld.name(),
            reason: error_text(&error),
            notes: NOTES,
        })),
    }
}

/// Returns a refusal if the error has a code and is not transient. Otherwise the target is not usable,
/// and an error is returned.
fn refused_or_failed(
    withheld: Withheld<'_>,
    error: mongodb::error::Error,
) -> Result<Restored, ConsumerError> {
    match error_code(&error) {
        Some(_) if !oplog_relay_runtime::mongo::is_transient(&error) => {
            Ok(withheld.refused(&error))
        }
        _ => Err(failed(error)),
    }
}

/// Creates an index on an empty collection, which shows whether the target accepts it.
async fn try_out(target: &Client, index: Document) -> Driver<()> {
    let trial = Namespace {
        db: CATALOG_DB,
        collection: TRIAL,
    };
    let created = create(target, trial, index).await;
    let database = target.database(CATALOG_DB);
    match database.run_command(doc! { "drop": TRIAL }).await {
        Err(error) if error_code(&error) != Some(done::NO_COLLECTION) => created.and(Err(error)),
        _ => created,
    }
}

async fn create(target: &Client, namespace: Namespace<'_>, index: Document) -> Driver<()> {
    let Namespace { db, collection } = namespace;
    let command =
        doc! { "createIndexes": collection, "indexes": [index], "writeConcern": majority() };
    target.database(db).run_command(command).await.map(drop)
}

async fn find(target: &Client, withheld: Withheld<'_>, index: &str) -> Driver<Option<Document>> {
    let Namespace { db, collection } = withheld.namespace();
    let list = doc! { "listIndexes": collection };
    let database = target.database(db);
    let all: Vec<Document> = match database.run_cursor_command(list).await {
        Err(error) if error_code(&error) == Some(done::NO_COLLECTION) => return Ok(None),
        listed => listed?.try_collect().await?,
    };
    let mut all = all.into_iter();
    Ok(all.find(|found| found.get_str("name").ok() == Some(index)))
}

fn expiring(index: &Document, seconds: i64) -> Document {
    let mut index = index.clone();
    // Servers up to 4.2 return the field `ns`, whose value is wrong for the trial collection.
    index.remove("ns");
    let seconds = i32::try_from(seconds).map_or(Bson::Int64(seconds), Bson::Int32);
    index.insert(EXPIRES, seconds);
    index
}

/// Returns the note of an index that is about to be dropped. Servers before 5.0 refuse field names
/// that begin with `$`, which a partial index may have, so the definition is stored as bytes.
fn note(withheld: Withheld<'_>, index: &Document) -> Result<Document, ConsumerError> {
    let unreadable = |error: bson::error::Error| CutoverError::Definition {
        name: withheld.name(),
        reason: error.to_string(),
    };
    let index = bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: index.to_vec().map_err(unreadable)?,
    };
    Ok(doc! { "_id": withheld.name(), "ns": withheld.ns, "index": index })
}

fn notes(target: &Client) -> Collection<Document> {
    collection(target, NOTES)
}

async fn delete_note(target: &Client, withheld: Withheld<'_>) -> Result<(), ConsumerError> {
    let filter = doc! { "_id": withheld.name() };
    notes(target)
        .delete_one(filter)
        .await
        .map(drop)
        .map_err(failed)
}

fn majority() -> Document {
    doc! { "w": "majority" }
}
