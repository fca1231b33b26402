//! Capabilities of a target that its `hello` reply does not report.

use mongodb::Client;
use mongodb::bson::{Uuid, doc};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, error_code, in_time};

use crate::replay::directive::{Directive, rule_for};

/// `CollectionUUIDMismatch`: the collection does not exist, or it has a different UUID.
pub(crate) const MISMATCH: i32 = 361;
/// The field of a command that identifies its collection by UUID.
pub(crate) const COLLECTION_UUID: &str = "collectionUUID";

/// Returns true if the target accepts `collectionUUID` in commands. The probe drops a collection
/// that does not exist; a target with this feature returns error 361.
///
/// # Errors
/// Returns an error if the target does not reply, or replies with a transient error.
pub(crate) async fn accepts_uuids(client: &Client) -> mongodb::error::Result<bool> {
    let uuid = Uuid::new();
    let command = doc! { "drop": format!("probe-{uuid}"), COLLECTION_UUID: uuid };
    let database = client.database(CATALOG_DB);
    let Err(error) = in_time(REPLY_LIMIT, database.run_command(command)).await else {
        return Ok(false);
    };
    match error_code(&error) {
        Some(MISMATCH) => Ok(true),
        Some(code) if rule_for(code).directive != Directive::Retry => Ok(false),
        _ => Err(error),
    }
}
