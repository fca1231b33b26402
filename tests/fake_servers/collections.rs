//! What the producer learns about the collections of its source from queries; the source is the
//! model server.

use oplog_relay_core::collection_uuid::CollectionUuid;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bson::{Bson, doc};
use mongodb::{Client, Database};
use oplog_producer::error::{Directive, ProducerError};
use oplog_producer::prepare::route::Collections;
use oplog_producer::source::collections::LiveCollections;
use oplog_relay_kit::model::{Model, ModelServer};
use tokio::runtime::Handle;

const UNAUTHORIZED: i32 = 13;
const NO_COLLECTION: i32 = 26;
const NOT_PRIMARY: i32 = 10107;
const NOT_UNDERSTOOD: i32 = 9;

struct Scene {
    server: ModelServer,
    shop: Database,
    collections: Arc<LiveCollections>,
}

impl Scene {
    async fn new() -> Result<Scene> {
        let server = ModelServer::start(Model::default())?;
        let client = Client::with_uri_str(server.uri()).await?;
        let shop = client.database("shop");
        let german = doc! { "locale": "de" };
        for command in [
            doc! { "create": "plain" },
            doc! { "create": "capped", "capped": true, "size": 4096 },
            doc! { "create": "german", "collation": german },
            doc! { "create": "named" },
            doc! { "create": "view", "viewOn": "named", "pipeline": [] },
            doc! { "createIndexes": "plain", "indexes": [{ "key": { "a": 1 }, "name": "a_1" }] },
            doc! { "createIndexes": "named",
            "indexes": [{ "key": { "a": 1 }, "name": "a_1", "unique": true }] },
        ] {
            shop.run_command(command).await?;
        }
        let collections = Arc::new(LiveCollections::new(client, Handle::current()));
        Ok(Scene {
            server,
            shop,
            collections,
        })
    }

    /// Queries as the encoder does, from a thread that may block.
    async fn depends(
        &self,
        ns: &'static str,
        ui: Option<CollectionUuid>,
    ) -> Result<bool, ProducerError> {
        let collections = Arc::clone(&self.collections);
        let query = tokio::task::spawn_blocking(move || collections.depend(ns, ui));
        query.await.expect("it ends")
    }

    async fn uuid(&self, name: &str) -> Result<CollectionUuid> {
        let list = doc! { "listCollections": 1, "filter": { "name": name } };
        let reply = self.shop.run_command(list).await?;
        let found = reply.get_document("cursor")?.get_array("firstBatch")?;
        let found = found
            .first()
            .and_then(Bson::as_document)
            .context("no such collection")?;
        let uuid = found.get_document("info")?.get("uuid");
        let Some(Bson::Binary(uuid)) = uuid else {
            anyhow::bail!("{uuid:?}");
        };
        Ok(CollectionUuid(uuid.bytes.as_slice().try_into()?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_indexes_capped_collections_and_collations_are_seen() -> Result<()> {
    let scene = Scene::new().await?;
    for (ns, expected) in [
        ("shop.plain", false),
        ("shop.capped", true),
        ("shop.german", true),
        ("shop.named", true),
        ("shop.view", false),
        ("shop.gone", false),
        ("other.named", false),
    ] {
        ensure!(scene.depends(ns, None).await? == expected, "{ns}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_found_by_its_uuid_under_another_name() -> Result<()> {
    let scene = Scene::new().await?;
    let ui = Some(scene.uuid("named").await?);
    ensure!(scene.depends("shop.old_name", ui).await?);
    ensure!(
        !scene
            .depends("shop.named", Some(CollectionUuid([9; 16])))
            .await?,
        "shop.named with the UUID of another incarnation"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_privilege_partitions_by_id_and_other_errors_end_the_session() -> Result<()> {
    let scene = Scene::new().await?;
    for command in ["listCollections", "listIndexes"] {
        scene.server.fail_next(command, UNAUTHORIZED);
        ensure!(!scene.depends("shop.named", None).await?, "{command}");
    }
    // The collection was dropped between the two queries.
    scene.server.fail_next("listIndexes", NO_COLLECTION);
    ensure!(!scene.depends("shop.named", None).await?);
    for (code, retried) in [(NOT_PRIMARY, true), (NOT_UNDERSTOOD, false)] {
        scene.server.fail_next("listIndexes", code);
        let error = scene
            .depends("shop.named", None)
            .await
            .err()
            .context("the query succeeded")?;
        ensure!(
            (error.directive() == Directive::Retry) == retried,
            "{error}"
        );
    }
    ensure!(scene.depends("shop.named", None).await?);
    Ok(())
}
