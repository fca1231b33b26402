//! Documents that are read, changed here and replaced.
//!
//! The way for what no update command can say, and for updates that a command cannot apply to the
//! document as it is. A document belongs to one worker, so nobody else changes it between the read
//! and the write. Reads go to the primary, which knows all writes that it acknowledged.

use futures_util::StreamExt;
use mongodb::bson::RawDocumentBuf;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::runtime::mongo::{error_code, is_cursor_gone, is_transient};
use oplog_relay_core::runtime::retry::Backoff;
use rustc_hash::FxHashMap;

use super::find::{ReadLevel, find_command};
use super::{FIRST_PAUSE, LONGEST_PAUSE, MongoSink};
use crate::assignment::Token;
use crate::config::Unmatched;
use crate::directive::{Directive, rule_for};
use crate::error::ConsumerError;
use crate::plan::{Action, Bulk, BulkKind, RewriteError, Write, rewritten, zero_timestamps};
use crate::sink::Applied;

/// Documents that are asked for at once.
const AT_ONCE: usize = 1_000;

/// Documents to rewrite: their writes in order, by the identity of their `_id`.
type Pending<'w, 'a> = FxHashMap<Vec<u8>, Vec<&'w Write<'a>>>;

/// What a document becomes.
struct Outcome<'a> {
    /// The last entry that changes it.
    id: EntryId,
    document_id: Element<'a>,
    document: Vec<u8>,
    /// What must be set after it was replaced.
    zeros: Option<Vec<u8>>,
}

/// Why documents cannot be rewritten.
enum Failure {
    /// The target did not give them; the read may be repeated.
    Read(mongodb::error::Error),
    /// Something that ends the program.
    Fatal(ConsumerError),
}

impl From<mongodb::error::Error> for Failure {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Read(error)
    }
}

impl From<ConsumerError> for Failure {
    fn from(error: ConsumerError) -> Self {
        Self::Fatal(error)
    }
}

