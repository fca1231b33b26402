//! Transactions and other `applyOps` entries: the role of each entry, and the other entries of its
//! chain.
//!
//! MongoDB logs a transaction as one `applyOps`, or as a chain of them linked by `prevOpTime`; it takes
//! effect at its commit point, the last `applyOps` or a `commitTransaction`. There it is split: each
//! operation becomes an entry with the commit's `ts`, `t`, `wall`, `lsid` and `txnNumber`. Entries
//! before the commit point, and aborts, only advance the position.
//!
//! | file | contents |
//! | --- | --- |
//! | `shape` | the role of an entry: part, commit, abort or other |
//! | `operation` | the operations in an `applyOps`, and the entries built from them |
//! | `oplog_history` | a live source: earlier entries are read from the oplog again at the commit |
//! | `spooled` | a dump: earlier entries are stored, in a temporary file beyond a memory budget |
//!
//! # Ordinals and places
//!
//! `ord` counts the operations of all entries of a chain from 0, before any filter and including
//! `n` operations, which never become records. So (source, ts, ord) is unique, and a restart finds
//! the same numbers with any filter. Operations of transactions and of chains, whose parts take
//! effect together, get `txn {index, count}`. Operations of any other `applyOps` (vectored inserts,
//! deletes by TTL, a user's `applyOps` command) have ordinals but no `txn`.
//!
//! # The start of a chain
//!
//! A chain is followed back from its commit point, only to entries with `partialTxn` and, from a
//! `commitTransaction`, to one with `prepare`, because `prevOpTime` also links the statements of
//! retryable writes. A missing entry of the chain ends the stream with a lost position, with two
//! exceptions. A stream that started with the oldest entry of the oplog skips a transaction with
//! earlier entries as a whole, with a warning and a count. An `applyOps` without the number of
//! operations of its chain counts as a chain of its own if the missing entry is from before such a
//! start or, in a dump, was not stored as a part, because a server writes the number into the last
//! entry of a chain of several entries.

mod operation;
pub(crate) mod oplog_history;
mod shape;
pub(crate) mod spooled;

use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::position::{OpTime, Timestamp};
use oplog_relay_core::state::History;
use oplog_relay_runtime::shutdown::Shutdown;

use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::position_lost::PositionLost;
use crate::source::oplog::link::Link;

pub use crate::prepare::transaction::oplog_history::OplogHistory;
pub use crate::prepare::transaction::spooled::SpooledParts;
pub use operation::{Operations, build};
pub use shape::{Commit, Shape};

/// The store of the earlier entries of a chain.
#[derive(Debug)]
pub enum Parts {
    /// The oplog, from which they are read again.
    Live(OplogHistory),
    /// A local store, because a dump is read only once.
    Spooled(SpooledParts),
}

impl Parts {
    fn link(&mut self, at: OpTime) -> Result<Option<Link>, ProducerError> {
        match self {
            Self::Live(walk) => walk.link(at),
            Self::Spooled(kept) => Ok(kept.link(at)),
        }
    }

    /// Returns true if an entry that was not found is certainly not a part of the transaction whose
    /// commit names it. The store of a dump contains every part since the start of the stream. In
    /// the oplog, only an entry from before `begin`, the start of the stream, is ruled out.
    fn rules_out(&self, at: OpTime, begin: Option<Timestamp>) -> bool {
        match self {
            Self::Live(_) => begin.is_some_and(|begin| at.ts < begin),
            Self::Spooled(kept) => !kept.has_another_at(at),
        }
    }

    fn known(&self, at: OpTime) -> Option<Link> {
        match self {
            Self::Live(walk) => walk.known(at),
            Self::Spooled(kept) => kept.link(at),
        }
    }

    fn forget(&mut self, at: OpTime) {
        match self {
            Self::Live(walk) => walk.forget(at),
            Self::Spooled(kept) => kept.forget(at),
        }
    }
}

/// The role of an entry in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// An entry outside of transactions.
    Plain,
    /// A part of an open transaction, which produces no record yet.
    Part,
    /// The end of a transaction that never takes effect.
    Abort,
    /// A commit point, at which operations take effect.
    Commit(Commit),
}

/// The entries of a chain before its commit point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Their optimes, the newest first.
    pub parts: Vec<OpTime>,
    /// Number of operations of the whole chain, if the server reports it.
    pub count: Option<u32>,
}

/// The transactions of one source.
#[derive(Debug)]
pub struct Transactions {
    parts: Parts,
    /// Time of the first entry, if the stream started with the oldest available entry.
    begin: Option<Timestamp>,
    /// Time of the first entry of the oldest transaction that was open at the saved position;
    /// `None` as soon as an entry of the dump has been read.
    unread: Option<Timestamp>,
    /// True if the next entry is the first of a stream that starts with the oldest available entry.
    from_oldest: bool,
    shutdown: Shutdown,
}

