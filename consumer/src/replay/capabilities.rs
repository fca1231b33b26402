//! Capabilities of a target that its `hello` reply does not report.

use mongodb::Client;
use mongodb::bson::{Uuid, doc};
use oplog_relay_core::document::Document;
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, error_code, in_time};

use crate::replay::directive::{Directive, rule_for};
use crate::replay::writes::reply::WriteReply;

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
        _ => refuses(error),
    }
}

/// Returns true if the target accepts `[{$replaceWith: {$literal: …}}]` as an update. The probe
/// updates a document of a collection that does not exist, which creates nothing.
///
/// # Errors
/// Returns an error if the target does not reply, or replies with a transient error.
pub(crate) async fn accepts_literals(client: &Client) -> mongodb::error::Result<bool> {
    let uuid = Uuid::new();
    let pipeline = [doc! { "$replaceWith": { "$literal": {} } }];
    let update = doc! { "q": { "_id": uuid }, "u": &pipeline[..] };
    let command = doc! { "update": format!("probe-{uuid}"), "updates": [update] };
    let database = client.database(CATALOG_DB);
    let reply = match in_time(REPLY_LIMIT, database.run_command(command)).await {
        Ok(reply) => reply.to_vec()?,
        Err(error) => return refuses(error),
    };
    let reply = Document::new(&reply).and_then(WriteReply::read);
    let reply = reply.map_err(|error| mongodb::error::Error::custom(error.to_string()))?;
    match reply.errors.first() {
        Some(error) => refuses(error.as_command_error()),
        None => Ok(true),
    }
}

/// Returns `Ok(false)` if a target refuses a probe for good.
fn refuses(error: mongodb::error::Error) -> mongodb::error::Result<bool> {
    match error_code(&error) {
        Some(code) if rule_for(code).directive != Directive::Retry => Ok(false),
        _ => Err(error),
    }
}
