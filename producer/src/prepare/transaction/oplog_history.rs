//! The earlier entries of a live source's transactions, which are read from the oplog again at the
//! commit.

use std::collections::BTreeMap;

use oplog_relay_core::position::{OpTime, Timestamp};
use tokio::runtime::Handle;

use crate::error::ProducerError;
use crate::source::oplog::Oplog;
use crate::source::oplog::link::Link;

/// Maximum number of remembered links of open transactions; the oldest are dropped first. A link that
/// is not remembered is read from the server again.
const LINKS: usize = 1 << 16;

/// A reader of the oplog by time, for a thread that may block.
#[derive(Debug)]
pub struct OplogHistory {
    oplog: Oplog,
    runtime: Handle,
    seen: BTreeMap<Timestamp, Link>,
    limit: usize,
}

impl OplogHistory {
    /// Creates a reader of an oplog on a runtime.
    #[must_use]
    pub const fn new(oplog: Oplog, runtime: Handle) -> Self {
        Self {
            oplog,
            runtime,
            seen: BTreeMap::new(),
            limit: LINKS,
        }
    }

    /// Remembers the link of an entry that the tail has read.
    pub fn remember(&mut self, link: Link) {
        self.seen.insert(link.at.ts, link);
        if self.seen.len() > self.limit {
            self.seen.pop_first();
        }
    }

    /// Returns the remembered link of an entry.
    #[must_use]
    pub fn known(&self, at: OpTime) -> Option<Link> {
        self.seen.get(&at.ts).copied().filter(|link| link.at == at)
    }

    /// Returns the link of an entry, remembered or read from the server; `None` if it is gone.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`ProducerError::Behind`] if the oplog should contain it.
    pub fn link(&self, at: OpTime) -> Result<Option<Link>, ProducerError> {
        if let Some(link) = self.known(at) {
            return Ok(Some(link));
        }
        self.runtime.block_on(self.oplog.link(at))
    }

    /// Reads an entry from the server; returns `None` if it is gone.
    ///
    /// # Errors
    /// The errors of [`OplogHistory::link`].
    pub fn read(&self, at: OpTime) -> Result<Option<Vec<u8>>, ProducerError> {
        self.runtime.block_on(self.oplog.entry(at))
    }

    /// Forgets an entry.
    pub fn forget(&mut self, at: OpTime) {
        self.seen.remove(&at.ts);
    }
}

#[cfg(test)]
mod tests {
    use mongodb::Client;

    use super::*;

    #[tokio::test]
    async fn links_are_remembered_up_to_a_limit_and_by_term() {
        let client = Client::with_uri_str("mongodb://127.0.0.1:9").await.unwrap();
        let mut walk = OplogHistory::new(Oplog::new(&client), Handle::current());
        walk.limit = 2;
        let at = |seconds| OpTime {
            ts: Timestamp::new(seconds, 1),
            term: 1,
        };
        for seconds in 1..=3 {
            walk.remember(Link {
                at: at(seconds),
                partial: true,
                prepare: false,
                count: None,
                previous: None,
            });
        }
        assert_eq!(walk.known(at(1)), None);
        assert!(walk.known(at(2)).is_some());
        let other = OpTime { term: 2, ..at(3) };
        assert_eq!(walk.known(other), None);
        walk.forget(at(3));
        assert_eq!(walk.known(at(3)), None);
    }
}
