mod before_lookup;
mod current_lookup;
mod for_readers;
mod frames;
mod old_servers;
mod router_headers;

use oplog_relay_core::barrier::{BARRIER_ORD, Barrier, TopicBarriers};
use oplog_relay_core::document::{DocumentBuilder, kind};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::ID_HEADER;
use oplog_relay_core::json::Mode;
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::routing::{RoutingChange, SpreadCollection};
use oplog_relay_core::state::{History, Order, OrderRule, State};
use oplog_relay_runtime::shutdown::Shutdown;

use super::*;
use crate::prepare::transaction::{Parts, SpooledParts};

fn entry(seconds: u32, op: &str, ns: &str, id: i32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw(
        "ts",
        kind::TIMESTAMP,
        &Timestamp::new(seconds, 1).to_le_bytes(),
    );
    entry
        .int64("t", 3)
        .int32("v", 2)
        .str("op", op)
        .str("ns", ns)
        .date("wall", 5);
    entry.nested("o", kind::DOCUMENT, |o| {
        o.int32("_id", id);
    });
    entry.finish();
    out
}

fn encoder(format: Format) -> Encoder {
    encoder_with(format, State::default(), None)
}

fn encoder_with(format: Format, state: State, end: Option<Position>) -> Encoder {
    let router = Router::new("cdc", NamespaceFilter::default(), state).as_saved();
    let topics = Topics::Nowhere {
        state_topic: "__cdc.state.rs0".to_owned(),
        partitions: 4,
    };
    let kept = Parts::Spooled(SpooledParts::default());
    let history = History::default();
    let transactions = Transactions::new(kept, history, true, Shutdown::manual());
    Encoder::new("rs0", format, router, topics, end, None, transactions)
}

fn encode(encoder: &mut Encoder, entries: &[Vec<u8>]) -> Result<Chunk, ProducerError> {
    let mut chunk = Chunk::default();
    let batch = Batch::Bytes(entries.concat());
    encoder.encode(&batch, &mut chunk, &mut |_| Ok(()))?;
    Ok(chunk)
}

fn text(chunk: &Chunk, range: &std::ops::Range<usize>) -> String {
    String::from_utf8_lossy(chunk.bytes(range)).into_owned()
}

#[test]
fn state_goes_ahead_of_the_first_record_and_the_position_counts_everything() {
    let mut encoder = encoder(Format::Bson);
    let entries = [
        entry(1, "i", "shop.a", 1),
        entry(2, "n", "", 0),
        entry(3, "i", "config.x", 1),
        entry(4, "d", "shop.a", 1),
    ];
    let chunk = encode(&mut encoder, &entries).unwrap();
    let names: Vec<&str> = chunk.new_topics.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["__cdc.state.rs0", "cdc.shop.a"]);
    let keys: Vec<_> = chunk
        .records
        .iter()
        .map(|r| text(&chunk, r.key.as_ref().unwrap()))
        .collect();
    assert_eq!(
        keys,
        [
            "topic/cdc.shop.a",
            "route/shop.a",
            r#"{"_id":1}"#,
            r#"{"_id":1}"#
        ]
    );
    let record = &chunk.records[2];
    let header = record.header.as_ref().unwrap();
    assert_eq!(
        (header.name, text(&chunk, &header.value)),
        (ID_HEADER, "rs0/1:1/0".to_owned())
    );
    assert_eq!(chunk.bytes(&record.value), entries[0]);
    assert_eq!(record.timestamp, 1000);
    assert_eq!(chunk.records[2].partition, chunk.records[3].partition);
    assert_eq!(
        chunk.reached.position,
        Some(Position {
            ts: Timestamp::new(4, 1),
            term: 3,
            ord: 0
        })
    );
    assert_eq!(
        (chunk.counts.entries, chunk.counts.filtered),
        ([2, 0, 1, 0, 1], 1)
    );
}

#[test]
fn raw_makes_one_frame_a_partition_and_keeps_no_key() {
    let mut encoder = encoder(Format::Raw);
    let entries: Vec<_> = (1..=100)
        .map(|i| entry(i, "i", "shop.a", i.cast_signed()))
        .collect();
    let chunk = encode(&mut encoder, &entries).unwrap();
    let frames: Vec<_> = chunk.records.iter().filter(|r| r.topic.0 == 1).collect();
    assert_eq!(frames.len(), 4);
    assert!(
        frames
            .iter()
            .all(|frame| frame.key.is_none() && frame.timestamp == 100_000)
    );
    let mut arena = chunk.arena.clone();
    let mut found = Vec::new();
    for frame in frames {
        let value = frame.value.clone();
        oplog_relay_core::format::decode(Format::Raw, value, None, &mut arena, &mut found).unwrap();
    }
    assert_eq!(found.len(), 100);
}