impl Transactions {
    /// Creates the state of a stream that continues with the saved `history`, or that starts with the
    /// oldest entry.
    #[must_use]
    pub const fn new(
        parts: Parts,
        history: History,
        from_oldest: bool,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            parts,
            begin: history.begin,
            unread: history.open,
            from_oldest,
            shutdown,
        }
    }

    /// Returns the history that transactions after the last entry may need.
    #[must_use]
    pub fn history(&self) -> History {
        History {
            begin: self.begin,
            open: match &self.parts {
                Parts::Live(_) => None,
                Parts::Spooled(kept) => self.unread.or_else(|| kept.oldest()),
            },
        }
    }

    /// Determines the role of an entry, and stores what later entries of its chain need.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] for a damaged entry, [`ProducerError::File`] if the temporary
    /// file fails.
    #[inline]
    pub fn see(&mut self, entry: &Entry<'_>) -> Result<Seen, ProducerError> {
        if self.from_oldest {
            self.from_oldest = false;
            self.begin = Some(entry.ts);
        }
        if let Parts::Spooled(kept) = &mut self.parts {
            self.unread = None;
            kept.term_moved_on(entry);
            kept.session_moved_on(entry);
        }
        if entry.operation != Operation::Command {
            return Ok(Seen::Plain);
        }
        self.see_command(entry)
    }

    fn see_command(&mut self, entry: &Entry<'_>) -> Result<Seen, ProducerError> {
        Ok(match Shape::of(entry)? {
            Shape::Other => Seen::Plain,
            Shape::Part(link) => {
                match &mut self.parts {
                    Parts::Live(walk) => walk.remember(link),
                    Parts::Spooled(kept) => kept.keep(entry, link)?,
                }
                Seen::Part
            }
            Shape::Abort(previous) => {
                self.forget_from(previous);
                Seen::Abort
            }
            Shape::Commit(commit) => Seen::Commit(commit),
        })
    }

    /// Processes an entry from before the start. It matters only if it belongs to a transaction
    /// that is still open at the start.
    ///
    /// # Errors
    /// The errors of [`Transactions::see`].
    pub fn recall(&mut self, entry: &Entry<'_>) -> Result<(), ProducerError> {
        if let Seen::Commit(commit) = self.see(entry)? {
            self.forget_from(commit.previous);
        }
        Ok(())
    }

    /// Finds the entries of a commit's chain. Logs a warning and returns `None` if the chain starts
    /// before the stream.
    ///
    /// # Errors
    /// [`ProducerError::PositionLost`] if an entry is gone; [`ProducerError::Undecodable`] if the
    /// chain is inconsistent; [`ProducerError::Interrupted`]; the error of a live source.
    pub fn chain(
        &mut self,
        entry: &Entry<'_>,
        commit: &Commit,
    ) -> Result<Option<Chain>, ProducerError> {
        let mut chain = Chain {
            parts: Vec::new(),
            count: commit.count,
        };
        let (mut next, mut last) = (commit.previous, entry.ts);
        while let Some(at) = next {
            // Otherwise a circular chain would be followed indefinitely.
            if at.ts >= last {
                return Err(broken(
                    entry,
                    "its prevOpTime does not name an earlier entry",
                ));
            }
            if self.shutdown.triggered() {
                return Err(ProducerError::Interrupted);
            }
            let first = chain.parts.is_empty();
            let Some(link) = self.parts.link(at)? else {
                if first && commit.stands_alone() && self.parts.rules_out(at, self.begin) {
                    break;
                }
                return self.gone(entry, at, &chain);
            };
            if !(link.partial || (link.prepare && commit.prepared && first)) {
                break;
            }
            if first {
                chain.count = chain.count.or(link.count);
            }
            chain.parts.push(at);
            (next, last) = (link.previous, at.ts);
        }
        if commit.prepared && chain.parts.is_empty() {
            return Err(broken(entry, "its prevOpTime names no prepared entry"));
        }
        Ok(Some(chain))
    }

    fn gone(
        &mut self,
        entry: &Entry<'_>,
        part: OpTime,
        chain: &Chain,
    ) -> Result<Option<Chain>, ProducerError> {
        if self.begin.is_none_or(|begin| part.ts >= begin) {
            return Err(lost(entry, part));
        }
        tracing::warn!(
            commit = %entry.ts,
            missing = %part.ts,
            "a transaction is not sent, because it began before the stream (--start oldest) or in a gap \
             (position set --allow-gap), and its first entries are gone. Everything that it changed at \
             the time of its commit is missing on the targets: correct them with oplog-consumer verify \
             --repair"
        );
        self.forget(chain);
        Ok(None)
    }

    /// Returns the bytes of an earlier entry of the chain of `entry`.
    ///
    /// # Errors
    /// The errors of [`Transactions::chain`]; [`ProducerError::File`] if the temporary file fails.
    pub fn read(&mut self, entry: &Entry<'_>, at: OpTime) -> Result<Vec<u8>, ProducerError> {
        if self.shutdown.triggered() {
            return Err(ProducerError::Interrupted);
        }
        let found = match &mut self.parts {
            Parts::Live(walk) => walk.read(at)?,
            Parts::Spooled(kept) => kept.read(at)?,
        };
        found.ok_or_else(|| lost(entry, at))
    }

    /// Forgets the entries of a chain.
    pub fn forget(&mut self, chain: &Chain) {
        for at in &chain.parts {
            self.parts.forget(*at);
        }
    }

    /// Forgets a chain that produces no records, from its last entry back.
    fn forget_from(&mut self, mut next: Option<OpTime>) {
        while let Some(at) = next {
            let known = self.parts.known(at);
            self.parts.forget(at);
            next = known.and_then(|link| link.previous);
        }
    }
}

fn lost(entry: &Entry<'_>, part: OpTime) -> ProducerError {
    let lost = PositionLost::ChainGone {
        commit: entry.ts,
        part: part.ts,
    };
    Box::new(lost).into()
}

/// Returns the error for an entry whose chain is inconsistent.
pub fn broken(entry: &Entry<'_>, reason: &str) -> ProducerError {
    EntryFault::Transaction {
        commit: entry.ts,
        reason: reason.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests;