impl MongoSink {
    /// Reads, changes and replaces the documents of these writes. One that is not there counts as
    /// an update that found no document.
    pub(super) async fn rewrite(
        &self,
        ns: &str,
        writes: &[Write<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut rest = writes;
        while !rest.is_empty() {
            let mut pending = Pending::default();
            let taken = take(rest, &mut pending).map_err(|error| damaged(ns, &error))?;
            if self.rewrite_pending(ns, pending, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(Applied::Done)
    }

    async fn rewrite_pending(
        &self,
        ns: &str,
        mut pending: Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            match self.rewrite_found(ns, &mut pending, token).await {
                Ok(Applied::Abandoned) => return Ok(Applied::Abandoned),
                Ok(Applied::Done) => return self.rewrite_missing(ns, &pending, token).await,
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Read(error)) => self.after_failed_read(ns, &error)?,
            }
            if !backoff.sleep(&self.shutdown).await {
                return Ok(Applied::Abandoned);
            }
        }
    }

    /// Rewrites the documents that are there, and takes them out of `pending`.
    async fn rewrite_found(
        &self,
        ns: &str,
        pending: &mut Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, Failure> {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let ids = pending.values().filter_map(|writes| writes.first());
        let ids = ids.map(|write| write.document_id);
        let command = find_command(collection, ids, ReadLevel::Local);
        let command = RawDocumentBuf::from_bytes(command).map_err(mongodb::error::Error::from)?;
        let database = self.client.database(db);
        let mut cursor = database.run_raw_cursor_command(command).batch().await?;
        while let Some(reply) = cursor.next().await {
            self.readiness.target_reached();
            let mut outcomes = Vec::new();
            for element in reply?.doc_slices()?.into_iter() {
                let element = element.map_err(mongodb::error::Error::from)?;
                if let Some(document) = element.as_document() {
                    outcomes.extend(outcome(ns, document.as_bytes(), pending)?);
                }
            }
            if self.send_outcomes(ns, &outcomes, token).await? == Applied::Abandoned {
                return Ok(Applied::Abandoned);
            }
        }
        Ok(Applied::Done)
    }

    /// Whether a failed read is to be repeated.
    fn after_failed_read(
        &self,
        ns: &str,
        error: &mongodb::error::Error,
    ) -> Result<(), ConsumerError> {
        let rule = error_code(error).map(rule_for);
        let retry = rule.is_some_and(|rule| rule.directive == Directive::Retry);
        if !retry && !is_transient(error) && !is_cursor_gone(error) {
            return Err(ConsumerError::Refused(format!(
                "documents of {ns} cannot be read on the target, which their updates need: {}. \
                 The target's user must be granted readWrite on the databases replayed",
                error.kind
            )));
        }
        self.metrics.count_error("target");
        self.readiness.target_failed(&error.kind.to_string());
        Ok(())
    }

    async fn send_outcomes(
        &self,
        ns: &str,
        outcomes: &[Outcome<'_>],
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let mut writes = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let write = |action| Write {
                id: outcome.id,
                document_id: outcome.document_id,
                action,
            };
            let failed = |error: Malformed| damaged(ns, &error);
            let document = Document::new(&outcome.document).map_err(failed)?;
            writes.push(write(Action::Rewritten(document)));
            if let Some(zeros) = &outcome.zeros {
                let zeros = Document::new(zeros).map_err(failed)?;
                writes.push(write(Action::Modify(zeros)));
            }
        }
        let count = u64::try_from(outcomes.len()).unwrap_or(u64::MAX);
        self.metrics.rewritten_documents.inc_by(count);
        let kind = BulkKind::Update;
        let bulk = Bulk { ns, kind, writes };
        Box::pin(self.send_bulk(&bulk, token)).await
    }

    /// Counts the documents that are not there, or makes them up where that was asked for.
    async fn rewrite_missing(
        &self,
        ns: &str,
        pending: &Pending<'_, '_>,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        if self.unmatched != Unmatched::Upsert {
            let missing = pending.values().flatten();
            let mut missing: Vec<Write<'_>> = missing.map(|write| **write).collect();
            missing.sort_by_key(|write| write.id);
            if !missing.is_empty() {
                self.count_unmatched(ns, &missing, missing.len())?;
            }
            return Ok(Applied::Done);
        }
        let mut made = Vec::new();
        for writes in pending.values() {
            if let Some(first) = writes.first() {
                made.push((**first, made_up(ns, first.document_id, writes)?));
            }
        }
        let mut writes = Vec::new();
        for (write, document) in &made {
            let document = Document::new(document).map_err(|error| damaged(ns, &error))?;
            writes.push(Write {
                action: Action::Replace(document),
                ..*write
            });
        }
        let kind = BulkKind::Update;
        let bulk = Bulk { ns, kind, writes };
        Box::pin(self.send_bulk(&bulk, token)).await
    }
}

/// Groups the writes of the first [`AT_ONCE`] documents; returns how many writes those are.
fn take<'w, 'a>(
    writes: &'w [Write<'a>],
    pending: &mut Pending<'w, 'a>,
) -> Result<usize, Malformed> {
    let mut identity = Vec::new();
    for (index, write) in writes.iter().enumerate() {
        identity.clear();
        write_id_identity(write.document_id, &mut identity)?;
        if let Some(writes) = pending.get_mut(&identity) {
            writes.push(write);
        } else if pending.len() == AT_ONCE {
            return Ok(index);
        } else {
            pending.insert(identity.clone(), vec![write]);
        }
    }
    Ok(writes.len())
}

/// What a stored document becomes; `None` where nothing changes.
fn outcome<'a>(
    ns: &str,
    stored: &[u8],
    pending: &mut Pending<'_, 'a>,
) -> Result<Option<Outcome<'a>>, ConsumerError> {
    let failed = |error: Malformed| damaged(ns, &error);
    let stored = Document::new(stored).map_err(failed)?;
    let Some(document_id) = stored.get("_id").map_err(failed)? else {
        return Ok(None);
    };
    let mut identity = Vec::new();
    write_id_identity(document_id, &mut identity).map_err(failed)?;
    let writes = pending.remove(&identity).unwrap_or_default();
    let Some(last) = writes.last() else {
        return Ok(None);
    };
    let document = rewritten(stored, writes.iter().copied()).map_err(|error| unfit(ns, &error))?;
    if document == stored.as_bytes() {
        return Ok(None);
    }
    let zeros = zero_timestamps(Document::new(&document).map_err(failed)?).map_err(failed)?;
    Ok(Some(Outcome {
        id: last.id,
        document_id: last.document_id,
        document,
        zeros,
    }))
}

