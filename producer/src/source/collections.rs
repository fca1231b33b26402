//! Properties of a live source's collections.

use bson::spec::BinarySubtype;
use bson::{Binary, doc};
use mongodb::Client;
use oplog_relay_runtime::mongo::{UNAUTHORIZED, documents_depend, error_code};
use tokio::runtime::Handle;

use crate::error::ProducerError;
use crate::prepare::route::Collections;
use oplog_relay_core::collection_uuid::CollectionUuid;

/// Queries a live source from a thread that may block.
#[derive(Debug)]
pub struct LiveCollections {
    client: Client,
    runtime: Handle,
}

impl LiveCollections {
    /// Creates a reader that runs its queries on a runtime.
    #[must_use]
    pub const fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime }
    }
}

impl Collections for LiveCollections {
    fn depend(&self, ns: &str, ui: Option<CollectionUuid>) -> Result<bool, ProducerError> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let which = match ui {
            Some(ui) => {
                let subtype = BinarySubtype::Uuid;
                let bytes = ui.0.to_vec();
                doc! { "info.uuid": Binary { subtype, bytes } }
            }
            None => doc! { "name": collection },
        };
        let database = self.client.database(db);
        let result = self.runtime.block_on(documents_depend(&database, which));
        match result {
            Err(error) if error_code(&error) == Some(UNAUTHORIZED) => {
                tracing::warn!(
                    ns,
                    "the source's user is not permitted to list the collections and indexes of \
                     {db}: whether the documents of {ns} depend on each other is unknown, so they \
                     are spread over partitions by _id. Grant read on {db}, or give --order"
                );
                Ok(false)
            }
            result => result.map_err(ProducerError::Source),
        }
    }
}
