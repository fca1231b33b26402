//! TTL indexes of targets that cannot convert a plain index: servers up to 5.0, and MongoDB-compatible
//! servers.
//!
//! The index is dropped and built again with its expiry. Three measures prevent its loss. First, the
//! new index is tried on an empty collection in the catalog's database, which shows whether the target
//! accepts it. Second, the old index is noted in `oplog_relay.cutover` before it is dropped, so that a
//! later cutover finishes what a killed one has begun. Third, if the new index is refused nevertheless,
//! the old one is built again.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, Collection};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_runtime::mongo::{error_code, error_text};

use super::{Restored, Withheld, failed};
use crate::error::ConsumerError;
use crate::replay::catalog::collection;
use crate::replay::plan::command::done;
use crate::stdout::tell;

type Driver<T> = mongodb::error::Result<T>;

/// Error codes of servers that cannot convert a plain index to a TTL index, or that have no `collMod`.
pub(super) const CANNOT_CONVERT: [i32; 4] = [72, 59, 115, 238];
/// The collection in which dropped indexes are noted.
const NOTES: &str = "cutover";
/// The empty collection on which an index is tried.
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
    tell(&format!(
        "{}: is built again, because this target cannot add an expiry to an existing index",
        withheld.name()
    ))?;
    let note = note(withheld, &old)?;
    let filter = doc! { "_id": withheld.name() };
    notes(target)
        .replace_one(filter, note)
        .upsert(true)
        .await
        .map_err(failed)?;
    let (db, collection) = withheld.place();
    let drop_index = doc! { "dropIndexes": collection, "index": index, "writeConcern": majority() };
    match target.database(db).run_command(drop_index).await {
        Err(error) if error_code(&error) != Some(done::NO_INDEX) => {
            forget(target, withheld).await?;
            refused_or_failed(withheld, error)
        }
        _ => build(target, withheld, &old).await,
    }
}

/// Finishes what an earlier cutover has begun, if that cutover dropped the index.
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

/// Builds a dropped index with its expiry, or as it was if the target refuses the expiry.
async fn build(
    target: &Client,
    withheld: Withheld<'_>,
    old: &Document,
) -> Result<Restored, ConsumerError> {
    let (db, collection) = withheld.place();
    let Err(error) = create(target, (db, collection), expiring(old, withheld.seconds)).await else {
        forget(target, withheld).await?;
        return Ok(Restored::Done);
    };
    let code = error_code(&error);
    let outcome = refused_or_failed(withheld, error)?;
    if code == Some(done::NO_COLLECTION) {
        forget(target, withheld).await?;
        return Ok(Restored::Gone);
    }
    match create(target, (db, collection), old.clone()).await {
        Ok(()) => {
            forget(target, withheld).await?;
            Ok(outcome)
        }
        Err(error) => Ok(Restored::Refused(format!(
            "{} is missing on the target, which refuses to build it again: {}. Its definition is in \
             {CATALOG_DB}.{NOTES}; remove what is in the way, then run cutover again",
            withheld.name(),
            error_text(&error)
        ))),
    }
}

/// Returns a refusal if the error has a code; otherwise the target cannot be used, and an error is
/// returned.
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

/// Builds an index on an empty collection, which shows whether the target accepts it.
async fn try_out(target: &Client, index: Document) -> Driver<()> {
    let tried = create(target, (CATALOG_DB, TRIAL), index).await;
    let database = target.database(CATALOG_DB);
    match database.run_command(doc! { "drop": TRIAL }).await {
        Err(error) if error_code(&error) != Some(done::NO_COLLECTION) => tried.and(Err(error)),
        _ => tried,
    }
}

async fn create(target: &Client, (db, collection): (&str, &str), index: Document) -> Driver<()> {
    let command =
        doc! { "createIndexes": collection, "indexes": [index], "writeConcern": majority() };
    target.database(db).run_command(command).await.map(drop)
}

async fn find(target: &Client, withheld: Withheld<'_>, index: &str) -> Driver<Option<Document>> {
    let (db, collection) = withheld.place();
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
    // Servers up to 4.2 list the field ns, whose value would be wrong for the trial collection.
    index.remove("ns");
    let seconds = i32::try_from(seconds).map_or(Bson::Int64(seconds), Bson::Int32);
    index.insert(EXPIRES, seconds);
    index
}

/// Returns the note of an index that is about to be dropped. Servers before 5.0 refuse fields that
/// begin with `$`, which a partial index has, so the definition is kept as bytes.
fn note(withheld: Withheld<'_>, index: &Document) -> Result<Document, ConsumerError> {
    let unreadable = |error: bson::error::Error| {
        ConsumerError::Refused(format!("the definition of {}: {error}", withheld.name()))
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

async fn forget(target: &Client, withheld: Withheld<'_>) -> Result<(), ConsumerError> {
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
