//! A document that gets another shard key, and the commands that delete and insert it.

use oplog_relay_core::document::Malformed;
use oplog_relay_core::namespace::Namespace;

use crate::error::ConsumerError;
use crate::replay::plan::{
    Action, BulkKind, CommandOptions, Write, restoring_zeros, write_command,
};
use crate::replay::sharding::routed::Sending;
use crate::replay::sharding::run::Values;
use crate::replay::sink::MongoSink;
use crate::replay::writes::bulk::{MAX_TIME_MS, Sent};
use crate::worker::assignment::Token;

/// A document that moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move<'m> {
    /// The insert of the new form.
    pub(crate) write: Write<'m>,
    /// The values of the shard key with which the document is stored.
    pub(crate) stored: &'m [Values],
    /// The stored document, if the new form was derived from it.
    pub(crate) before: Option<&'m [u8]>,
}

/// The commands of a transaction.
pub(crate) struct MoveCommands {
    pub(crate) delete: Vec<u8>,
    pub(crate) insert: Vec<u8>,
    /// The update that restores the zero timestamps of the inserted documents, if there are any. It is
    /// part of the transaction, because a crash after a separate one would leave the server's time in
    /// them.
    pub(crate) restore: Option<Vec<u8>>,
    /// True if the insert bypasses the validators of the target.
    pub(crate) bypasses: bool,
}

impl MoveCommands {
    pub(crate) fn new(
        sending: Sending<'_>,
        moves: &[Move<'_>],
        bypasses: bool,
    ) -> Result<Self, Malformed> {
        let collection = Namespace::split(sending.ns).collection;
        let mut deletes = Vec::new();
        for one in moves {
            deletes.extend(deletes_of(sending, one)?);
        }
        let inserts: Vec<Write<'_>> = moves.iter().map(|one| one.write).collect();
        let mut zeros = Vec::new();
        for insert in &inserts {
            let restoring = restoring_zeros(insert.action, true)?;
            zeros.extend(restoring.map(|action| Write { action, ..*insert }));
        }
        let options = CommandOptions {
            bypass_validation: bypasses,
            upsert_unmatched: false,
            max_time_ms: MAX_TIME_MS,
            literal_zeros: true,
            in_transaction: true,
        };
        let (mut delete, mut insert) = (Vec::new(), Vec::new());
        write_command(collection, BulkKind::Delete, &deletes, options, &mut delete)?;
        write_command(collection, BulkKind::Insert, &inserts, options, &mut insert)?;
        let restore = if zeros.is_empty() {
            None
        } else {
            let mut restore = Vec::new();
            write_command(collection, BulkKind::Update, &zeros, options, &mut restore)?;
            Some(restore)
        };
        Ok(Self {
            delete,
            insert,
            restore,
            bypasses,
        })
    }
}

impl MongoSink {
    /// Inserts a document that was deleted to be moved. If it has zero timestamps, it is sent as an upsert
    /// of a literal, which keeps them: a crash before a second write would leave the server's time in
    /// them.
    pub(crate) async fn insert_moved(
        &self,
        ns: &str,
        insert: Write<'_>,
        token: &Token,
    ) -> Result<Sent, ConsumerError> {
        let (mut kind, mut write) = (BulkKind::Insert, insert);
        if let Action::Insert(document) = insert.action
            && self.restoring_zeros(ns, insert.action)?.is_some()
        {
            (kind, write.action) = (BulkKind::Update, Action::Replace(document));
        }
        let mut writes = vec![write];
        let restoring = self.restoring_zeros(ns, write.action)?;
        writes.extend(restoring.map(|action| Write { action, ..write }));
        Box::pin(self.send_routed(ns, kind, &writes, token)).await
    }
}

/// Returns the deletes of the stored forms of a document.
pub(crate) fn deletes_of<'m>(
    sending: Sending<'_>,
    one: &Move<'m>,
) -> Result<Vec<Write<'m>>, Malformed> {
    let mut deletes = Vec::new();
    for values in one.stored {
        deletes.push(Write {
            action: Action::Delete,
            routing: sending.key.routing(values)?,
            ..one.write
        });
    }
    Ok(deletes)
}
