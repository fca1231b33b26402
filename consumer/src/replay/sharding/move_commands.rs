//! A document that gets another shard key, and the commands that delete and insert it.

use oplog_relay_core::document::Malformed;
use oplog_relay_core::namespace::Namespace;

use crate::replay::plan::{Action, BulkKind, CommandOptions, Write, write_command};
use crate::replay::sharding::routed::Sending;
use crate::replay::sharding::run::Values;
use crate::replay::writes::bulk::MAX_TIME_MS;

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
        let options = CommandOptions {
            bypass_validation: bypasses,
            upsert_unmatched: false,
            max_time_ms: MAX_TIME_MS,
            in_transaction: true,
        };
        let (mut delete, mut insert) = (Vec::new(), Vec::new());
        write_command(collection, BulkKind::Delete, &deletes, options, &mut delete)?;
        write_command(collection, BulkKind::Insert, &inserts, options, &mut insert)?;
        Ok(Self {
            delete,
            insert,
            bypasses,
        })
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
