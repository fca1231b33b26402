//! Reading documents by their `_id`.

use futures_util::StreamExt;
use mongodb::bson::{RawBsonRef, RawDocumentBuf};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use crate::error::ConsumerError;
use crate::replay::target::MongoSink;

/// What a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadLevel {
    /// What the member has now: our own writes, on every kind of server.
    Local,
    /// What cannot be rolled back.
    Majority,
}

/// What of the documents is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fields {
    /// All of them.
    All,
    /// `_id` alone.
    Id,
}

impl MongoSink {
    /// The first document that a `find` returns, as the primary has it.
    ///
    /// # Errors
    /// As [`MongoSink::persist`].
    pub(crate) async fn first_document(
        &self,
        db: &str,
        find: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ConsumerError> {
        self.persist("reading a document", || async {
            let command = RawDocumentBuf::from_bytes(find.clone())?;
            // A raw command goes to the primary, whatever the connection string prefers.
            let database = self.client.database(db);
            let mut cursor = database.run_raw_cursor_command(command).batch().await?;
            let Some(reply) = cursor.next().await.transpose()? else {
                return Ok(None);
            };
            let first = reply.doc_slices()?.into_iter().next().transpose()?;
            let document = first.and_then(RawBsonRef::as_document);
            Ok(document.map(|document| document.as_bytes().to_vec()))
        })
        .await
    }
}

/// Asks for the documents of these `_id`s. No server stores a document under a regular expression,
/// and in `$in` it is a pattern: such an `_id` is left out.
pub(crate) fn find_command<'e>(
    collection: &str,
    document_ids: impl Iterator<Item = Element<'e>>,
    (level, fields): (ReadLevel, Fields),
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    command.str("find", collection);
    let mut count: i32 = 0;
    command.nested("filter", kind::DOCUMENT, |filter| {
        filter.nested("_id", kind::DOCUMENT, |id| {
            id.nested("$in", kind::ARRAY, |ids| {
                let mut digits = itoa::Buffer::new();
                for id in document_ids.filter(|id| id.kind != kind::REGEX) {
                    ids.element(Element {
                        name: digits.format(count).as_bytes(),
                        ..id
                    });
                    count += 1;
                }
            });
        });
    });
    if fields == Fields::Id {
        command.nested("projection", kind::DOCUMENT, |projection| {
            projection.int32("_id", 1);
        });
    }
    // Nothing is left for a second reply unless the first is full.
    command.int32("batchSize", count.saturating_add(1));
    command.nested("readConcern", kind::DOCUMENT, |concern| {
        concern.str(
            "level",
            match level {
                ReadLevel::Local => "local",
                ReadLevel::Majority => "majority",
            },
        );
    });
    command.finish();
    out
}

/// Asks for one document that a filter finds.
pub(crate) fn find_one_command(collection: &str, filter: Document<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    command.str("find", collection).document("filter", filter);
    command.int32("limit", 1).boolean("singleBatch", true);
    command.finish();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_asked_for_as_they_are_and_patterns_never() {
        let id = |kind, value| Element {
            name: b"_id",
            kind,
            value,
        };
        let ids = [
            id(kind::INT32, &[7, 0, 0, 0]),
            id(kind::REGEX, b"a\0\0"),
            id(kind::BOOLEAN, &[1]),
        ];
        for (level, name) in [
            (ReadLevel::Local, "local"),
            (ReadLevel::Majority, "majority"),
        ] {
            let bytes = find_command("c", ids.into_iter(), (level, Fields::All));
            let command = mongodb::bson::Document::from_reader(bytes.as_slice()).unwrap();
            let expected = mongodb::bson::doc! {
                "find": "c",
                "filter": { "_id": { "$in": [7, true] } },
                "batchSize": 3,
                "readConcern": { "level": name },
            };
            assert_eq!(command, expected);
        }
    }
}