#[test]
fn json_records_are_change_events_without_headers() {
    let mut encoder = encoder(Format::Json(Mode::Relaxed));
    let chunk = encode(&mut encoder, &[entry(1, "i", "shop.a", 7)]).unwrap();
    let record = chunk.records.last().unwrap();
    assert!(record.header.is_none());
    assert!(
        text(&chunk, &record.value).starts_with(r#"{"_id":{"source":"rs0","ts":"1:1","ord":0}"#)
    );
}

fn command(seconds: u32, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut command = DocumentBuilder::start(&mut bytes);
    let ts = Timestamp::new(seconds, 1);
    command.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
    command.str("op", "c").str("ns", "shop.$cmd");
    command.nested("o", kind::DOCUMENT, |o| {
        o.str(name, "a");
    });
    command.finish();
    bytes
}

#[test]
fn commands_without_a_barrier_are_sent_unchanged_to_partition_0() {
    let mut encoder = encoder(Format::Bson);
    let bytes = command(1, "startIndexBuild");
    let chunk = encode(&mut encoder, std::slice::from_ref(&bytes)).unwrap();
    let record = chunk.records.last().unwrap();
    assert_eq!(chunk.new_topics[record.topic.0].name, "cdc.shop.-cmd");
    assert_eq!((record.partition, record.key.clone()), (0, None));
    assert_eq!(chunk.bytes(&record.value), bytes);
}

#[test]
fn a_command_ends_its_chunk_and_stands_behind_one_barrier_in_each_partition() {
    for format in [Format::Raw, Format::Bson, Format::Json(Mode::Canonical)] {
        let mut encoder = encoder(format);
        let entries = [
            entry(1, "i", "shop.a", 1),
            command(2, "drop"),
            entry(3, "i", "shop.a", 1),
        ];
        let mut chunks = Vec::new();
        let mut chunk = Chunk::default();
        let batch = Batch::Bytes(entries.concat());
        let mut hand_on = |chunk: &mut Chunk| {
            chunks.push(std::mem::take(chunk));
            Ok(())
        };
        encoder.encode(&batch, &mut chunk, &mut hand_on).unwrap();
        chunks.push(chunk);
        let [before, after] = &chunks[..] else {
            panic!("{} chunks", chunks.len())
        };
        assert!(after.barrier.is_none());
        let reached = before.reached.position.map(|end| end.ts);
        assert_eq!(reached, Some(Timestamp::new(2, 1)));
        let request = before.barrier.as_ref().unwrap();
        let ends = [vec![7, 8, 9, 10]];
        let mut out = Chunk::default();
        let bytes = before.bytes(&request.entry);
        request
            .write(bytes, "rs0", &["cdc.shop.a"], &ends, &mut out)
            .unwrap();
        let partitions: Vec<i32> = out.records.iter().map(|record| record.partition).collect();
        // The command comes last, after the barrier in its partition.
        assert_eq!(partitions, [0, 1, 2, 3, 0]);
        let mut found = Vec::new();
        let mut arena = out.arena.clone();
        for record in &out.records {
            let header = record.header.as_ref();
            let header = header.map(|header| out.bytes(&header.value).to_vec());
            let value = record.value.clone();
            oplog_relay_core::format::decode(
                format,
                value,
                header.as_deref(),
                &mut arena,
                &mut found,
            )
            .unwrap();
        }
        let entries = found
            .iter()
            .map(|decoded| Entry::parse(decoded.document(&arena).unwrap()).unwrap());
        let barriers: Vec<Barrier> = entries
            .map(|entry| Barrier::read(&entry).unwrap().unwrap())
            .collect();
        assert!(barriers.iter().all(|barrier| barrier.leader_offset == 7));
        let expected = TopicBarriers::new("cdc.shop.a", vec![7, 8, 9, 10]);
        assert_eq!(barriers[4].partitions, [expected]);
        let ords: Vec<u32> = found.iter().map(|decoded| decoded.id.ord).collect();
        assert_eq!(ords, [[BARRIER_ORD; 4].as_slice(), &[0]].concat());
    }
}

/// The delivery of this record proves to the publisher that the previous Kafka transaction is
/// complete.
#[test]
fn a_barrier_has_a_record_ahead_of_it_even_if_the_command_changes_nothing() {
    let mut encoder = encoder(Format::Bson);
    // A `create` without a UUID would be saved; a `drop` of an unknown collection changes nothing.
    let created = encode(&mut encoder, &[command(1, "drop")]).unwrap();
    let changed = encode(&mut encoder, &[command(2, "drop")]).unwrap();
    assert!(changed.barrier.is_some());
    let keys = |chunk: &Chunk| -> Vec<String> {
        let keys = chunk.records.iter().map(|record| record.key.as_ref());
        keys.map(|key| text(chunk, key.unwrap())).collect()
    };
    assert_eq!(keys(&changed), ["topic/cdc.shop.a"]);
    let mut state = State::default();
    saved_by(&created, &mut state);
    let before = state.clone();
    saved_by(&changed, &mut state);
    assert_eq!(state.topics, before.topics);
}

#[test]
fn a_time_that_goes_backwards_stops_the_stream() {
    let mut encoder = encoder(Format::Bson);
    let error = encode(
        &mut encoder,
        &[entry(2, "i", "a.b", 1), entry(1, "i", "a.b", 2)],
    );
    assert!(error.unwrap_err().to_string().contains("ts goes backwards"));
}

#[test]
fn a_damaged_document_stops_the_stream_after_the_entries_before_it() {
    let mut encoder = encoder(Format::Bson);
    let mut chunk = Chunk::default();
    let batch = Batch::Bytes([entry(1, "i", "a.b", 1), vec![9, 0, 0, 0, 0xee]].concat());
    assert!(encoder.encode(&batch, &mut chunk, &mut |_| Ok(())).is_err());
    encoder.complete(&mut chunk);
    assert_eq!(
        chunk.reached.position.map(|end| end.ts),
        Some(Timestamp::new(1, 1))
    );
}

/// Applies the records of the state topic in a chunk to the saved state.
fn saved_by(chunk: &Chunk, state: &mut State) {
    for record in chunk.records.iter().filter(|record| record.topic.0 == 0) {
        let key = text(chunk, record.key.as_ref().unwrap());
        state.apply(&key, Some(chunk.bytes(&record.value))).unwrap();
    }
}

/// Encodes entries from a position on under other rules; returns the chunks.
fn encode_changed(
    state: State,
    end: Position,
    rules: Rules,
    entries: &[Vec<u8>],
) -> (Vec<Chunk>, Encoder) {
    let encoder = encoder_with(rules.format, state, Some(end));
    let mut encoder = encoder.changing(4, Some(rules));
    let (mut chunks, mut chunk) = (Vec::new(), Chunk::default());
    let mut hand_on = |chunk: &mut Chunk| {
        chunks.push(std::mem::take(chunk));
        Ok(())
    };
    encoder.begin(&mut chunk, &mut hand_on).unwrap();
    let batch = Batch::Bytes(entries.concat());
    encoder.encode(&batch, &mut chunk, &mut hand_on).unwrap();
    chunks.push(chunk);
    (chunks, encoder)
}

#[test]
fn other_rules_begin_behind_a_barrier_that_is_saved_with_them() {
    let mut state = State::default();
    let first = encode(&mut encoder(Format::Bson), &[entry(1, "i", "shop.a", 1)]);
    saved_by(&first.unwrap(), &mut state);
    let end = Position {
        ts: Timestamp::new(1, 1),
        term: 3,
        ord: 0,
    };
    let rules = Rules {
        order: OrderRule::Collection,
        format: Format::Json(Mode::Canonical),
    };
    let later = [entry(2, "i", "shop.a", 1), entry(3, "i", "shop.a", 2)];
    let (chunks, _) = encode_changed(state.clone(), end, rules, &later);
    let with: Vec<&Chunk> = chunks
        .iter()
        .filter(|chunk| chunk.barrier.is_some())
        .collect();
    let [change] = with[..] else {
        panic!("{} barriers", with.len())
    };
    // The position stays, and the table has a new version.
    assert_eq!(
        (change.reached.position, change.reached.routing),
        (Some(end), 5)
    );
    let barrier = change.barrier.as_ref().unwrap();
    assert_eq!((barrier.id.ts, barrier.timestamp), (end.ts, 1999));
    saved_by(change, &mut state);
    let route = &state.routes["shop.a"];
    assert_eq!((route.order, route.rule), (Order::Collection, rules.order));
    let topic = &state.topics["cdc.shop.a"];
    assert_eq!(
        (topic.format, &topic.earlier[..]),
        (rules.format, &[Format::Bson][..])
    );
    let last = chunks.last().unwrap();
    assert!(last.records.iter().all(|record| record.partition == 0));
    assert!(last.records.iter().all(|record| record.header.is_none()));
    assert_eq!((last.records.len(), last.reached.routing), (2, 5));

    // In the other direction the change names the collection: a target has to make its unique indexes
    // non-unique.
    let rules = Rules {
        order: OrderRule::Id,
        format: Format::Bson,
    };
    let (chunks, _) = encode_changed(state, end, rules, &[entry(2, "i", "shop.a", 1)]);
    let change = chunks.iter().find(|chunk| chunk.barrier.is_some()).unwrap();
    let bytes = change.bytes(&change.barrier.as_ref().unwrap().entry);
    let noop = Entry::parse(Document::new(bytes).unwrap()).unwrap();
    let read = RoutingChange::read(&noop).unwrap().unwrap();
    let spread = SpreadCollection {
        ns: "shop.a".to_owned(),
        ui: None,
    };
    assert_eq!(read.spread, [spread]);
}

#[test]
fn a_change_of_the_format_alone_has_no_barrier_but_a_new_version() {
    let mut state = State::default();
    let first = encode(&mut encoder(Format::Bson), &[entry(1, "i", "shop.a", 1)]);
    saved_by(&first.unwrap(), &mut state);
    let end = Position {
        ts: Timestamp::new(1, 1),
        term: 3,
        ord: 0,
    };
    let rules = Rules {
        order: OrderRule::Auto,
        format: Format::Raw,
    };
    let (chunks, _) = encode_changed(state.clone(), end, rules, &[]);
    assert!(chunks.iter().all(|chunk| chunk.barrier.is_none()));
    for chunk in &chunks {
        saved_by(chunk, &mut state);
    }
    assert_eq!(state.topics["cdc.shop.a"].format, Format::Raw);
    assert_eq!(chunks.last().map(|chunk| chunk.reached.routing), Some(5));
}

#[test]
fn a_change_waits_for_the_end_of_a_transaction_that_was_sent_in_part() {
    let mut state = State::default();
    let first = encode(&mut encoder(Format::Bson), &[entry(1, "i", "shop.a", 1)]);
    saved_by(&first.unwrap(), &mut state);
    // One of the three inserts of an applyOps at 2:1 was sent.
    let mut bytes = Vec::new();
    let mut command = DocumentBuilder::start(&mut bytes);
    let ts = Timestamp::new(2, 1);
    command.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
    command.int64("t", 3).str("op", "c").str("ns", "admin.$cmd");
    command.nested("o", kind::DOCUMENT, |o| {
        o.nested("applyOps", kind::ARRAY, |list| {
            for index in 0..3 {
                list.nested(&index.to_string(), kind::DOCUMENT, |operation| {
                    operation.str("op", "i").str("ns", "shop.a");
                    operation.nested("o", kind::DOCUMENT, |o| {
                        o.int32("_id", index);
                    });
                });
            }
        });
    });
    command.finish();
    let end = Position {
        ts,
        term: 3,
        ord: 1,
    };
    let rules = Rules {
        order: OrderRule::Collection,
        format: Format::Raw,
    };
    let entries = [bytes, entry(3, "i", "shop.a", 9)];
    let (chunks, _) = encode_changed(state, end, rules, &entries);
    let place = chunks
        .iter()
        .position(|chunk| chunk.barrier.is_some())
        .unwrap();
    let (before, after) = chunks.split_at(place);
    let names = |chunks: &[Chunk]| -> Vec<&str> {
        let records = chunks.iter().flat_map(|chunk| &chunk.records);
        let data = records.filter(|record| record.topic.0 == 1);
        data.filter_map(|record| Some(record.header.as_ref()?.name))
            .collect()
    };
    assert_eq!(names(before), [ID_HEADER, ID_HEADER]);
    assert_eq!(names(after), [oplog_relay_core::format::RANGE_HEADER]);
    let barrier = after[0].barrier.as_ref().unwrap();
    assert_eq!(barrier.id.ts, ts);
    assert_eq!(
        after[0].reached.position.map(|end| (end.ts, end.ord)),
        Some((ts, 0))
    );
}
