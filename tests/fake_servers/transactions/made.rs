//! Handmade entries of a source, in the forms of servers from 4.2 on.

use anyhow::Result;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document as Doc, Timestamp as BsonTimestamp, doc};
use oplog_relay_kit::stub::{Oplog, Server};

pub(crate) const TERM: i64 = 3;

/// Entries by their second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    entries: Vec<(u32, Vec<u8>)>,
}

/// The place of an entry in a transaction or among retryable writes: its session and the entry
/// before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) session: u8,
    /// The second of the previous entry; 0 for the first one.
    pub(crate) previous: u32,
}

fn ts(seconds: u32) -> BsonTimestamp {
    let increment = u32::from(seconds > 0);
    BsonTimestamp {
        time: seconds,
        increment,
    }
}

fn insert(id: i32) -> Doc {
    doc! { "op": "i", "ns": "shop.a", "o": { "_id": id } }
}

impl Made {
    fn push(&mut self, seconds: u32, fields: Doc) -> &mut Made {
        let mut entry = doc! { "ts": ts(seconds), "t": TERM, "v": 2_i64 };
        entry.extend(fields);
        let bytes = entry.to_vec().expect("an entry");
        self.entries.push((seconds, bytes));
        self
    }

    /// Adds an insert outside of a transaction.
    pub(crate) fn insert(&mut self, seconds: u32, id: i32) -> &mut Made {
        self.push(seconds, insert(id))
    }

    /// Adds a statement of a retryable write.
    pub(crate) fn retryable(&mut self, seconds: u32, id: i32, part: Part) -> &mut Made {
        let mut entry = insert(id);
        entry.extend(part.fields());
        self.push(seconds, entry)
    }

    /// Adds a command in a transaction.
    pub(crate) fn command(&mut self, seconds: u32, o: Doc, part: Part) -> &mut Made {
        let mut entry = doc! { "op": "c", "ns": "admin.$cmd", "o": o };
        entry.extend(part.fields());
        self.push(seconds, entry)
    }

    /// Adds an `applyOps` of inserts, with the fields of `flags` in `o`.
    pub(crate) fn operations(
        &mut self,
        seconds: u32,
        ids: std::ops::Range<i32>,
        flags: Doc,
        part: Part,
    ) -> &mut Made {
        let mut o = doc! { "applyOps": ids.map(insert).collect::<Vec<_>>() };
        o.extend(flags);
        self.command(seconds, o, part)
    }

    /// Adds an `applyOps` of inserts with the given fields beside `o`.
    pub(crate) fn operations_with(
        &mut self,
        seconds: u32,
        ids: std::ops::Range<i32>,
        fields: Doc,
    ) -> &mut Made {
        let o = doc! { "applyOps": ids.map(insert).collect::<Vec<_>>() };
        let mut entry = doc! { "op": "c", "ns": "admin.$cmd", "o": o };
        entry.extend(fields);
        self.push(seconds, entry)
    }

    /// Returns the bytes of all entries.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.without(|_| false)
    }

    /// Returns the bytes of the entries except those of some seconds.
    pub(crate) fn without(&self, gone: impl Fn(u32) -> bool) -> Vec<u8> {
        let left = self.entries.iter().filter(|(seconds, _)| !gone(*seconds));
        left.flat_map(|(_, bytes)| bytes).copied().collect()
    }

    /// Serves all entries.
    pub(crate) fn serve(&self) -> Result<Server> {
        Ok(Server::start(Oplog::given(&self.bytes())?)?)
    }

    /// Serves the entries except those of some seconds.
    pub(crate) fn serve_without(&self, gone: impl Fn(u32) -> bool) -> Result<Server> {
        Ok(Server::start(Oplog::given(&self.without(gone))?)?)
    }
}

impl Part {
    fn fields(self) -> Doc {
        let id = Bson::Binary(Binary {
            subtype: BinarySubtype::Uuid,
            bytes: vec![self.session; 16],
        });
        let term = if self.previous == 0 { -1 } else { TERM };
        doc! {
            "lsid": { "id": id }, "txnNumber": 1_i64,
            "prevOpTime": { "ts": ts(self.previous), "t": term },
        }
    }
}

/// Returns the part of a session that follows the entry of the given second.
pub(crate) fn part(session: u8, previous: u32) -> Part {
    Part { session, previous }
}

/// Returns a transaction in three entries that fills several chunks (seconds 7 to 15). Around it
/// are a small one (2 to 18), a prepared one that commits after it (6 to 17), an aborted one (4 to
/// 9), and single entries.
pub(crate) fn history() -> Made {
    let mut made = Made::default();
    let partial = || doc! { "partialTxn": true };
    made.insert(1, 1)
        .operations(2, 100..110, partial(), part(1, 0))
        .insert(3, 2)
        .operations(4, 300..303, partial(), part(4, 0))
        .operations(
            5,
            303..305,
            doc! { "prepare": true, "count": 5 },
            part(4, 4),
        )
        .operations(6, 200..202, doc! { "prepare": true }, part(3, 0))
        .operations(7, 10_000..20_000, partial(), part(2, 0))
        .insert(8, 3)
        .command(9, doc! { "abortTransaction": 1 }, part(4, 5))
        .operations(11, 20_000..29_000, partial(), part(2, 7))
        .insert(12, 4)
        .operations(15, 29_000..30_000, doc! { "count": 20_000 }, part(2, 11))
        .insert(16, 5)
        .command(17, doc! { "commitTransaction": 1 }, part(3, 6))
        .operations(18, 110..112, doc! { "count": 12 }, part(1, 2))
        .insert(19, 6);
    made
}
