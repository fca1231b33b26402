//! Reads documents by their `_id`.

use futures_util::StreamExt;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use crate::error::ConsumerError;
use crate::replay::sink::MongoSink;

/// The read concern of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadLevel {
    /// The current data of the queried member, including this program's own writes. Every server
    /// supports it.
    Local,
    /// The current data, and every transaction that was prepared on a shard: the read waits until it is
    /// committed or aborted. A local read ignores such a transaction. The time is one that the cluster
    /// has reported.
    Settled(Timestamp),
    /// Majority-committed data, which cannot be rolled back.
    Majority,
}

/// The fields to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fields<'f> {
    /// All fields.
    All,
    /// Only `_id`.
    Id,
    /// `_id` and the fields at these paths.
    Paths(&'f [&'f str]),
}

/// The replies of a cursor that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replies {
    /// Only the first one, which bounds the memory.
    First,
    /// All of them.
    All,
}

impl MongoSink {
    /// Returns the documents of a `find`. It is sent to the primary, or to the primaries of all shards,
    /// regardless of the connection string's read preference.
    pub(crate) async fn read_documents(
        &self,
        db: &str,
        find: &[u8],
        replies: Replies,
    ) -> mongodb::error::Result<Vec<Vec<u8>>> {
        let command = RawDocumentBuf::from_bytes(find.to_vec())?;
        let database = self.target.client.database(db);
        let mut cursor = database.run_raw_cursor_command(command).batch().await?;
        let mut found = Vec::new();
        while let Some(reply) = cursor.next().await {
            for element in reply?.doc_slices()?.into_iter() {
                let bytes = element?.as_document().map(RawDocument::as_bytes);
                found.extend(bytes.map(<[u8]>::to_vec));
            }
            if replies == Replies::First {
                break;
            }
        }
        Ok(found)
    }

    /// Returns the first document of a `find` on the primary.
    ///
    /// # Errors
    /// Returns the errors of [`MongoSink::persist`].
    pub(crate) async fn first_document(
        &self,
        db: &str,
        find: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ConsumerError> {
        self.persist("reading a document", || async {
            let command = RawDocumentBuf::from_bytes(find.clone())?;
            // A raw command is sent to the primary, regardless of the connection string's read
            // preference.
            let database = self.target.client.database(db);
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

/// Builds a `find` of the documents with these `_id`s. A regular expression is left out, because servers
/// do not store one as `_id`, and `$in` would match it as a pattern.
pub(crate) fn find_command<'e>(
    collection: &str,
    document_ids: impl Iterator<Item = Element<'e>>,
    level: ReadLevel,
    fields: Fields<'_>,
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
    let paths = match fields {
        Fields::All => None,
        Fields::Id => Some(&[][..]),
        Fields::Paths(paths) => Some(paths),
    };
    if let Some(paths) = paths {
        command.nested("projection", kind::DOCUMENT, |projection| {
            projection.int32("_id", 1);
            for path in paths {
                projection.int32(path, 1);
            }
        });
    }
    // One more than the number of documents, so that the first batch exhausts the cursor unless the
    // reply reaches its maximum size.
    command.int32("batchSize", count.saturating_add(1));
    command.nested("readConcern", kind::DOCUMENT, |concern| {
        concern.str(
            "level",
            match level {
                ReadLevel::Local | ReadLevel::Settled(_) => "local",
                ReadLevel::Majority => "majority",
            },
        );
        if let ReadLevel::Settled(time) = level {
            let [seconds, increment] = [time.time, time.increment].map(u32::to_le_bytes);
            let bytes = [increment, seconds].concat();
            concern.raw("afterClusterTime", kind::TIMESTAMP, &bytes);
        }
    });
    command.finish();
    out
}

/// Builds a `find` of one document that matches a filter.
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
    fn ids_are_queried_unchanged_and_regular_expressions_left_out() {
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
            let bytes = find_command("c", ids.into_iter(), level, Fields::All);
            let command = mongodb::bson::Document::from_reader(bytes.as_slice()).unwrap();
            let expected = mongodb::bson::doc! {
                "find": "c",
                "filter": { "_id": { "$in": [7, true] } },
                "batchSize": 3,
                "readConcern": { "level": name },
            };
            assert_eq!(command, expected);
        }
        let time = Timestamp {
            time: 7,
            increment: 2,
        };
        let bytes = find_command("c", ids.into_iter(), ReadLevel::Settled(time), Fields::All);
        let command = mongodb::bson::Document::from_reader(bytes.as_slice()).unwrap();
        let expected = mongodb::bson::doc! { "level": "local", "afterClusterTime": time };
        assert_eq!(command.get_document("readConcern").unwrap(), &expected);
    }
}
