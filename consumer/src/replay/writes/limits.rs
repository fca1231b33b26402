//! Limits for the size of a command and for the number of concurrent commands.

use mongodb::Client;
use mongodb::bson::doc;
use oplog_relay_runtime::mongo::{Hello, REPLY_LIMIT, in_time};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::replay::plan::{BulkKind, Write, statement_bytes};

/// Maximum number of statements in an `update` for FerretDB. With SQLite, FerretDB keeps a database
/// connection for every statement until the command ends, and has 100 connections. If one or several
/// commands need more, they wait for each other until their time limit. The throughput of FerretDB
/// does not depend on the size of a command.
const FERRETDB_STATEMENTS: usize = 8;
/// Maximum number of concurrent `update` commands to FerretDB, which leaves connections to other
/// members of the group.
const FERRETDB_UPDATES: usize = 2;

/// The limits of a target.
#[derive(Debug)]
pub(crate) struct Limits {
    bytes: usize,
    writes: usize,
    /// The limit of updates, if the target needs one.
    updates: Option<UpdateLimit>,
}

/// The limit of the `update` commands that a target runs concurrently.
#[derive(Debug)]
struct UpdateLimit {
    /// Maximum number of statements in a command.
    statements: usize,
    /// The permits to send a command.
    permits: Semaphore,
}

/// Writes that were split at the end of the next command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut<'w, 'a> {
    /// The writes that fit in the next command: at least one.
    pub(crate) next: &'w [Write<'a>],
    /// The other writes.
    pub(crate) rest: &'w [Write<'a>],
}

impl Limits {
    /// Returns the limits of a server, with default values for those that it does not report.
    ///
    /// All writes of a command are in the command's own document, which may be as large as the
    /// largest document (plus 16 KiB for the other fields).
    pub(crate) fn of(hello: &Hello, is_ferretdb: bool) -> Self {
        let limit = |reported: Option<i64>, default: usize| {
            reported
                .and_then(|reported| usize::try_from(reported).ok())
                .filter(|reported| *reported > 0)
                .unwrap_or(default)
        };
        let bytes = limit(hello.max_bson_object_size, 16 << 20)
            .min(limit(hello.max_message_size_bytes, 48_000_000));
        Self {
            bytes,
            writes: limit(hello.max_write_batch_size, 100_000).min(100_000),
            updates: is_ferretdb.then(|| UpdateLimit {
                statements: FERRETDB_STATEMENTS,
                permits: Semaphore::new(FERRETDB_UPDATES),
            }),
        }
    }

    /// Splits the writes at the end of the next command. All bulks pass through here, whether their
    /// collection is sharded or not. Moves do not: `MOVES_AT_ONCE` in `sharding/moved.rs` limits the
    /// number of documents in their transactions. Writes of a single document, such as a held one, do
    /// not either, because they always fit.
    pub(crate) fn cut<'w, 'a>(&self, kind: BulkKind, writes: &'w [Write<'a>]) -> Cut<'w, 'a> {
        let most = match &self.updates {
            Some(limit) if kind == BulkKind::Update => limit.statements,
            _ => self.writes,
        };
        let mut bytes = 0;
        let mut fits = |write: &Write<'_>| {
            bytes += statement_bytes(write);
            bytes <= self.bytes
        };
        let count = writes
            .iter()
            .take(most)
            .take_while(|write| fits(write))
            .count();
        let (next, rest) = writes.split_at(count.max(1).min(writes.len()));
        Cut { next, rest }
    }

    /// Waits for the permit to send a command of this kind; `None` if their number is not limited.
    pub(crate) async fn permit(&self, kind: BulkKind) -> Option<SemaphorePermit<'_>> {
        match &self.updates {
            // The semaphore is never closed.
            Some(limit) if kind == BulkKind::Update => limit.permits.acquire().await.ok(),
            _ => None,
        }
    }
}

/// Returns true if the target is FerretDB. A target that does not reply is treated as MongoDB.
pub(crate) async fn is_ferretdb(client: &Client) -> bool {
    let admin = client.database("admin");
    let asking = admin.run_command(doc! { "buildInfo": 1 });
    let reply = in_time(REPLY_LIMIT, asking).await;
    reply.is_ok_and(|reply| reply.contains_key("ferretdbVersion"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::plan::Action;
    use oplog_relay_core::document::{Document, Element, kind};
    use oplog_relay_core::position::{EntryId, Timestamp};

    #[test]
    fn commands_respect_bytes_and_counts_and_take_at_least_one_write() {
        let bytes = [5, 0, 0, 0, 0];
        let write = Write {
            id: EntryId {
                ts: Timestamp::new(1, 1),
                ord: 0,
            },
            origin: crate::record_position::Origin::NONE,
            document_id: Element {
                name: b"_id",
                kind: kind::NULL,
                value: &[],
            },
            action: Action::Insert(Document::new(&bytes).unwrap()),
            routing: crate::replay::plan::Routing::NONE,
        };
        let writes = [write; 20];
        let one = statement_bytes(&write);
        let cut = |bytes, most| {
            let limits = Limits {
                bytes,
                writes: most,
                updates: None,
            };
            limits.cut(BulkKind::Insert, &writes).next.len()
        };
        assert_eq!(cut(one * 3, 30), 3);
        assert_eq!(cut(one * 30, 2), 2);
        assert_eq!(cut(one * 30, 30), 20);
        assert_eq!(cut(1, 30), 1);
        let hello = Hello {
            max_write_batch_size: Some(10),
            ..Hello::default()
        };
        let limits = Limits::of(&hello, false);
        assert_eq!(limits.cut(BulkKind::Update, &writes).next.len(), 10);
    }

    #[tokio::test]
    async fn concurrent_updates_to_ferretdb_are_limited_but_other_writes_are_not() {
        let limits = Limits::of(&Hello::default(), true);
        let mut permits = Vec::new();
        for _ in 0..FERRETDB_UPDATES {
            permits.push(limits.permit(BulkKind::Update).await);
        }
        assert!(limits.permit(BulkKind::Insert).await.is_none());
        let waits = std::time::Duration::from_millis(10);
        assert!(
            tokio::time::timeout(waits, limits.permit(BulkKind::Update))
                .await
                .is_err()
        );
        permits.clear();
        assert!(limits.permit(BulkKind::Update).await.is_some());
    }
}
