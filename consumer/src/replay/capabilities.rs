//! What a target can do beside what its `hello` says.

use mongodb::Client;
use mongodb::bson::{Uuid, doc};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_runtime::mongo::{ANSWER, error_code, in_time};

use crate::replay::directive::{Directive, rule_for};

/// Another collection stands there than the one of the UUID, or none (`CollectionUUIDMismatch`).
pub(crate) const MISMATCH: i32 = 361;
pub(crate) const NAMED_BY: &str = "collectionUUID";

/// Whether a target takes UUIDs in commands: one that does says that there is no such collection.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn takes_uuids(client: &Client) -> mongodb::error::Result<bool> {
    let uuid = Uuid::new();
    let command = doc! { "drop": format!("probe-{uuid}"), NAMED_BY: uuid };
    let database = client.database(CATALOG_DB);
    let Err(error) = in_time(ANSWER, database.run_command(command)).await else {
        return Ok(false);
    };
    match error_code(&error) {
        Some(MISMATCH) => Ok(true),
        Some(code) if rule_for(code).directive != Directive::Retry => Ok(false),
        _ => Err(error),
    }
}
