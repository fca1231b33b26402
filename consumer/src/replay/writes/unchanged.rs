//! Documents that the target has already, byte for byte.
//!
//! After a restart or a reset many inserts meet the document that they inserted before. One read
//! of a whole bulk tells which of them need no write at all.
//!
//! **Memory.** A stored document may be much larger than the one that was inserted: it has grown
//! since. It is compared as its reply arrives and kept no longer, so that a lookup holds one reply,
//! and [`LOOKUPS_AT_ONCE`](crate::replay::writes::turn::LOOKUPS_AT_ONCE) bounds how many lookups there are.

use std::collections::HashSet;

use futures_util::StreamExt;
use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::document::Document;
use oplog_relay_runtime::mongo::{ANSWER, error_text, in_time};

use crate::replay::plan::{Action, Write};
use crate::replay::target::MongoSink;
use crate::replay::writes::find::{Fields, ReadLevel, find_command};
use crate::replay::writes::turn::turn;
use crate::worker::assignment::Token;

/// Documents that are asked for at once.
const AT_ONCE: usize = 1_000;
/// Bytes of the replacements of one lookup at most. Where the target has the same documents, one reply
/// holds them all.
const BYTES_AT_ONCE: usize = 8 << 20;

impl MongoSink {
    /// Leaves the replacements that change something. What cannot be read counts as different.
    pub(crate) async fn without_present<'a>(
        &self,
        ns: &str,
        replacements: Vec<Write<'a>>,
        token: &Token,
    ) -> Vec<Write<'a>> {
        let mut left = Vec::new();
        let mut rest = replacements.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take(AT_ONCE)
                .take_while(|write| {
                    bytes += replacement(write).map_or(0, |document| document.as_bytes().len());
                    bytes <= BYTES_AT_ONCE
                })
                .count();
            let (part, after) = rest.split_at(count.clamp(1, rest.len()));
            let present = self.present(ns, part, token).await.unwrap_or_else(|error| {
                let reason = error_text(&error);
                tracing::debug!(
                    reason,
                    ns,
                    "documents cannot be looked up, all are replaced"
                );
                HashSet::new()
            });
            let differs = |write: &&Write<'a>| {
                replacement(write).is_none_or(|document| !present.contains(document.as_bytes()))
            };
            left.extend(part.iter().filter(differs).copied());
            rest = after;
        }
        left
    }

    /// Those of the replacements that the target has stored as they are.
    async fn present<'a>(
        &self,
        ns: &str,
        writes: &[Write<'a>],
        token: &Token,
    ) -> Result<HashSet<&'a [u8]>, mongodb::error::Error> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        // One that is there but could still be rolled back is written again.
        let ids = writes.iter().map(|write| write.document_id);
        let command = find_command(collection, ids, (ReadLevel::Majority, Fields::All));
        let command = RawDocumentBuf::from_bytes(command)?;
        let replacements = writes.iter().filter_map(replacement);
        let wanted: HashSet<&'a [u8]> = replacements.map(Document::as_bytes).collect();
        let Some(_turn) = turn(&self.lookups, token).await else {
            // The write that comes next finds out.
            return Ok(HashSet::new());
        };
        let database = self.client.database(db);
        let cursor = database.run_raw_cursor_command(command).batch();
        let mut cursor = in_time(ANSWER, cursor).await?;
        let mut found = HashSet::new();
        while let Some(reply) = in_time(ANSWER, async { cursor.next().await.transpose() }).await? {
            for element in reply.doc_slices()?.into_iter() {
                let stored = element?.as_document();
                found.extend(stored.and_then(|stored| wanted.get(stored.as_bytes()).copied()));
            }
        }
        Ok(found)
    }
}

const fn replacement<'a>(write: &Write<'a>) -> Option<Document<'a>> {
    match write.action {
        Action::Replace(document) => Some(document),
        Action::Insert(_)
        | Action::Modify(_)
        | Action::Zeros(_)
        | Action::Fields(_)
        | Action::Diff(_)
        | Action::Rewritten(_)
        | Action::AsIs { .. }
        | Action::Delete => None,
    }
}
