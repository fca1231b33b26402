//! The collections and views of the source, with their indexes and sizes.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document as Typed, doc};
use futures_util::TryStreamExt;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::state::CopyKind;
use oplog_relay_runtime::mongo::{self, REPLY_LIMIT, error_code, in_time, is_set};

use super::reader::{Driver, SourceReader};
use crate::error::ProducerError;
use crate::source::error::SourceError;

/// Error code NamespaceNotFound: the collection does not exist.
const NO_COLLECTION: i32 = 26;

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

/// The size of a collection, as the server estimates it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CollectionSize {
    /// Number of documents.
    pub documents: u64,
    /// Bytes of the documents.
    pub bytes: u64,
}

impl SourceReader {
    /// Returns the collections and views that a filter selects.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`SourceError::BucketsUnlisted`] for a collection that cannot be
    /// copied.
    pub async fn list(&self, filter: &NamespaceFilter) -> Result<Vec<Listed>, ProducerError> {
        let databases = self.client().list_database_names();
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
        let database = self.client().database(db);
        let mut run = database.run_cursor_command(command);
        if let Some(criteria) = self.client().selection_criteria() {
            run = run.selection_criteria(criteria.clone());
        }
        run.await?.try_collect().await
    }

    /// Finds a collection by its UUID, whatever its current name is. Without a UUID, finds a
    /// collection or view by its name.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`SourceError::BucketsUnlisted`] for a time series that has the UUID or,
    /// without a UUID, the name.
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
                    // Another collection, a time series, now has the name of the one with the UUID.
                    Err(ProducerError::SourceUnfit(SourceError::BucketsUnlisted { .. }))
                        if ui.is_some() && uuid_of(described) != ui =>
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
        let database = self.client().database(db);
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
    Ok(Some(Listed {
        ns,
        ui: uuid_of(described),
        kind,
        options,
    }))
}

/// Returns the UUID in an element of a reply to `listCollections`; views have none.
fn uuid_of(described: &Typed) -> Option<CollectionUuid> {
    let info = described.get_document("info").ok()?;
    match info.get("uuid") {
        Some(Bson::Binary(uuid)) => uuid.bytes.as_slice().try_into().ok().map(CollectionUuid),
        _ => None,
    }
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
