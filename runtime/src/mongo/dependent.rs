//! Collections whose documents depend on each other, so that the order of writes to different
//! documents matters: those with a unique index besides `_id`, capped ones, and those with their
//! own collation.

use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Result;

use super::{REPLY_LIMIT, error_code, in_time, is_set};

/// NamespaceNotFound: the collection does not exist.
const NO_COLLECTION: i32 = 26;

/// Returns true if the documents of a collection depend on each other. `filter` is the filter of
/// `listCollections` that selects the collection. The result is false if no collection matches.
///
/// # Errors
/// The server's error; code 13 if the user may not list collections or indexes.
pub async fn documents_depend(database: &Database, filter: Document) -> Result<bool> {
    let listed = database.run_command(doc! { "listCollections": 1, "filter": filter });
    let reply = in_time(REPLY_LIMIT, listed).await?;
    let Some(found) = first_batch(&reply).into_iter().next() else {
        return Ok(false);
    };
    if found.get_str("type").ok() == Some("view") {
        return Ok(false);
    }
    if found.get_document("options").is_ok_and(depend_by_options) {
        return Ok(true);
    }
    let name = found.get_str("name").unwrap_or_default();
    // A collection has at most 64 indexes, fewer than a first batch holds.
    let indexes = database.run_command(doc! { "listIndexes": name });
    match in_time(REPLY_LIMIT, indexes).await {
        Ok(reply) => Ok(first_batch(&reply).into_iter().any(is_unique_besides_id)),
        Err(error) if error_code(&error) == Some(NO_COLLECTION) => Ok(false),
        Err(error) => Err(error),
    }
}

fn first_batch(reply: &Document) -> Vec<&Document> {
    let batch = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    let batch = batch.map(Vec::as_slice).unwrap_or_default();
    batch.iter().filter_map(|item| item.as_document()).collect()
}

fn depend_by_options(options: &Document) -> bool {
    let collation = options.get_document("collation").ok();
    let locale = collation.and_then(|collation| collation.get_str("locale").ok());
    is_set(options, "capped") || locale.is_some_and(|locale| locale != "simple")
}

/// Returns true for an index that refuses duplicates, other than that of `_id`. With `prepareUnique` it
/// already refuses new ones.
fn is_unique_besides_id(index: &Document) -> bool {
    (is_set(index, "unique") || is_set(index, "prepareUnique"))
        && index.get_str("name").ok() != Some("_id_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_indexes_capped_collections_and_collations_depend() {
        let capped = doc! { "capped": true, "size": 9 };
        let simple = doc! { "collation": { "locale": "simple" } };
        let german = doc! { "collation": { "locale": "de" } };
        assert!(depend_by_options(&capped) && depend_by_options(&german));
        assert!(!depend_by_options(&simple) && !depend_by_options(&Document::new()));
        let id = doc! { "name": "_id_", "unique": true };
        let plain = doc! { "name": "a_1" };
        let unique = doc! { "name": "a_1", "unique": true };
        let typed = doc! { "name": "a_1", "unique": 1 };
        assert!(is_unique_besides_id(&typed) && depend_by_options(&doc! { "capped": 1.0 }));
        assert!(is_unique_besides_id(&unique));
        let prepared = doc! { "name": "a_1", "prepareUnique": true };
        assert!(is_unique_besides_id(&prepared));
        assert!(!is_unique_besides_id(&plain) && !is_unique_besides_id(&id));
    }
}
