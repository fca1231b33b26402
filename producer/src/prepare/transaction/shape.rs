//! The role of a command entry in a transaction, determined by its fields and not by the server's
//! version.

use oplog_relay_core::document::{Element, Malformed};
use oplog_relay_core::entry::Entry;

use oplog_relay_core::position::OpTime;

use crate::error::ProducerError;
use crate::prepare::transaction::broken;
use crate::source::oplog::link::{Link, previous};

/// A point at which operations take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The entry that `prevOpTime` names, which is not always part of the same chain; `None` if the
    /// field is missing or null.
    pub previous: Option<OpTime>,
    /// True for a `commitTransaction`: the operations are in the prepared entry and those before it.
    pub prepared: bool,
    /// True for a transaction or a chain, so that its operations get `txn`.
    pub transaction: bool,
    /// Number of operations of the chain, if it has several entries and this is the last of them.
    pub count: Option<u32>,
}

impl Commit {
    /// Returns true if nothing but `prevOpTime` suggests that other entries belong to this commit.
    #[must_use]
    pub const fn stands_alone(&self) -> bool {
        !self.prepared && self.count.is_none()
    }
}

/// The role of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An entry that is not part of a transaction.
    Other,
    /// Operations that take effect with a later entry.
    Part(Link),
    /// The point at which operations take effect.
    Commit(Commit),
    /// An abort, with the optime of the last entry of the transaction.
    Abort(Option<OpTime>),
}

impl Shape {
    /// Determines the role of a command.
    ///
    /// An `applyOps` belongs to a transaction if the entry itself has `lsid` and `txnNumber` (fields of
    /// a user's command inside `o` are not a session), and to a chain of batched writes if it only has
    /// a `prevOpTime`. `multiOpType: 1` (vectored inserts, 8.0) means that each `applyOps` of the chain
    /// stands alone.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] for a command without a name, or a field of the wrong type.
    pub fn of(entry: &Entry<'_>) -> Result<Self, ProducerError> {
        let name = entry.command()?.name;
        let damaged = |error: Malformed| broken(entry, &error.to_string());
        match name {
            b"applyOps" => Self::of_apply_ops(entry).map_err(damaged),
            b"commitTransaction" => {
                let previous = previous(entry.raw).map_err(damaged)?;
                Ok(Self::Commit(Commit {
                    previous,
                    prepared: true,
                    transaction: true,
                    count: None,
                }))
            }
            b"abortTransaction" => Ok(Self::Abort(previous(entry.raw).map_err(damaged)?)),
            _ => Ok(Self::Other),
        }
    }

    fn of_apply_ops(entry: &Entry<'_>) -> Result<Self, Malformed> {
        let multi_op_type = entry.raw.get("multiOpType")?.map(Element::integer);
        if multi_op_type.transpose()? == Some(1) {
            return Ok(Self::Commit(Commit {
                previous: None,
                prepared: false,
                transaction: false,
                count: None,
            }));
        }
        let link = Link::read(entry.raw)?;
        if link.partial || link.prepare {
            return Ok(Self::Part(link));
        }
        let session = entry.lsid.is_some() && entry.txn_number.is_some();
        let chained = entry.raw.get("prevOpTime")?.is_some();
        Ok(Self::Commit(Commit {
            previous: link.previous,
            prepared: false,
            transaction: session || chained,
            count: link.count,
        }))
    }
}