/// A document of the fields that its updates happen to set.
fn made_up(
    ns: &str,
    document_id: Element<'_>,
    writes: &[&Write<'_>],
) -> Result<Vec<u8>, ConsumerError> {
    let mut bytes = Vec::new();
    let mut builder = DocumentBuilder::start(&mut bytes);
    builder.element(document_id);
    builder.finish();
    let empty = Document::new(&bytes).map_err(|error| damaged(ns, &error))?;
    rewritten(empty, writes.iter().copied()).map_err(|error| unfit(ns, &error))
}

fn unfit(ns: &str, error: &RewriteError) -> ConsumerError {
    ConsumerError::Refused(format!(
        "in {ns}: {error}: {}. Either of them is damaged: run verify, and replay from the beginning into an \
         empty target",
        error.error
    ))
}

fn damaged(ns: &str, error: &Malformed) -> ConsumerError {
    ConsumerError::Refused(format!("a document of {ns} is damaged: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::document::kind;
    use oplog_relay_core::json::parse_document;
    use oplog_relay_core::position::Timestamp;

    fn bson(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        parse_document(text.as_bytes(), &mut out).unwrap();
        out
    }

    fn write<'a>(increment: u32, id: &'a [u8], action: Action<'a>) -> Write<'a> {
        Write {
            id: EntryId {
                ts: Timestamp::new(1, increment),
                ord: 0,
            },
            document_id: Element {
                name: b"_id",
                kind: kind::INT32,
                value: id,
            },
            action,
        }
    }

    #[test]
    fn a_documents_writes_become_one_replacement_in_their_order() {
        let insert_z = bson(r#"{"i":{"z":1}}"#);
        let modify = bson(r#"{"$v":1,"$set":{"a.b":1,"c":1}}"#);
        let again = bson(r#"{"i":{"a":2}}"#);
        let writes = [
            write(
                1,
                &[1, 0, 0, 0],
                Action::Diff(Document::new(&insert_z).unwrap()),
            ),
            write(
                2,
                &[2, 0, 0, 0],
                Action::Diff(Document::new(&insert_z).unwrap()),
            ),
            write(
                3,
                &[1, 0, 0, 0],
                Action::Modify(Document::new(&modify).unwrap()),
            ),
            write(
                4,
                &[1, 0, 0, 0],
                Action::Diff(Document::new(&again).unwrap()),
            ),
        ];
        let mut pending = Pending::default();
        assert_eq!(take(&writes, &mut pending).unwrap(), 4);
        // The same `_id` as another type of number.
        let stored = bson(r#"{"_id":1.0,"a":0,"k":1}"#);
        let found = outcome("db.c", &stored, &mut pending).unwrap().unwrap();
        assert_eq!(
            found.document,
            bson(r#"{"_id":1.0,"k":1,"z":1,"c":1,"a":2}"#)
        );
        assert_eq!((found.id, found.zeros), (writes[3].id, None));
        assert_eq!(pending.len(), 1);
        // Somebody else's document.
        assert!(
            outcome("db.c", &bson(r#"{"_id":9}"#), &mut pending)
                .unwrap()
                .is_none()
        );
        // It is so already.
        let there = bson(r#"{"_id":2,"z":1}"#);
        assert!(outcome("db.c", &there, &mut pending).unwrap().is_none());
        assert!(pending.is_empty());
    }

    #[test]
    fn parts_end_before_the_first_document_too_many() {
        let diff = bson(r#"{"i":{"z":1}}"#);
        let ids: Vec<[u8; 4]> = (0..1_100_i32).map(i32::to_le_bytes).collect();
        let action = Action::Diff(Document::new(&diff).unwrap());
        let mut writes: Vec<Write<'_>> = ids.iter().map(|id| write(1, id, action)).collect();
        writes.insert(1_000, writes[0]);
        let mut pending = Pending::default();
        assert_eq!(take(&writes, &mut pending).unwrap(), 1_001);
        assert_eq!(pending.len(), AT_ONCE);
    }

    #[test]
    fn timestamp_zero_top_level_preserved() {
        let diff = bson(r#"{"i":{"z":1}}"#);
        let writes = [write(
            1,
            &[1, 0, 0, 0],
            Action::Diff(Document::new(&diff).unwrap()),
        )];
        let mut pending = Pending::default();
        take(&writes, &mut pending).unwrap();
        let zero = r#"{"$timestamp":{"t":0,"i":0}}"#;
        let stored = bson(&format!(r#"{{"_id":1,"t":{zero},"in":{{"t":{zero}}}}}"#));
        let found = outcome("db.c", &stored, &mut pending).unwrap().unwrap();
        assert_eq!(
            found.zeros,
            Some(bson(&format!(r#"{{"$set":{{"t":{zero}}}}}"#)))
        );
    }

    #[test]
    fn a_document_is_made_up_of_what_its_updates_set() {
        let diff = bson(r#"{"u":{"a":1},"i":{"b":2}}"#);
        let write = write(
            1,
            &[1, 0, 0, 0],
            Action::Diff(Document::new(&diff).unwrap()),
        );
        let made = made_up("db.c", write.document_id, &[&write]).unwrap();
        assert_eq!(made, bson(r#"{"_id":1,"a":1,"b":2}"#));
    }
}
