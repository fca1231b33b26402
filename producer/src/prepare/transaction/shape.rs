//! What a command entry is to a transaction, by its shape and not by the server's version.

use oplog_relay_core::document::{Element, Malformed};
use oplog_relay_core::entry::Entry;

use crate::error::ProducerError;
use crate::prepare::transaction::broken;
use crate::source::oplog::link::{Link, OpTime, previous};

/// A point where operations take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The entry before it, which may or may not be of its chain; `None` if it stands alone.
    pub previous: Option<OpTime>,
    /// A `commitTransaction`: the operations are in the prepared entry and those before it.
    pub prepared: bool,
    /// A transaction or a chain, whose operations have a place in it.
    pub transaction: bool,
    /// Operations of the chain, if it has several entries and this is the last of them.
    pub count: Option<u32>,
}

impl Commit {
    /// Returns true if nothing but its `prevOpTime` says that other entries belong to it.
    #[must_use]
    pub const fn stands_alone(&self) -> bool {
        !self.prepared && self.count.is_none()
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing of a transaction.
    Other,
    /// Operations that take effect with a later entry.
    Part(Link),
    /// Operations take effect.
    Commit(Commit),
    /// They never will; the entry before.
    Abort(Option<OpTime>),
}

impl Shape {
    /// Tells the shape of a command.
    ///
    /// An `applyOps` is of a transaction if the entry itself has `lsid` and `txnNumber` (what a
    /// user's command carries inside `o` is no session), of a chain of batched writes if it has a
    /// `prevOpTime` only. `multiOpType: 1` (vectored inserts, 8.0) says that each `applyOps` of
    /// the chain stands alone.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] for a command without a name, a field of the wrong type, or
    /// an end of a transaction that names no entry.
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
        let alone = entry.raw.get("multiOpType")?.map(Element::integer);
        if alone.transpose()? == Some(1) {
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
