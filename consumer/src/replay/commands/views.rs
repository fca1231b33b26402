//! Views and time series, whose definitions a server stores together in `system.views`.
//!
//! A `drop` by name would drop whatever has the name. A view has no UUID that could identify it,
//! and its oplog entry does not distinguish a view from a time series. Each command therefore
//! checks the type of the existing object, and drops only its own type.
//!
//! A change of granularity is two entries: first the view over the buckets gets another span, then
//! a `collMod` changes the buckets. The target's own `collMod` does both. If the source fails
//! between the two, the view and the buckets differ permanently. No `collMod` can reproduce that
//! state, so the view's span is set by `applyOps`.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::time_series::VIEWS;

use crate::error::ConsumerError;
use crate::replay::catalog::Ran;
use crate::replay::commands::attempt::Attempt;
use crate::replay::commands::drop_and_rename::done_with;
use crate::replay::commands::{Execution, Running, unwritable};
use crate::replay::sink::MongoSink;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// The aggregation stage that unpacks buckets into measurements.
const UNPACK: &str = "$_internalUnpackBucket";

/// The names of a time series on the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeriesNames<'n> {
    pub(crate) db: &'n str,
    /// The name that clients use.
    pub(crate) series: &'n str,
    /// The name of the collection that holds the buckets.
    pub(crate) buckets: &'n str,
}

impl MongoSink {
    /// Drops a view. A time series of that name is kept, because it is dropped with its buckets.
    pub(crate) async fn drop_view(
        &self,
        db: &str,
        view: &str,
        running: Running<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let name = Namespace {
            db,
            collection: view,
        };
        if self.kind_of(name).await?.as_deref() != Some("view") {
            return Ok(done_with(token));
        }
        self.drop_collection(name, running, token).await
    }

    /// Drops a time series with its buckets.
    pub(crate) async fn drop_series(
        &self,
        names: SeriesNames<'_>,
        running: Running<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let SeriesNames {
            db,
            series,
            buckets,
        } = names;
        let [series, buckets] = [series, buckets].map(|collection| Namespace { db, collection });
        if self.kind_of(series).await?.as_deref() == Some("timeseries")
            && self.drop_collection(series, running, token).await? == Applied::Abandoned
        {
            return Ok(Applied::Abandoned);
        }
        // The buckets still exist if the view over them was dropped first.
        if self.drop_collection(buckets, running, token).await? == Applied::Abandoned {
            return Ok(Applied::Abandoned);
        }
        if self
            .incarnations_now(running.source)
            .await?
            .has_ended(&format!("{db}.{VIEWS}"))
        {
            return self.drop_empty_views(db, running, token).await;
        }
        Ok(Applied::Done)
    }

    /// Drops all views of a database, and then `system.views`. Time series are kept: while they exist,
    /// a server drops `system.views` only as a part of `dropDatabase`, in which each series is dropped
    /// with its buckets.
    pub(crate) async fn drop_views(
        &self,
        db: &str,
        running: Running<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        for listed in self.views_of(db).await? {
            let name = listed.get_str("name").unwrap_or_default();
            let is_view = listed.get_str("type").is_ok_and(|kind| kind == "view");
            let name = Namespace {
                db,
                collection: name,
            };
            if is_view && self.drop_collection(name, running, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        self.drop_empty_views(db, running, token).await
    }

    /// Drops `system.views` if it is empty. Servers refuse to drop it while a time series exists.
    async fn drop_empty_views(
        &self,
        db: &str,
        running: Running<'_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        if self.views_of(db).await?.is_empty() {
            let views = Namespace {
                db,
                collection: VIEWS,
            };
            return self.drop_collection(views, running, token).await;
        }
        Ok(done_with(token))
    }

    /// Sets the maximum bucket span of a time series' view to the value on the source. If the target
    /// refuses the change, the view keeps the span that follows from the granularity of the buckets;
    /// queries return the same documents.
    pub(crate) async fn change_series_view(
        &self,
        db: &str,
        definition: &[u8],
        ran: &Ran,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let wanted = Document::from_reader(definition).map_err(|error| unwritable(ran, &error))?;
        let id = wanted.get("_id").cloned().unwrap_or(Bson::Null);
        let views = self
            .target
            .client
            .database(db)
            .collection::<Document>(VIEWS);
        let found = self.persist("reading a view", || async {
            views.find_one(doc! { "_id": &id }).await
        });
        let allowed = match found.await {
            // Other differences may be due to a different server version, so the view is written only
            // if nothing but the span differs.
            Ok(Some(found)) if found != wanted && without_span(&found) == without_span(&wanted) => {
                let ns = format!("{db}.{VIEWS}");
                let update = doc! { "op": "u", "ns": ns, "o2": { "_id": id }, "o": wanted };
                let command = doc! { "applyOps": [update], "alwaysUpsert": false };
                let command = command.to_vec().map_err(|error| unwritable(ran, &error))?;
                let execution = Execution {
                    db,
                    accept: &[],
                    ran,
                    made_non_unique: false,
                };
                match self.attempt(&command, execution, token).await? {
                    Attempt::Done => true,
                    Attempt::Abandoned => return Ok(Applied::Abandoned),
                    Attempt::Refused(_) => false,
                }
            }
            Ok(_) => true,
            // A user without a privilege on `system.views` cannot read it.
            Err(ConsumerError::Request(_)) => false,
            Err(error) => return Err(error),
        };
        if !allowed {
            tracing::info!(
                ns = ran.ns,
                "the target does not allow changes of system.views; the view of the time series keeps \
                 the bucket span that follows from its granularity"
            );
        }
        Ok(done_with(token))
    }

    /// Returns the type that `listCollections` reports for a name, if the name exists.
    async fn kind_of(&self, name: Namespace<'_>) -> Result<Option<String>, ConsumerError> {
        let listed = self.listed(name).await?;
        Ok(listed.and_then(|listed| listed.get_str("type").ok().map(str::to_owned)))
    }

    /// Returns the views and time series of a database.
    async fn views_of(&self, db: &str) -> Result<Vec<Document>, ConsumerError> {
        let kinds = doc! { "type": { "$in": ["view", "timeseries"] } };
        let list = doc! { "listCollections": 1, "filter": kinds, "nameOnly": true };
        self.persist("listing views", || async {
            let database = self.target.client.database(db);
            let cursor = database.run_cursor_command(list.clone()).await?;
            cursor.try_collect().await
        })
        .await
    }
}

/// Returns the definition of a time series' view without the maximum span of a bucket.
fn without_span(view: &Document) -> Document {
    let mut view = view.clone();
    let stage = view.get_array_mut("pipeline").ok();
    let stage = stage.and_then(|stages| stages.first_mut()?.as_document_mut());
    if let Some(Bson::Document(stage)) = stage.and_then(|stage| stage.get_mut(UNPACK)) {
        stage.remove("bucketMaxSpanSeconds");
    }
    view
}
