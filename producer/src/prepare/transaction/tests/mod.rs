//! Encodes entries of every shape, as a dump contains them.

mod chains;
mod restart;
mod shapes;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document as Doc, Timestamp as BsonTimestamp, doc};
use oplog_relay_core::document::Document;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::Format;
use oplog_relay_core::position::{EntryId, Position};
use oplog_relay_core::state::State;

use super::*;
use crate::encode::Encoder;
use crate::encode::chunk::Chunk;
use crate::prepare::route::Router;
use crate::prepare::topics::Topics;
use crate::source::Batch;

const TERM: i64 = 3;

fn ts(seconds: u32) -> BsonTimestamp {
    BsonTimestamp {
        time: seconds,
        increment: 1,
    }
}

fn uuid(byte: u8) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Uuid,
        bytes: vec![byte; 16],
    })
}

/// Returns the fields `lsid` and `txnNumber` of a session.
fn session(session: u8, number: i64) -> Doc {
    doc! { "lsid": { "id": uuid(session) }, "txnNumber": number }
}

/// Returns the field `prevOpTime` with the given time, or with the null optime for 0.
fn after(seconds: u32) -> Doc {
    let none = BsonTimestamp {
        time: 0,
        increment: 0,
    };
    match seconds {
        0 => doc! { "prevOpTime": { "ts": none, "t": -1_i64 } },
        _ => doc! { "prevOpTime": { "ts": ts(seconds), "t": TERM } },
    }
}

fn owned((name, value): (&String, &Bson)) -> (String, Bson) {
    (name.clone(), value.clone())
}

/// Returns an entry of `admin.$cmd` with the fields of `more`.
fn command(seconds: u32, o: Doc, more: &[Doc]) -> Vec<u8> {
    let mut entry = doc! {
        "op": "c", "ns": "admin.$cmd", "o": o, "ts": ts(seconds), "t": TERM, "v": 2_i64,
        "wall": bson::DateTime::from_millis(i64::from(seconds) * 1000 + 5),
    };
    entry.extend(more.iter().flatten().map(owned));
    entry.to_vec().unwrap()
}

fn insert(id: i32) -> Doc {
    doc! { "op": "i", "ns": "shop.a", "ui": uuid(9), "o": { "_id": id } }
}

fn inserts(ids: std::ops::Range<i32>) -> Vec<Doc> {
    ids.map(insert).collect()
}

/// Returns a single insert, outside of any transaction.
fn plain(seconds: u32, id: i32, more: &[Doc]) -> Vec<u8> {
    let mut entry = doc! { "ts": ts(seconds), "t": TERM, "v": 2_i64 };
    entry.extend(insert(id));
    entry.extend(more.iter().flatten().map(owned));
    entry.to_vec().unwrap()
}

/// The start of a stream.
struct Start {
    format: Format,
    spooled: SpooledParts,
    history: History,
    from_oldest: bool,
    end: Option<Position>,
    filter: NamespaceFilter,
    earlier: Vec<u8>,
    shutdown: Shutdown,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            format: Format::Bson,
            spooled: SpooledParts::default(),
            history: History::default(),
            from_oldest: true,
            end: None,
            filter: NamespaceFilter::default(),
            earlier: Vec::new(),
            shutdown: Shutdown::manual(),
        }
    }
}

/// A record of a data topic.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    /// `seconds/ord`
    id: String,
    topic: String,
    entry: Doc,
}

impl Record {
    /// Returns the index of the operation in its transaction, and the number of operations there.
    fn place(&self) -> Option<(i32, i32)> {
        let txn = self.entry.get_document("txn").ok()?;
        txn.get_i32("index").ok().zip(txn.get_i32("count").ok())
    }
}

/// The result of a sequence of entries.
#[derive(Debug, Default)]
struct Outcome {
    records: Vec<Record>,
    /// Position and history at the end of each chunk, and the number of records before it.
    ends: Vec<(Position, History, usize)>,
    counts: crate::encode::chunk::TransactionCounts,
    topics: Vec<String>,
}

impl Outcome {
    fn take(&mut self, chunk: &mut Chunk) {
        let new = chunk.new_topics.drain(..);
        self.topics.extend(new.map(|topic| topic.name));
        for record in &chunk.records {
            let topic = self.topics[record.topic.0].clone();
            let Some(header) = &record.header else {
                continue;
            };
            let id = String::from_utf8(chunk.bytes(&header.value).to_vec()).unwrap();
            let id = id.replace("rs0/", "").replace(":1/", "/");
            let entry = Doc::from_reader(chunk.bytes(&record.value)).unwrap();
            self.records.push(Record { id, topic, entry });
        }
        if let Some(barrier) = &chunk.barrier {
            let EntryId { ts, ord } = barrier.id;
            let leader = barrier.topics[0].topic;
            self.records.push(Record {
                id: format!("{}/{ord}", ts.seconds),
                topic: self.topics[leader.0].clone(),
                entry: Doc::from_reader(chunk.bytes(&barrier.entry)).unwrap(),
            });
        }
        let end = chunk.reached.position.unwrap();
        if chunk.counts.source_bytes > 0 || chunk.counts.transactions.operations > 0 {
            assert_eq!(chunk.reached.wall / 1000, i64::from(end.ts.seconds));
        }
        self.ends
            .push((end, chunk.reached.history, self.records.len()));
        self.counts += chunk.counts.transactions;
        chunk.clear();
    }

    fn ids(&self) -> Vec<&str> {
        self.records.iter().map(|record| &*record.id).collect()
    }

    /// Returns the `_id`s of the documents, in order.
    fn documents(&self) -> Vec<i32> {
        let id = |record: &Record| record.entry.get_document("o")?.get_i32("_id");
        self.records.iter().filter_map(|r| id(r).ok()).collect()
    }

    fn open(&self) -> Option<u32> {
        let (_, history, _) = self.ends.last().unwrap();
        history.open.map(|open| open.seconds)
    }
}

fn encoder(start: Start) -> Encoder {
    let router = Router::new("cdc", start.filter, State::default());
    let topics = Topics::Nowhere {
        state_topic: "__cdc.state.rs0".to_owned(),
        partitions: 4,
    };
    let transactions = Transactions::new(
        Parts::Spooled(start.spooled),
        start.history,
        start.from_oldest,
        start.shutdown,
    );
    Encoder::new(
        "rs0",
        start.format,
        router,
        topics,
        start.end,
        None,
        transactions,
    )
}

fn run_from(start: Start, entries: &[Vec<u8>]) -> Result<Outcome, ProducerError> {
    let earlier = Batch::Bytes(start.earlier.clone());
    let mut encoder = encoder(start);
    let mut outcome = Outcome::default();
    let mut chunk = Chunk::default();
    encoder.recall(&earlier)?;
    let batch = Batch::Bytes(entries.concat());
    encoder.encode(&batch, &mut chunk, &mut |chunk| {
        outcome.take(chunk);
        Ok(())
    })?;
    outcome.take(&mut chunk);
    Ok(outcome)
}

fn run(entries: &[Vec<u8>]) -> Outcome {
    run_from(Start::default(), entries).unwrap()
}

fn refusal(entries: &[Vec<u8>]) -> String {
    run_from(Start::default(), entries).unwrap_err().to_string()
}
