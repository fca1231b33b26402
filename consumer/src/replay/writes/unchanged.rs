//! Documents that the target already has, byte for byte.
//!
//! After a restart or an offset reset, many inserts find the document that they inserted before. One
//! read for a whole bulk determines which of them need no write.
//!
//! **Memory.** A stored document may have grown much larger than the inserted one. Documents are
//! compared as each reply arrives and are not kept, so a lookup holds one reply.
//! [`LOOKUPS_AT_ONCE`](crate::replay::writes::permits::LOOKUPS_AT_ONCE) limits the number of
//! concurrent lookups.

use std::collections::HashSet;

use futures_util::StreamExt;
use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::document::Document;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{REPLY_LIMIT, error_text, in_time};

use crate::replay::plan::{Action, Write};
use crate::replay::sink::MongoSink;
use crate::replay::writes::find::{Fields, ReadLevel, find_command};
use crate::replay::writes::permits::acquire;
use crate::worker::assignment::Token;

/// Number of documents that are looked up with one query.
const AT_ONCE: usize = 1_000;
/// Maximum number of bytes of the replacements in one lookup. If the target has the same documents,
/// one reply holds all of them.
const BYTES_AT_ONCE: usize = 8 << 20;

impl MongoSink {
    /// Returns the replacements that would change a document. Documents that cannot be read count as
    /// different.
    pub(crate) async fn without_unchanged<'a>(
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
            let unchanged = self
                .unchanged(ns, part, token)
                .await
                .unwrap_or_else(|error| {
                    let reason = error_text(&error);
                    tracing::debug!(
                        reason,
                        ns,
                        "documents cannot be looked up; replacing all of them"
                    );
                    HashSet::new()
                });
            let differs = |write: &&Write<'a>| {
                replacement(write).is_none_or(|document| !unchanged.contains(document.as_bytes()))
            };
            left.extend(part.iter().filter(differs).copied());
            rest = after;
        }
        left
    }

    /// Returns the replacements whose documents the target already has in the same form.
    async fn unchanged<'a>(
        &self,
        ns: &str,
        writes: &[Write<'a>],
        token: &Token,
    ) -> Result<HashSet<&'a [u8]>, mongodb::error::Error> {
        let Namespace { db, collection } = Namespace::split(ns);
        // A document that could still be rolled back is written again.
        let ids = writes.iter().map(|write| write.document_id);
        let command = find_command(collection, ids, ReadLevel::Majority, Fields::All);
        let command = RawDocumentBuf::from_bytes(command)?;
        let replacements = writes.iter().filter_map(replacement);
        let wanted: HashSet<&'a [u8]> = replacements.map(Document::as_bytes).collect();
        let Some(_permit) = acquire(&self.permits.lookups, token).await else {
            // The write that follows detects that the partition was revoked.
            return Ok(HashSet::new());
        };
        let database = self.target.client.database(db);
        let cursor = database.run_raw_cursor_command(command).batch();
        let mut cursor = in_time(REPLY_LIMIT, cursor).await?;
        let mut found = HashSet::new();
        while let Some(reply) =
            in_time(REPLY_LIMIT, async { cursor.next().await.transpose() }).await?
        {
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
